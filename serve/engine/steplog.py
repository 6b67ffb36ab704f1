"""A line of JSON for each step, in a file: what ran together, and what waited, for benchmarks and for bad days."""

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StepLine:
    """at: Unix seconds of its start. seconds: that it took. passes: of the denoiser's calls, of which `filler` are
    nobody's. waiting: rows that were not begun then. encodes, decodes: since the step before.
    """

    at: float
    seconds: float
    key: str
    rows: int
    passes: int
    filler: int
    waiting: int
    encodes: int
    decodes: int


class StepLog:
    """path: None writes nothing. A file that can no longer be written ends the log, not the engine."""

    def __init__(self, path: Path | None) -> None:
        self._file = None
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a", buffering=1, encoding="utf-8")

    def write(self, line: StepLine) -> None:
        if self._file is None:
            return
        try:
            self._file.write(json.dumps(asdict(line)) + "\n")
        except OSError as error:
            log.warning("the log of steps ends here: %s", error)
            self._file = None

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
