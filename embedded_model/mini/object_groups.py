"""Groups of drawn objects: edits of scenes, and objects and colours that come from a second picture."""

import random
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from embedded_model.mini.batch import Pairs
from embedded_model.mini.object_words import DEFAULT_PLACE, colour_transfer, insertion, object_instruction
from embedded_model.mini.objects import (
    is_object_held_out,
    random_edit,
    random_ground,
    random_object,
    visible_colours,
)
from embedded_model.mini.picture_groups import some_as_scenes
from embedded_model.mini.scenes import PLACES, Ground, Object, draw, draw_ground, draw_objects, scene

SHARE_OF_PHOTOGRAPHS = 0.5  # as grounds that objects are drawn on
COLOUR_TRANSFER = "colours of the second picture"
LEAST_GAIN, MOST_GAIN = 0.35, 3.0  # of the spread of colours, so that beside a flat picture something remains
# To luma and two differences of colour, and back (ITU-R BT.601).
TO_OPPONENT = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
FROM_OPPONENT = ((1.0, 0.0, 1.402), (1.0, -0.344136, -0.714136), (1.0, 1.772, 0.0))


@dataclass(frozen=True)
class Objects:
    """One object is added, removed, recoloured, moved or replaced."""

    weight: float

    def make(
        self, photographs: Tensor, generator: torch.Generator, words: random.Random, *, held_out: bool = False
    ) -> Pairs:
        size = (photographs.shape[-2], photographs.shape[-1])
        grounds = [random_ground(words, SHARE_OF_PHOTOGRAPHS) for _ in range(len(photographs))]
        edits = [random_edit(words, ground, held_out=held_out) for ground in grounds]
        before = scene(grounds, [edit.before for edit in edits], photographs)
        after = scene(grounds, [edit.after for edit in edits], photographs)
        ground = draw_ground(before, size)
        asked = tuple(object_instruction(edit, words, held_out=held_out) for edit in edits)
        return Pairs(draw_objects(before, ground), draw_objects(after, ground), asked, tuple(map(str, edits)))


@dataclass(frozen=True)
class Insertions:
    """The object of the second picture, as large as there, comes into the first: to a named place, or to the centre."""

    weight: float

    def make(
        self, photographs: Tensor, generator: torch.Generator, words: random.Random, *, held_out: bool = False
    ) -> Pairs:
        size = (photographs.shape[-2], photographs.shape[-1])
        rows = [_random_insertion(words, held_out) for _ in range(len(photographs))]
        grounds = [row.ground for row in rows]
        before = scene(grounds, [row.before for row in rows], photographs)
        after = scene(grounds, [(*row.before, row.inserted) for row in rows], photographs)
        shown = scene([row.reference_ground for row in rows], [[row.shown] for row in rows], photographs)
        ground = draw_ground(before, size)
        return Pairs(
            source=draw_objects(before, ground),
            target=draw_objects(after, ground),
            instructions=tuple(insertion(r.shown, r.inserted.place, words, held_out=held_out) for r in rows),
            edits=tuple(f"insert {row.inserted}" for row in rows),
            reference=draw(shown, size),
        )


@dataclass(frozen=True)
class ColourTransfers:
    """The colours of the second picture, which is the next photograph of the batch; beside one alone, a drawn scene.

    E. Reinhard et al., Color Transfer between Images, 2001: mean and spread of each channel of an opponent space.
    """

    weight: float

    def make(
        self, photographs: Tensor, generator: torch.Generator, words: random.Random, *, held_out: bool = False
    ) -> Pairs:
        alone = len(photographs) == 1
        reference = some_as_scenes(photographs, words, share=1) if alone else photographs.roll(1, 0)
        asked = tuple(colour_transfer(words, held_out=held_out) for _ in range(len(photographs)))
        target = with_colours_of(photographs, reference)
        return Pairs(photographs, target, asked, (COLOUR_TRANSFER,) * len(asked), reference=reference)


def with_colours_of(pictures: Tensor, references: Tensor) -> Tensor:
    """Each picture (B, 3, H, W) with the mean and spread of the colours of its reference."""
    values, wanted = _opponent(pictures), _opponent(references)
    spread, wanted_spread = (v.std(dim=-1, keepdim=True) for v in (values, wanted))
    gain = (wanted_spread / (spread + 1e-3)).clamp(LEAST_GAIN, MOST_GAIN)
    values = (values - values.mean(dim=-1, keepdim=True)) * gain + wanted.mean(dim=-1, keepdim=True)
    return (values.new_tensor(FROM_OPPONENT) @ values).view_as(pictures).clamp(0, 1)


def _opponent(pictures: Tensor) -> Tensor:
    return pictures.new_tensor(TO_OPPONENT) @ pictures.flatten(2)


@dataclass(frozen=True)
class _Insertion:
    ground: Ground
    before: tuple[Object, ...]
    reference_ground: Ground
    shown: Object
    inserted: Object


def _random_insertion(words: random.Random, held_out: bool) -> _Insertion:
    while True:
        attempt = _attempt(words)
        thing = attempt.inserted
        if is_object_held_out(thing.colour, thing.shape, thing.place) == held_out:
            return attempt


def _attempt(words: random.Random) -> _Insertion:
    ground = random_ground(words, SHARE_OF_PHOTOGRAPHS)
    reference_ground = replace(random_ground(words, 0), kind="plain")
    place, *others = words.sample(PLACES, words.randint(1, 4))
    if words.random() < 0.4:
        place, others = DEFAULT_PLACE, [p for p in others if p != DEFAULT_PLACE]
    colours = visible_colours(ground)
    both = [c for c in visible_colours(reference_ground) if c in colours] or colours
    shown = random_object(words, words.choice(PLACES), both, trained_only=False)
    before = tuple(random_object(words, p, colours) for p in others)
    return _Insertion(ground, before, reference_ground, shown, replace(shown, place=place, offset=(0.0, 0.0)))
