"""Fingerprints of a component's code: what of a change in a source file makes its engines stale."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp

import pytest

from serve.backends.fingerprint import of_code
from serve.families.flux_kontext_components import Dimensions, specs

SOURCE = '''
from torch import Tensor, nn

from drawn.parts import halved

SCALE = 3


class Net(nn.Module):
    """What it is."""

    def forward(self, x: Tensor) -> Tensor:
        return doubled(x) * SCALE + halved(x)


def doubled(x: Tensor) -> Tensor:
    return x * 2  # exactly


def unrelated(x: Tensor) -> Tensor:
    return x
'''
PARTS = "def halved(x):\n    return x / 2\n"
Written = Callable[[str, str], str]


@pytest.fixture
def fingerprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Written:
    """Of `Net` in a package of these two files."""

    def written(source: str, parts: str = PARTS) -> str:
        for name in [name for name in sys.modules if name.partition(".")[0] == "drawn"]:
            del sys.modules[name]
        folder = Path(mkdtemp(dir=tmp_path))  # Python keeps the lines of a file that it has seen
        (folder / "drawn").mkdir()
        for name, text in {"__init__": "", "net": source, "parts": parts}.items():
            (folder / "drawn" / f"{name}.py").write_text(text)
        monkeypatch.syspath_prepend(str(folder))
        return of_code(importlib.import_module("drawn.net").Net)

    return written


@pytest.mark.parametrize(
    ("old", "new"),
    [("doubled(x) * SCALE", "doubled(x) / SCALE"), ("x * 2", "x * 2.5"), ("SCALE = 3", "SCALE = 4")],
    ids=["its own statements", "a function that it calls", "a constant that it reads"],
)
def test_code_that_computes_something_else_is_told_apart(fingerprint: Written, old: str, new: str):
    assert fingerprint(SOURCE, PARTS) != fingerprint(SOURCE.replace(old, new), PARTS)


def test_what_it_takes_from_another_file_of_its_package_counts(fingerprint: Written):
    assert fingerprint(SOURCE, PARTS) != fingerprint(SOURCE, PARTS.replace("/ 2", "/ 4"))


@pytest.mark.parametrize(
    ("old", "new"),
    [("What it is.", "What it was."), ("  # exactly", ""), ("return x\n", "return -x\n"), ("x * 2", "(x  *  2)")],
    ids=["a docstring", "a comment", "another function of the file", "layout"],
)
def test_code_that_computes_the_same_is_the_same(fingerprint: Written, old: str, new: str):
    assert old in SOURCE
    assert fingerprint(SOURCE, PARTS) == fingerprint(SOURCE.replace(old, new), PARTS)


def test_every_component_of_a_family_has_code_of_its_own():
    dimensions = Dimensions("float32", 4, 16, 77, 16, 10, 10, 8, 8, (4, 4, 4))

    codes = [spec.code for spec in specs(dimensions)]

    assert all(codes)
    assert len(set(codes)) == len(codes)
