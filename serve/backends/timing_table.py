"""Tables of how long components take and how much memory, as the simulated backend keeps them: YAML files.

Between the points of a table everything is on straight lines; beyond the last one the last line goes on, but never
falls; before the first one its value holds. A single point holds everywhere.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TypeVar

import numpy as np
import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from serve import strict_yaml
from serve.errors import ConfigurationError

SHIPPED = Path(__file__).parent / "timings"
SUFFIXES = (".yaml", ".yml")
DEFAULT = "default"
"""The entry of components that have none of their own."""

Count = Annotated[int, Field(ge=1)]
Bytes = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class _Sized(_Part):
    """What holds for calls of one size.

    tokens: the size, how many positions the first output has: a denoiser's latent tokens, an autoencoder's latent
    cells or pixels.
    """

    tokens: Count = 1


class Timing(_Sized):
    """seconds: of a call, by its rows."""

    seconds: dict[Count, Seconds] = Field(min_length=1)


class RowBytes(_Sized):
    """bytes: what each row of a call takes beside the weights while it runs."""

    bytes: Bytes


Size = TypeVar("Size", bound=_Sized)


def _with_different_sizes(points: list[Size]) -> list[Size]:
    if len({point.tokens for point in points}) < len(points):
        raise ValueError("of several entries each needs `tokens` of its own")
    return points


BySize = Annotated[list[Size], Field(min_length=1), AfterValidator(_with_different_sizes)]


class MemoryTable(_Part):
    """weights_bytes: of all components together. bytes_per_row: by component."""

    weights_bytes: Bytes = 0
    bytes_per_row: dict[str, BySize[RowBytes]] = {}


class TimingTable(_Part):
    """source: where the figures are from. components: the timings of each, or of `default`, one for each size."""

    source: str = Field(min_length=1)
    components: dict[str, BySize[Timing]] = Field(min_length=1)
    memory: MemoryTable = MemoryTable()

    def knows(self, component: str) -> bool:
        return component in self.components or DEFAULT in self.components

    def seconds(self, component: str, batch: int, tokens: int) -> float:
        """Of one call of a component that the table knows."""
        timings = self.components.get(component) or self.components[DEFAULT]
        return _on_line([(timing.tokens, _on_line(list(timing.seconds.items()), batch)) for timing in timings], tokens)

    def bytes_per_row(self, component: str, tokens: int) -> int:
        """0 where the table says nothing of the component."""
        sizes = self.memory.bytes_per_row.get(component) or self.memory.bytes_per_row.get(DEFAULT, [])
        return round(_on_line([(size.tokens, size.bytes) for size in sizes], tokens)) if sizes else 0


def load_table(name: str) -> TimingTable:
    """name: of a table that comes along, or the path of a YAML file. Raises ConfigurationError that names the key."""
    path = Path(name) if name.endswith(SUFFIXES) else SHIPPED / f"{name}.yaml"
    if not name.endswith(SUFFIXES) and name not in shipped():
        raise ConfigurationError(
            f"simulated.timings {name!r} is none of {', '.join(shipped())}, nor the path of a {SUFFIXES[0]} file"
        )
    try:
        return TimingTable.model_validate(_read(path))
    except ValidationError as error:
        raise ConfigurationError(f"timings {path}: {_sentence(error)}") from None


def shipped() -> list[str]:
    """The names of the tables that come along."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def _read(path: Path) -> object:
    try:
        return strict_yaml.load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"timings {path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"timings {path} is no good YAML: {' '.join(str(error).split())}") from None


def _sentence(error: ValidationError) -> str:
    """The first fault: its key and what is wrong with it."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"] if part != "[key]")
    said = first["msg"].removeprefix("Value error, ")
    if not key:
        return said
    if first["type"] == "extra_forbidden":
        return f"unknown key {key}"
    if first["type"] == "missing":
        return f"key {key} is missing"
    shown = "" if isinstance(first["input"], dict | list) else f" (found {first['input']!r})"
    return f"key {key}: {said}{shown}"


def _on_line(points: Sequence[tuple[int, float]], x: int) -> float:
    """points: (x, y) in any order, at least one."""
    xs, ys = zip(*sorted(points), strict=True)
    if len(xs) == 1 or x <= xs[-1]:
        return float(np.interp(x, xs, ys))
    slope = (ys[-1] - ys[-2]) / (xs[-1] - xs[-2])
    return ys[-1] + max(0.0, slope) * (x - xs[-1])
