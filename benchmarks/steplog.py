"""A server's step log: one line of JSON for each step of its engine, written where a model's `step_log` is set."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from benchmarks.errors import BenchError


@dataclass(frozen=True, slots=True)
class Step:
    """One step. at: Unix seconds of its start; seconds: how long it took. key: what its rows have in common.

    rows: of requests, passes: of the denoiser with the fillers among them. waiting: rows that did not fit in. decodes,
    encodes: pictures that went through the autoencoder beside it.
    """

    at: float
    seconds: float
    rows: int
    passes: int = 0
    filler: int = 0
    waiting: int = 0
    decodes: int = 0
    encodes: int = 0
    key: str = ""


_STEP = TypeAdapter(Step)


def read(path: Path) -> list[Step]:
    """The steps of a log by their time; a last line that is still being written is left out. Raises BenchError."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except (OSError, UnicodeDecodeError) as error:
        raise BenchError(f"step log {path} cannot be read: {error}") from None
    whole = [(number, line) for number, line in enumerate(lines, 1) if line.endswith("\n") and line.strip()]
    return sorted((_step(f"{path}:{number}", line) for number, line in whole), key=lambda step: step.at)


def _step(where: str, line: str) -> Step:
    try:
        return _STEP.validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        raise BenchError(f"{where} is no step: {'.'.join(map(str, first['loc']))} {first['msg']}") from None
