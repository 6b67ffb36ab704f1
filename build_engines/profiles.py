"""Which shapes a plan is tuned for and which it takes, from the pictures that a model draws and reads."""

from collections.abc import Callable, Mapping, Sequence
from math import prod

from build_engines.inputs import complete
from serve.backends.shapes import Asked, Range, Shapes
from serve.backends.triton_words import DENOISER
from serve.codec import largest_drawn, largest_read, square_reference
from serve.errors import ConfigurationError
from serve.types import ComponentSpec, ModelFacts, Size

ROOM = 2
"""How many times larger a range may be than the largest picture in it: its corner, where all axes are longest, is no
picture, but TensorRT must find kernels and memory for it."""

Lengths = Callable[[Size, Sequence[Size]], Mapping[str, int]]
"""`Family.lengths`."""


def tuned(spec: ComponentSpec, lengths: Lengths, facts: ModelFacts, asked: Asked) -> Shapes:
    """A static profile for each picture, count of references and batch that is asked for, and ranges for whatever else
    the model draws and reads. Only the denoiser runs more than one row at a time (`serve.engine.runner`)."""
    square = square_reference(facts)
    drawn = [lengths(size, (square,) * count) for size in asked.sizes for count in asked.references]
    batches = asked.batches if spec.name == DENOISER else (1,)
    shapes = shapes_of(spec, drawn, batches, _largest(spec, lengths, facts, max(asked.references)))
    return shapes.model_copy(update={"asked": asked})


def shapes_of(
    spec: ComponentSpec,
    drawn: Sequence[Mapping[str, int]],
    batches: Sequence[int],
    largest: Sequence[Mapping[str, int]] = (),
) -> Shapes:
    """Static shapes of each picture at each batch, and ranges from the smallest lengths declared to the largest here.

    drawn: the lengths of all axes but the batch, the most important ones first. largest: others, that ranges take.
    """
    names = [axis.name for axis in spec.axes if axis.name != "batch"]
    sizes = dict.fromkeys(tuple(each[name] for name in names) for each in drawn)
    static = tuple({**dict(zip(names, size, strict=True)), "batch": batch} for size in sizes for batch in batches)
    ranges = tuple(_range(spec, {**high, "batch": max(batches)}) for high in _covers(spec, [*drawn, *largest]))
    return Shapes(static=static if names else (), ranges=ranges)


def refuse_pictures(model: str, facts: ModelFacts, asked: Asked) -> None:
    """Raises ConfigurationError where the model never draws such a size, or reads so many references."""
    highest = dict(largest_drawn(facts))
    for width, height in asked.sizes:
        if height % facts.multiple or not facts.draw_min <= height <= highest.get(width, 0):
            raise ConfigurationError(
                f"{model} never draws {width}x{height}: sides are {facts.draw_min} to {facts.draw_max} pixels, "
                f"multiples of {facts.multiple}, and the area is about 1024x1024 at most"
            )
    if max(asked.references) >= facts.max_images:
        raise ConfigurationError(
            f"{model} reads {facts.max_images - 1} references beside the picture at most; {max(asked.references)} are "
            "asked for"
        )


def _largest(spec: ComponentSpec, lengths: Lengths, facts: ModelFacts, references: int) -> list[Mapping[str, int]]:
    """Of all axes, for pictures of every aspect."""
    drawn, read = largest_drawn(facts), largest_read(facts)
    own = [axis for axis in spec.axes if axis.name != "batch" and not axis.of]
    if all(axis.param == "images" for axis in own):  # pictures come one by one, references as well
        return [lengths(size, ()) for size in (*drawn, *read)]
    most = max(read, key=prod, default=None)
    return [lengths(size, (most,) * references if most else ()) for size in drawn]


def _covers(spec: ComponentSpec, pictures: Sequence[Mapping[str, int]]) -> list[dict[str, int]]:
    """The highest lengths of few ranges that together take all pictures, none of them larger than `ROOM` allows: wide
    and high pictures of one area have one that takes all of them only where that area is squared."""
    own = [axis.name for axis in spec.axes if axis.name != "batch" and not axis.of]
    sizes = sorted({tuple(each[name] for name in own) for each in pictures})
    most = ROOM * max(map(prod, sizes))
    covers: list[tuple[int, ...]] = []
    for size in sizes:
        grown = tuple(map(max, covers[-1], size)) if covers else size
        if prod(grown) <= most:
            covers[-1:] = [grown]
        else:
            covers.append(size)
    return [dict(zip(own, cover, strict=True)) for cover in covers]


def _range(spec: ComponentSpec, high: Mapping[str, int]) -> Range:
    low = {axis.name: min(axis.min, high[axis.name]) for axis in spec.axes if axis.name in high}
    return Range(low=complete(spec, low), high=complete(spec, high))
