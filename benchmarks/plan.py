"""Which request comes as the how-manieth: a plan answers that for any index, the same for the same seed.

`MixedPlan` draws from a workload, `ReplayedPlan` repeats the requests of a trace file. `rehearsal` gives requests of
the same kinds with other pictures, for what is sent before the measurement: it must not fill the server's caches with
what the measurement then asks for.
"""

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from benchmarks.pictures import MaskKey, PictureKey, Pictures
from benchmarks.workload import Kind, SeedRule, Value, Workload

MIX, EDIT, REHEARSAL = range(3)
"""Streams of random numbers of one seed."""
REHEARSED = 1_000_000
"""Requests and pictures with numbers from here on are those of rehearsals."""


@dataclass(frozen=True, slots=True)
class Slo:
    """By when an answer is in time: deadline_s from its arrival, or scale times the time that its kind takes alone.

    solo_s: that time where it is given; None: it is measured. Without deadline_s and scale any time is good.
    """

    deadline_s: float | None = None
    scale: float | None = None
    solo_s: float | None = None


@dataclass(frozen=True, slots=True)
class Edit:
    """One request. fields: of its body by their names in the API, beside the pictures, the model and the answer's form.

    rows: results it asks for. row_steps: steps it runs, summed over its rows; None where the model's defaults decide.
    """

    kind: str
    fields: Mapping[str, Value]
    images: tuple[PictureKey, ...]
    mask: MaskKey | None
    rows: int
    row_steps: int | None
    slo: Slo


class Plan(Protocol):
    """name and facts are recorded with a run; facts are JSON. length: how many requests there are; None is no end."""

    @property
    def name(self) -> str: ...
    @property
    def facts(self) -> dict[str, Any]: ...
    @property
    def seed(self) -> int: ...
    @property
    def length(self) -> int | None: ...
    @property
    def pictures(self) -> Pictures: ...
    @property
    def kinds(self) -> Sequence[str]: ...

    def edit(self, index: int) -> Edit:
        """The request of that index, from 0 and below `length`."""
        ...

    def picture_keys(self) -> Iterable[PictureKey]:
        """All pictures that its edits carry."""
        ...

    def rehearsal(self, kind: int, number: int) -> Edit:
        """Request `number` of the kind of that index, none that `edit` would give."""
        ...


@dataclass(frozen=True)
class MixedPlan:
    """Requests without end in the workload's mix.

    Each block of as many requests as all weights together holds each kind as often as its weight says, in random order,
    so that two plans of equal mean have done equal work at every block's end.
    """

    workload: Workload
    seed: int = 0
    pictures: Pictures = field(default_factory=Pictures)
    length: int | None = None

    @property
    def name(self) -> str:
        return self.workload.name

    @property
    def facts(self) -> dict[str, Any]:
        kinds = [kind.model_dump(mode="json", exclude_none=True) for kind in self.workload.kinds]
        mean = self.workload.mean_row_steps
        return {**self.workload.model_dump(mode="json"), "kinds": kinds, "mean_row_steps": mean}

    @property
    def kinds(self) -> list[str]:
        return [kind.name for kind in self.workload.kinds]

    def edit(self, index: int) -> Edit:
        weights = tuple(kind.weight for kind in self.workload.kinds)
        block, place = divmod(index, sum(weights))
        kind = self.workload.kinds[_mixed(weights, self.seed, block)[place]]
        return self._of(kind, index, index % kind.sources, np.random.default_rng([self.seed, EDIT, index]))

    def picture_keys(self) -> Iterable[PictureKey]:
        for kind in self.workload.kinds:
            for number in range(kind.sources * kind.images):
                yield PictureKey(*kind.picture_size, number)

    def rehearsal(self, kind: int, number: int) -> Edit:
        wanted = self.workload.kinds[kind]
        random = np.random.default_rng([self.seed, REHEARSAL, kind, number])
        return self._of(wanted, REHEARSED + number, REHEARSED + number % wanted.sources, random)

    def _of(self, kind: Kind, index: int, picture: int, random: np.random.Generator) -> Edit:
        prompts = kind.prompts or self.workload.prompts
        fields: dict[str, Value | None] = {
            "prompt": prompts[int(random.integers(len(prompts)))],
            "n": kind.n,
            "size": kind.size,
            "num_inference_steps": kind.steps,
            "strength": kind.strength,
            "guidance_scale": kind.guidance,
            "seed": _seed(kind.seed, self.seed, index * kind.n, random),
            **kind.extra,
        }
        width, height = kind.picture_size
        return Edit(
            kind=kind.name,
            fields={name: value for name, value in fields.items() if value is not None},
            images=tuple(PictureKey(width, height, picture * kind.images + place) for place in range(kind.images)),
            mask=None if kind.mask == "none" else MaskKey(width, height, kind.mask),
            rows=kind.n,
            row_steps=kind.row_steps,
            slo=Slo(kind.deadline_s, kind.slo_scale, kind.solo_s),
        )


@dataclass(frozen=True)
class ReplayedPlan:
    """The requests of a trace, in its order, once."""

    name: str
    edits: tuple[Edit, ...]
    seed: int = 0
    pictures: Pictures = field(default_factory=Pictures)

    @property
    def length(self) -> int:
        return len(self.edits)

    @property
    def facts(self) -> dict[str, Any]:
        counts = {kind: sum(edit.kind == kind for edit in self.edits) for kind in self.kinds}
        return {"name": self.name, "description": f"{len(self.edits)} requests of a trace", "kinds": counts}

    @property
    def kinds(self) -> list[str]:
        return list(dict.fromkeys(edit.kind for edit in self.edits))

    def edit(self, index: int) -> Edit:
        return self.edits[index]

    def picture_keys(self) -> Iterable[PictureKey]:
        return (image for edit in self.edits for image in edit.images)

    def rehearsal(self, kind: int, number: int) -> Edit:
        name = self.kinds[kind]
        edit = next(edit for edit in self.edits if edit.kind == name)
        images = tuple(
            PictureKey(image.width, image.height, REHEARSED + number + place, image.file)
            for place, image in enumerate(edit.images)
        )
        return Edit(edit.kind, edit.fields, images, edit.mask, edit.rows, edit.row_steps, edit.slo)


@functools.lru_cache(maxsize=64)
def _mixed(weights: tuple[int, ...], seed: int, block: int) -> tuple[int, ...]:
    """The kinds of one block of requests, as indices, in their order."""
    kinds = np.repeat(np.arange(len(weights)), weights)
    return tuple(int(kind) for kind in np.random.default_rng([seed, MIX, block]).permutation(kinds))


def _seed(rule: SeedRule, seed: int, offset: int, random: np.random.Generator) -> int:
    if rule == "random":
        return int(random.integers(2**62))
    return seed if rule == "fixed" else seed + offset
