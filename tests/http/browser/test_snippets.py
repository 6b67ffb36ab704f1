"""What is copied from the page runs as it is, and draws the same."""

import json
import shutil
import subprocess
import sys

import httpx
import pytest

from tests import pictures
from tests.http.api import pixels
from tests.http.browser.playground import PHOTO, SIZE, Playground
from tests.http.conftest import KONTEXT, TINY

PROMPT = """it's "black" & white; $HOME `date` \\n 100% @naïve ☕"""
RUN_S = 120


def _drawn(playground: Playground, model: str) -> bytes:
    playground.ask(model=model, prompt=PROMPT, seed=2**64 - 5, num_inference_steps=2, strength=0.9)
    references = [pictures.rgb(SIZE, 1)] if model == KONTEXT else []
    playground.choose(PHOTO, *references, names=["it's; a, cup.png", "it's; a, cup.png"][: 1 + len(references)])
    playground.paint((0.2, 0.2), (0.7, 0.7))
    playground.edit()
    return playground.download()


def _ran(playground: Playground, *command: str) -> str:
    done = subprocess.run(
        command, cwd=playground.folder, capture_output=True, text=True, check=False, timeout=RUN_S, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
@pytest.mark.parametrize("model", [TINY, KONTEXT])
def test_the_copied_curl_draws_the_same(playground: Playground, http: httpx.Client, model: str) -> None:
    drawn = _drawn(playground, model)
    answer = json.loads(_ran(playground, "bash", "-c", playground.snippet("curl")))
    assert http.get(answer["data"][0]["url"]).content == drawn


@pytest.mark.parametrize("model", [TINY, KONTEXT])
def test_the_copied_python_draws_the_same(playground: Playground, model: str) -> None:
    drawn = _drawn(playground, model)
    (playground.folder / "edit.py").write_text(playground.snippet("Python"), encoding="utf-8")
    _ran(playground, sys.executable, "edit.py")
    assert (playground.folder / "edited-0.png").read_bytes() == drawn
    assert pixels(drawn).any()


def test_with_a_key_it_is_read_from_the_environment(playground: Playground) -> None:
    playground.page.evaluate("() => sessionStorage.setItem('retouch-api-key', 'secret')")
    playground.choose(PHOTO)
    playground.ask()
    for language in ("curl", "Python"):
        code = playground.snippet(language)
        assert "RETOUCH_API_KEY" in code
        assert "secret" not in code
