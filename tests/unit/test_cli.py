"""The commands, each run whole: edit and models against a real HTTP server, serve up to where Ray begins."""

import base64
import io
import json
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from serve.cli import main
from serve.cli.serve import welcome
from serve.settings import ServerSettings
from tests.unit.peer import Answer, Asked, listening, refusal

MIB = 2**20


@dataclass(frozen=True)
class Ended:
    code: int | str | None
    out: str
    err: str


class Terminal:
    """Runs commands in this process and reads what they print."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: object) -> Ended:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        printed = self._capsys.readouterr()
        return Ended(ended.value.code, printed.out, printed.err)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(capsys)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "cat.png"
    Image.new("RGB", (8, 6), "red").save(path)
    return path


def edited(*results: bytes, seed: int = 7) -> Answer:
    data = [{"b64_json": base64.b64encode(result).decode(), "seed": seed + i} for i, result in enumerate(results)]
    return Answer({"created": 1, "model": "tiny", "size": "512x512", "output_format": "png", "data": data})


def sent(asked: Asked, field: str = "images") -> Image.Image:
    """The picture in the request, decoded by Pillow."""
    text = asked.json[field]
    data = base64.b64decode(text if isinstance(text, str) else text[0])
    picture = Image.open(io.BytesIO(data))
    assert picture.format == "PNG"
    assert len(data) <= 4 * MIB
    return picture


def noise(size: tuple[int, int]) -> Image.Image:
    """A picture that no compression makes smaller."""
    width, height = size
    levels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(levels)


def test_an_edit_is_written_beside_the_photo_and_told_with_its_seed(run: Terminal, photo: Path):
    with listening(edited(b"result")) as peer:
        ended = run("edit", photo, "make it blue", "--url", peer.url)
    target = photo.with_name("cat-edited.png")
    assert target.read_bytes() == b"result"
    assert (ended.code, ended.out) == (0, f"{target}  seed 7\n")
    assert "512x512 by tiny" in ended.err


def test_a_png_that_fits_is_sent_byte_for_byte(run: Terminal, photo: Path):
    with listening(edited(b"result")) as peer:
        run("edit", photo, "make it blue", "--url", peer.url)
    assert peer.asked[0].json == {
        "images": [base64.b64encode(photo.read_bytes()).decode()],
        "prompt": "make it blue",
        "output_format": "png",
        "response_format": "b64_json",
        "stream": True,
    }


def test_every_option_reaches_the_server_under_the_apis_name(run: Terminal, photo: Path, tmp_path: Path):
    asked = [
        "--strength",
        "0.6",
        "--steps",
        "12",
        "--guidance",
        "4",
        "--seed",
        "-7",
        "--n",
        "2",
        "--size",
        "512x512",
        "--model",
        "tiny",
        "--priority",
        "high",
    ]
    paths = "--mask", photo, "--image", photo, "--image", photo, "-o", tmp_path / "out.webp"
    with listening(edited(b"1", b"2")) as peer:
        ended = run("edit", photo, "make it blue", *asked, *paths, "--url", peer.url)
    body = peer.asked[0].json
    assert ended.code == 0
    assert len(body.pop("images")) == 3
    assert base64.b64decode(body.pop("mask")) == photo.read_bytes()
    assert body == {
        "prompt": "make it blue",
        "strength": 0.6,
        "num_inference_steps": 12,
        "guidance_scale": 4,
        "seed": -7,
        "n": 2,
        "size": "512x512",
        "model": "tiny",
        "priority": "high",
        "output_format": "webp",
        "response_format": "b64_json",
        "stream": True,
    }


def test_several_results_are_numbered(run: Terminal, photo: Path, tmp_path: Path):
    with listening(edited(b"first", b"second")) as peer:
        ended = run("edit", photo, "make it blue", "--n", 2, "-o", tmp_path / "out.png", "--url", peer.url)
    assert [(tmp_path / f"out-{number}.png").read_bytes() for number in (1, 2)] == [b"first", b"second"]
    assert ended.out == f"{tmp_path}/out-1.png  seed 7\n{tmp_path}/out-2.png  seed 8\n"


@pytest.mark.parametrize(("name", "form"), [("a.png", "png"), ("a.JPG", "jpeg"), ("a.webp", "webp")])
def test_the_results_format_is_what_its_name_ends_in(run: Terminal, photo: Path, tmp_path: Path, name: str, form: str):
    with listening(edited(b"result")) as peer:
        run("edit", photo, "make it blue", "-o", tmp_path / name, "--url", peer.url)
    assert peer.asked[0].json["output_format"] == form
    assert (tmp_path / name).exists()


def test_a_format_without_a_name_names_the_result(run: Terminal, photo: Path):
    with listening(edited(b"result")) as peer:
        run("edit", photo, "make it blue", "--output-format", "jpeg", "--url", peer.url)
    assert photo.with_name("cat-edited.jpg").exists()


@pytest.mark.parametrize("form", ["JPEG", "WEBP", "BMP"])
def test_a_photo_that_is_no_png_is_converted_and_the_user_told(run: Terminal, tmp_path: Path, form: str):
    path = tmp_path / "cat.photo"
    Image.new("RGB", (8, 6), "red").save(path, form, **({"lossless": True} if form == "WEBP" else {}))
    original = Image.open(path).convert("RGB")
    with listening(edited(b"result")) as peer:
        ended = run("edit", path, "make it blue", "--url", peer.url)
    assert sent(peer.asked[0]).tobytes() == original.tobytes()
    assert f"{path} is {form}; it is sent as PNG\n" in ended.err


def test_a_photo_taken_sideways_is_sent_upright(run: Terminal, tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 6), "red").save(tmp_path / "cat.jpg", exif=exif)
    with listening(edited(b"result")) as peer:
        run("edit", tmp_path / "cat.jpg", "make it blue", "--url", peer.url)
    assert sent(peer.asked[0]).size == (6, 8)


@pytest.mark.parametrize("mode", ["CMYK", "L", "P", "I;16", "LA", "F"])
def test_a_photo_of_any_colour_mode_is_sent_with_the_colours_it_shows(run: Terminal, tmp_path: Path, mode: str):
    path = tmp_path / "cat.tiff"
    levels = np.full((6, 8), 40000, dtype=np.uint16)
    picture = Image.fromarray(levels) if mode == "I;16" else Image.new("L", (8, 6), 156).convert(mode)
    picture.save(path)
    with listening(edited(b"result")) as peer:
        ended = run("edit", path, "make it blue", "--url", peer.url)
    assert ended.code == 0
    assert np.allclose(np.asarray(sent(peer.asked[0]).convert("RGB")), 156, atol=2)


def test_a_photo_over_the_limit_is_reduced_with_its_mask_and_the_user_told(run: Terminal, tmp_path: Path):
    noise((1600, 1200)).save(tmp_path / "cat.png")
    mask = Image.new("L", (1600, 1200), 0)
    mask.paste(255, (0, 0, 800, 1200))
    mask.save(tmp_path / "mask.png")
    assert (tmp_path / "cat.png").stat().st_size > 4 * MIB
    with listening(edited(b"result")) as peer:
        ended = run("edit", tmp_path / "cat.png", "make it blue", "--mask", tmp_path / "mask.png", "--url", peer.url)
    picture, sent_mask = sent(peer.asked[0]), sent(peer.asked[0], "mask")
    width, height = picture.size
    assert pytest.approx(width / height, rel=0.01) == 4 / 3
    assert width * height > 1_000_000
    assert f"a PNG of 1600x1200; it is sent as PNG of {width}x{height}, to fit in 4 MiB\n" in ended.err
    assert sent_mask.size == (width, height)
    assert np.asarray(sent_mask)[:, : width // 2 - 2].min() == 255
    assert np.asarray(sent_mask)[:, width // 2 + 2 :].max() == 0


def test_a_mask_of_another_size_than_a_reduced_photo_is_refused(run: Terminal, photo: Path, tmp_path: Path):
    noise((1600, 1200)).save(tmp_path / "big.png")
    ended = run("edit", tmp_path / "big.png", "make it blue", "--mask", photo)
    assert (ended.code, ended.err) == (2, f"retouch: {photo} is 8x6; a mask has its photo's size, 1600x1200\n")


def test_the_servers_refusal_is_one_line(run: Terminal, photo: Path):
    with listening(refusal(400, "strength is 1.5; 0.0 to 1.0 is allowed")) as peer:
        ended = run("edit", photo, "make it blue", "--url", peer.url)
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.splitlines()[-1] == "retouch: strength is 1.5; 0.0 to 1.0 is allowed"
    assert not photo.with_name("cat-edited.png").exists()


def test_a_busy_server_is_waited_for_and_the_user_told(run: Terminal, photo: Path):
    with listening(refusal(429, "busy", {"retry-after": "0"}), edited(b"result")) as peer:
        ended = run("edit", photo, "make it blue", "--url", peer.url)
    assert (ended.code, len(peer.asked)) == (0, 2)
    assert "The server is busy and asks to come back in 0 s\n" in ended.err


def test_no_server_at_the_address_is_an_exit_code_of_its_own(run: Terminal, photo: Path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
    ended = run("edit", photo, "make it blue", "--url", url)
    assert ended.code == 3
    assert ended.err.splitlines()[-1] == f"retouch: no server answers at {url}; `retouch serve` starts one"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["missing.png", "x"], "missing.png cannot be read: No such file or directory"),
        (["text.png", "x"], "text.png is no picture that can be read; PNG, JPEG and WebP can"),
        (["cat.png", "x", "-o", "out.gif"], "--output out.gif must end in one of .png, .jpg, .jpeg, .webp"),
        (["cat.png", "x", "-o", "no/out.png"], "the folder of --output no/out.png is not there"),
        (["cat.png", "x", "-o", "cat.png"], "the result would replace cat.png; give another --output"),
        (["cat.png", "x", "--mask", "m-2.png", "--n", "2", "-o", "m.png"], "the result would replace m-2.png; "),
        (["cat.png", "x", "-o", "out.png", "--output-format", "webp"], "--output out.png and --output-format webp "),
        (["cat.png", "x", "--url", "127.0.0.1:8000"], "'127.0.0.1:8000' is no URL of a server; "),
    ],
)
def test_what_cannot_work_is_one_line_before_any_request(
    run: Terminal, photo: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
):
    monkeypatch.chdir(photo.parent)
    Path("text.png").write_text("no picture")
    Path("m-2.png").write_bytes(photo.read_bytes())
    before = photo.read_bytes()
    ended = run("edit", *arguments)
    assert ended.code == 2
    assert ended.err.startswith(f"retouch: {said}")
    assert ended.err.count("\n") == 1
    assert photo.read_bytes() == before


def test_a_missing_prompt_is_wrong_usage(run: Terminal, photo: Path):
    assert run("edit", photo).code == 2


def test_the_models_are_listed_with_their_sizes_and_defaults(run: Terminal):
    tiny: dict[str, Any] = {
        "id": "retouch-tiny",
        "aliases": ["small"],
        "sizes": ["256x256", "512x512"],
        "defaults": {"num_inference_steps": 8, "strength": 1.0},
    }
    with listening(Answer({"object": "list", "data": [tiny, {"id": "other"}]})) as peer:
        ended = run("models", "--url", peer.url)
    assert (ended.code, peer.asked[0].path) == (0, "/v1/models")
    lines = [line.split() for line in ended.out.splitlines()]
    assert lines[1] == ["retouch-tiny", "small", "256x256", "num_inference_steps", "8"]
    assert lines[2] == ["512x512", "strength", "1.0"]
    assert lines[3] == ["other"]


def test_an_unknown_configuration_key_stops_the_start_and_names_itself(run: Terminal, tmp_path: Path):
    config = tmp_path / "retouch.yaml"
    config.write_text("server:\n  prot: 8000\n")
    ended = run("serve", "--config", config)
    assert (ended.code, ended.err) == (2, f"retouch: unknown configuration key server.prot in {config}\n")


def test_a_flag_that_a_variable_overrules_stops_the_start(run: Terminal, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RETOUCH_SERVER__PORT", "8001")
    ended = run("serve", "--port", 8002)
    assert (ended.code, ended.err) == (2, "retouch: --port 8002 and the variable RETOUCH_SERVER__PORT disagree\n")


def test_a_taken_port_stops_the_start_before_ray_is_loaded(tmp_path: Path):
    command = "import sys, serve.cli\ntry: serve.cli.main(sys.argv[1:])\nfinally: print('ray' in sys.modules)"
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        ended = _python(command, "serve", "--port", str(port))
    said = f"retouch: port {port} of 127.0.0.1 is taken; stop what listens there, or choose another with --port\n"
    assert (ended.returncode, ended.stdout, ended.stderr) == (3, "False\n", said)


def test_a_host_that_is_not_this_machine_stops_the_start(run: Terminal):
    ended = run("serve", "--host", "192.0.2.1")
    assert ended.code == 3
    assert ended.err == "retouch: port 8000 of 192.0.2.1 cannot be listened on: Cannot assign requested address\n"


@pytest.mark.parametrize(
    ("host", "url"),
    [("127.0.0.1", "http://127.0.0.1:8080"), ("0.0.0.0", "http://127.0.0.1:8080"), ("::1", "http://[::1]:8080")],
)
def test_the_screen_when_ready_names_an_address_that_can_be_called(host: str, url: str):
    screen = welcome(ServerSettings(host=host, port=8080))
    assert f"Open {url} in a browser" in screen
    assert f"curl -s {url}/v1/images/edits" in screen
    assert f"--url {url}" in screen
    assert f'httpx.post("{url}/v1/images/edits"' in screen


def test_help_needs_neither_ray_nor_torch():
    command = """
import json, sys, serve.cli
try: serve.cli.main(["edit", "--help"])
finally: print(json.dumps([name for name in ("ray", "torch", "numpy", "serve.settings") if name in sys.modules]))
"""
    ended = _python(command)
    assert json.loads(ended.stdout.splitlines()[-1]) == []
    assert "--strength" in ended.stdout


def _python(command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", command, *arguments], capture_output=True, text=True, check=False, timeout=60
    )
