"""The shapes that an engine was built for, and what a caller is told who asks for others."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

from pydantic import BaseModel, ConfigDict

from serve.errors import UnsupportedParameter
from serve.types import ComponentSpec, Size


class Asked(BaseModel):
    """The options of `retouch build-engines` that shapes follow from: sizes of the pictures drawn, counts of the
    references read beside them, rows of the denoiser's batches."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sizes: tuple[Size, ...] = ()
    references: tuple[int, ...] = ()
    batches: tuple[int, ...] = ()

    def words(self) -> list[str]:
        """As the command takes them."""
        sizes = ",".join(f"{width}x{height}" for width, height in self.sizes)
        counts = {"--references": self.references, "--batch": self.batches}
        words = ["--sizes", sizes] if sizes else []
        for option, numbers in counts.items():
            words += [option, ",".join(map(str, numbers))] if numbers else []
        return words


class Range(BaseModel):
    """The lengths of every axis from `low` to `high`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    low: dict[str, int]
    high: dict[str, int]

    def outside(self, lengths: Mapping[str, int]) -> list[str]:
        """The axes whose length it does not take."""
        return [name for name, low in self.low.items() if not low <= lengths[name] <= self.high[name]]


class Shapes(BaseModel):
    """A profile each: the lengths of every call in `static` exactly, then each of `ranges`. asked: what they were
    made from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    static: tuple[dict[str, int], ...] = ()
    ranges: tuple[Range, ...] = ()
    asked: Asked = Asked()

    @property
    def rows(self) -> int | None:
        """Of the largest batch; None where any is taken."""
        return max((one.high["batch"] for one in self.ranges), default=None)

    def profile(self, lengths: Mapping[str, int]) -> int | None:
        """That a call of these lengths runs with: the one of exactly them, else the first range that takes them. None:
        the engine was not built for them."""
        for index, static in enumerate(self.static):
            if all(lengths[name] == length for name, length in static.items()):
                return index
        for index, one in enumerate(self.ranges, len(self.static)):
            if not one.outside(lengths):
                return index
        return None


Advice = Callable[[Asked], str]
"""How to build an engine for what is asked, as the end of a sentence."""


def limited(spec: ComponentSpec, rows: int | None) -> ComponentSpec:
    """The component with a limit to its batch."""
    axes = tuple(
        replace(axis, opt=min(axis.opt, rows), max=min(axis.max, rows)) if rows and axis.name == "batch" else axis
        for axis in spec.axes
    )
    return replace(spec, axes=axes)


def unbuilt(spec: ComponentSpec, shapes: Shapes, lengths: Mapping[str, int], advice: Advice) -> UnsupportedParameter:
    """To raise where `shapes` has no profile for the lengths."""
    nearest = min(shapes.ranges, key=lambda one: len(one.outside(lengths)))
    outside = nearest.outside(lengths)
    found = ", ".join(f"{name} {nearest.low[name]} to {nearest.high[name]} (found {lengths[name]})" for name in outside)
    param = next((axis.param for axis in spec.axes if axis.name in outside and not axis.of), "size")
    what = "pictures of this size cannot be made" if param == "size" else "these pictures cannot be read together"
    return UnsupportedParameter(
        f"{what}: the engine of the {spec.name} was built for {found}; {advice(_more(shapes, spec, nearest, lengths))}",
        param=param,
    )


def _more(shapes: Shapes, spec: ComponentSpec, nearest: Range, lengths: Mapping[str, int]) -> Asked:
    """With the count of references that the call has. A range takes the picture drawn, which is read as well, and as
    many references as were asked for at the most, each about as long."""
    asked, counts = shapes.asked, shapes.asked.references
    read = [axis.name for axis in spec.axes if axis.param == "images" and lengths[axis.name] > nearest.high[axis.name]]
    if not read or not counts:
        return asked
    pictures = max(lengths[name] / nearest.high[name] for name in read) * (1 + max(counts))
    return asked.model_copy(update={"references": (*counts, math.ceil(pictures) - 1)})
