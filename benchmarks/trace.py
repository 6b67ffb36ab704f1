"""Trace files: when requests arrived, and what they asked for.

`read_times` takes one number a line, in seconds, with `#` for remarks; or a trace of requests that have timestamps. The
earliest counts as 0. `read_plan` takes a trace of requests, in the text form of vLLM-Omni's diffusion benchmark, one a
line:

    Request(request_id='req-0001', prompt='a fox in snow', width=640, height=640, num_inference_steps=24, timestamp=1.5)

Read of each: prompt (or text), width, height, num_inference_steps, seed, timestamp (seconds),
slo_ms, image_path or image_paths (from the trace's folder), and beyond that form strength, guidance_scale and n.
Ignored: request_id, num_frames, fps and everything else, told by `ignored`. A request without a picture gets a made one
of its width and height. Its output size is that where the API has it, else `auto`, which keeps the picture's aspect and
draws at most 1024x1024 pixels.
"""

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.errors import BenchError
from benchmarks.pictures import PictureKey, Pictures
from benchmarks.plan import Edit, ReplayedPlan, Slo
from benchmarks.workload import Value, steps_run

SIZES = frozenset({"256x256", "512x512", "1024x1024"})
READ = frozenset(
    {"prompt", "text", "width", "height", "num_inference_steps", "seed", "timestamp", "slo_ms"}
    | {"image_path", "image_paths", "strength", "guidance_scale", "n"}
)
PROMPT = "make it black and white"
SIDE = 1024
"""Pixels of a side that the trace does not tell."""


@dataclass(frozen=True, slots=True)
class Row:
    """One request of a trace. where: its file and line, told in errors."""

    where: str
    values: Mapping[str, object]

    def number(self, name: str) -> float | None:
        value = self.values.get(name)
        if value is None:
            return None
        try:
            return float(str(value))
        except ValueError:
            raise BenchError(f"{self.where}: {name} is {value!r}, not a number") from None

    def integer(self, name: str) -> int | None:
        value = self.number(name)
        return None if value is None else int(value)


def is_trace(path: Path) -> bool:
    """Whether the file holds requests that `read_plan` reads; False where it cannot be read."""
    try:
        with path.open(encoding="utf-8") as file:
            return any(line.startswith("Request(") for line in file)
    except (OSError, UnicodeDecodeError):
        return False


def read_times(path: Path) -> tuple[float, ...]:
    """Arrival times in seconds, in order, the first of them at 0. Raises BenchError."""
    lines = _lines(path)
    if any(text.startswith("Request(") for _, text in lines):
        times = _timestamps(path)
    else:
        times = [_seconds(where, text) for where, text in lines]
    return tuple(sorted(at - min(times) for at in times))


def read_plan(path: Path, seed: int = 0, pictures: Pictures | None = None) -> ReplayedPlan:
    """The requests of a trace, in the order of their timestamps where they have them. Raises BenchError."""
    rows = _rows(path)
    if all("timestamp" in row.values for row in rows):
        rows = sorted(rows, key=lambda row: row.number("timestamp") or 0.0)
    edits = tuple(_edit(row, path.parent, number, seed) for number, row in enumerate(rows))
    return ReplayedPlan(path.name, edits, seed, pictures or Pictures(seed))


def ignored(path: Path) -> list[str]:
    """Names of the fields in a trace that are not read."""
    return sorted({name for row in _rows(path) for name in row.values} - READ)


def _timestamps(path: Path) -> list[float]:
    rows = _rows(path)
    without = next((row for row in rows if row.values.get("timestamp") is None), None)
    if without:
        raise BenchError(f"{without.where} has no timestamp; give the arrivals by a rate or a concurrency")
    return [row.number("timestamp") or 0.0 for row in rows]


def _seconds(where: str, text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        raise BenchError(f"{where}: {text!r} is no time in seconds") from None
    if not 0 <= seconds < float("inf"):
        raise BenchError(f"{where}: {text} is no time from 0 on")
    return seconds


def _lines(path: Path) -> list[tuple[str, str]]:
    """(where, text) of each line that says something."""
    try:
        texts = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BenchError(f"trace {path} cannot be read: {error}") from None
    said = ((f"{path}:{number}", _without_remark(text).strip()) for number, text in enumerate(texts, 1))
    lines = [(where, text) for where, text in said if text]
    if not lines:
        raise BenchError(f"trace {path} is empty")
    return lines


def _without_remark(text: str) -> str:
    """A prompt may hold the sign."""
    return text if text.startswith("Request(") else text.partition("#")[0]


def _rows(path: Path) -> list[Row]:
    return [Row(where, _values(where, text)) for where, text in _lines(path)]


def _values(where: str, text: str) -> dict[str, object]:
    """The keyword arguments of a line that reads like a call. Only literals are taken; nothing is run."""
    try:
        call = ast.parse(text, mode="eval").body
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "Request"):
            raise BenchError(f"{where} does not read Request(...)")
        return {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords if keyword.arg}
    except (SyntaxError, ValueError):
        raise BenchError(f"{where} does not read Request(name=value, ...)") from None


def _edit(row: Row, folder: Path, number: int, seed: int) -> Edit:
    width, height = row.integer("width") or SIDE, row.integer("height") or SIDE
    steps, strength, rows = row.integer("num_inference_steps"), row.number("strength"), row.integer("n") or 1
    slo_ms, own_seed = row.number("slo_ms"), row.integer("seed")
    asked = f"{width}x{height}"
    fields: dict[str, Value | None] = {
        "prompt": str(row.values.get("prompt") or row.values.get("text") or PROMPT),
        "n": rows,
        "size": asked if asked in SIZES else "auto",
        "num_inference_steps": steps,
        "strength": strength,
        "guidance_scale": row.number("guidance_scale"),
        "seed": seed + number if own_seed is None else own_seed,
    }
    return Edit(
        kind=f"{asked}, {'default' if steps is None else steps} steps",
        fields={name: value for name, value in fields.items() if value is not None},
        images=_images(row, folder, (width, height), number),
        mask=None,
        rows=rows,
        row_steps=None if steps is None else rows * steps_run(steps, strength),
        slo=Slo(deadline_s=None if slo_ms is None else slo_ms / 1000),
    )


def _images(row: Row, folder: Path, size: tuple[int, int], number: int) -> tuple[PictureKey, ...]:
    several = row.values.get("image_paths")
    named = several if isinstance(several, list | tuple) and several else [row.values.get("image_path")]
    files = [folder / str(name) for name in named if name]
    missing = next((file for file in files if not file.is_file()), None)
    if missing:
        raise BenchError(f"{row.where}: there is no picture {missing}")
    return tuple(PictureKey(*size, number, file) for file in files or [None])
