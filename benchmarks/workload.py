"""What is asked of a server: a weighted mix of kinds of edits, from a small YAML file.

`load` reads a workload that comes along by its name (`mixed`), or any file by its path. A key that is unknown, stands
twice or has a value that is refused ends it with a `BenchError` that names the key.
"""

from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from benchmarks.errors import BenchError

FOLDER = Path(__file__).parent / "workloads"
OWN_FIELDS = frozenset({"model", "images", "image", "mask", "prompt", "n", "size", "response_format"})
"""Of the request; the harness sets them itself."""

Value = str | int | float | bool
SizeText = Annotated[str, StringConstraints(pattern=r"^[1-9]\d{1,3}x[1-9]\d{1,3}$")]
Prompt = Annotated[str, StringConstraints(min_length=1, max_length=32_000)]
Mask = Literal["none", "half", "centre", "soft"]
SeedRule = Literal["fixed", "sweep", "random"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Kind(_Section):
    """One kind of edit.

    weight: how many of `sum of all weights` consecutive requests are of it. size: of the results, as the API takes it.
    picture: pixels of the source pictures; by default those of `size`. images: pictures a request. mask: `half` edits
    the left half, `centre` the middle, `soft` fades from left to right. seed: `fixed`, the run's seed for every
    request; `sweep`, that and the numbers after it; `random`, drawn from the run's seed. sources: how many different
    pictures the requests take turns with; 1 is the same source for all. steps, strength and guidance: the model's own
    where they are left out. deadline_s: within which the answer counts as in time; or slo_scale, times the time that
    the kind takes alone: solo_s where given, else measured. extra: further fields of the request's body.
    """

    name: Annotated[str, StringConstraints(min_length=1, max_length=60)]
    weight: int = Field(default=1, ge=1, le=1000)
    size: SizeText | Literal["auto"] = "512x512"
    picture: SizeText | None = None
    images: int = Field(default=1, ge=1, le=10)
    mask: Mask = "none"
    n: int = Field(default=1, ge=1, le=10)
    steps: int | None = Field(default=None, ge=1, le=1000)
    strength: float | None = Field(default=None, ge=0, le=1)
    guidance: float | None = Field(default=None, ge=0)
    seed: SeedRule = "random"
    sources: int = Field(default=64, ge=1, le=10_000)
    prompts: list[Prompt] = Field(default_factory=list)
    deadline_s: float | None = Field(default=None, gt=0)
    slo_scale: float | None = Field(default=None, gt=0)
    solo_s: float | None = Field(default=None, gt=0)
    extra: dict[str, Value] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _fields_fit_together(self) -> Self:
        if self.size == "auto" and self.picture is None:
            raise ValueError("size auto needs picture: the source's pixels decide the size")
        if self.deadline_s is not None and self.slo_scale is not None:
            raise ValueError("deadline_s and slo_scale exclude each other")
        own = sorted(self.extra.keys() & OWN_FIELDS)
        if own:
            raise ValueError(f"extra.{own[0]} is a field that the harness sets itself")
        return self

    @property
    def picture_size(self) -> tuple[int, int]:
        """(width, height) of the source pictures, in pixels."""
        width, height = (self.picture or self.size).split("x")
        return int(width), int(height)

    @property
    def row_steps(self) -> int | None:
        """Steps that a request runs, summed over its `n` rows; a strength that is left out counts as 1.

        None where `steps` is the model's own.
        """
        return None if self.steps is None else self.n * steps_run(self.steps, self.strength)


class Workload(_Section):
    """name and description are told in reports. prompts: of the kinds that have none of their own."""

    name: str
    description: str = ""
    prompts: list[Prompt] = Field(default=["make it black and white"], min_length=1)
    kinds: list[Kind] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        names = [kind.name for kind in self.kinds]
        doubled = next((name for name in names if names.count(name) > 1), None)
        if doubled is not None:
            raise ValueError(f"the name {doubled} is that of two kinds")
        return self

    @property
    def mean_row_steps(self) -> float | None:
        """Row-steps of a request in the mean over the mix; None where a kind leaves its steps to the model."""
        weighted = [(kind.weight, kind.row_steps) for kind in self.kinds]
        known = [(weight, steps) for weight, steps in weighted if steps is not None]
        if len(known) < len(weighted):
            return None
        return sum(weight * steps for weight, steps in known) / sum(weight for weight, _ in known)


def steps_run(steps: int, strength: float | None) -> int:
    """Steps that a request of that strength runs: `max(1, floor(steps * strength))` in decimals, none at 0."""
    if strength == 0:
        return 0
    return steps if strength is None else max(1, int(Decimal(repr(strength)) * steps))


def shipped() -> list[str]:
    """Names of the workloads that come along."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load(name_or_path: str) -> Workload:
    """A workload that comes along, or the file at a path. Raises BenchError."""
    path = FOLDER / f"{name_or_path}.yaml" if name_or_path in shipped() else Path(name_or_path)
    return parse(_text(path), str(path))


def parse(text: str, origin: str) -> Workload:
    """origin: told in errors. Raises BenchError."""
    try:
        values = yaml.load(text, _OnceOnlyLoader)
    except yaml.YAMLError as error:
        raise BenchError(f"workload {origin} is no good YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise BenchError(f"workload {origin} must be a mapping of keys, not {type(values).__name__}")
    try:
        return Workload.model_validate(values)
    except ValidationError as error:
        raise BenchError(f"workload {origin}: {_sentence(error)}") from None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        known = ", ".join(shipped())
        raise BenchError(f"{path} is neither a file nor one of the workloads that come along: {known}") from None
    except OSError as error:
        raise BenchError(f"workload {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise BenchError(f"workload {path} is no text in UTF-8") from None


class _OnceOnlyLoader(yaml.SafeLoader):
    """YAML in which a key stands once: PyYAML would keep the last one and drop the others in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        doubled = next((name for name in names if names.count(name) > 1), None)
        if doubled is not None:
            raise yaml.constructor.ConstructorError(None, None, f"the key {doubled} occurs twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _sentence(error: ValidationError) -> str:
    first = error.errors()[0]
    key = _key(first["loc"])
    if first["type"] == "extra_forbidden":
        return f"unknown key {key}"
    if first["type"] == "missing":
        return f"the key {key} is missing"
    said = first["msg"].removeprefix("Value error, ")
    shown = "" if isinstance(first["input"], Mapping | Kind | Workload) else f" (found {first['input']!r})"
    return f"{key}: {said}{shown}" if key else said


def _key(place: tuple[int | str, ...]) -> str:
    """`kinds[1].steps`, without what pydantic adds for a member of a union."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in place if not _is_union_member(part))
    return "".join(parts).lstrip(".")


def _is_union_member(part: int | str) -> bool:
    return isinstance(part, str) and (part in ("str", "int", "float", "bool", "constrained-str") or "[" in part)
