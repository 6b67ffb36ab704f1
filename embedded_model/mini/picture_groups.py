"""Groups of edits of whole pictures: one, two in their order, or none."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from embedded_model.mini.batch import Pairs
from embedded_model.mini.edits import EDITS, IDENTITY, apply_each
from embedded_model.mini.held_out import is_held_out
from embedded_model.mini.object_words import object_instruction
from embedded_model.mini.objects import ObjectEdit, random_edit, random_ground
from embedded_model.mini.scenes import Ground, Object, draw, scene
from embedded_model.mini.tones import TINTS, TONES
from embedded_model.mini.words import combination, instruction, nothing

SCENES_SHARE = 0.15  # of the sources are drawn scenes, the others photographs
SHARE_OF_TONES = 0.6  # of the edits that go with a tone are tones too
ABSENT_SHARE = 0.25  # of the requests for nothing name an object that is not there

SENSELESS: frozenset[frozenset[str]] = frozenset(
    frozenset(pair)
    for pair in (
        ("brighter", "darker"),
        ("brighter", "night"),
        ("darker", "night"),
        ("warmer", "cooler"),
        ("saturated", "desaturated"),
        ("saturated", "black_and_white"),
        ("desaturated", "black_and_white"),
        ("black_and_white", "sepia"),
        ("black_and_white", "emboss"),
        ("black_and_white", "pencil"),
        ("desaturated", "sepia"),
        ("desaturated", "pencil"),
        ("desaturated", "emboss"),
        ("saturated", "pencil"),
        ("saturated", "emboss"),
        ("warmer", "emboss"),
        ("blur", "pixelated"),
    )
)


@dataclass(frozen=True)
class Single:
    """One edit of the whole picture."""

    weight: float
    names: Sequence[str]

    def make(
        self, photographs: Tensor, generator: torch.Generator, words: random.Random, *, held_out: bool = False
    ) -> Pairs:
        source = some_as_scenes(photographs, words)
        names = words.choices(self.names, k=len(source))
        asked = tuple(instruction(name, words, held_out=held_out) for name in names)
        return Pairs(source, apply_each(source, names), asked, tuple(names))


@dataclass(frozen=True)
class Double:
    """A tone and another edit, one after the other; the order matters and is that of the words."""

    weight: float

    def make(
        self, photographs: Tensor, generator: torch.Generator, words: random.Random, *, held_out: bool = False
    ) -> Pairs:
        source = some_as_scenes(photographs, words)
        chosen = [_two_edits(words, held_out) for _ in range(len(source))]
        firsts, seconds = ([pair[i] for pair in chosen] for i in range(2))
        target = apply_each(apply_each(source, firsts), seconds)
        asked = tuple(combination(pair, words, held_out=held_out) for pair in chosen)
        return Pairs(source, target, asked, tuple(double_name(*pair) for pair in chosen))


@dataclass(frozen=True)
class Nothing:
    """Nothing is asked, or something unknown, or something of an object that is not there: the target is the source."""

    weight: float

    def make(
        self, photographs: Tensor, generator: torch.Generator, words: random.Random, *, held_out: bool = False
    ) -> Pairs:
        rows = [self._row(words, held_out) for _ in range(len(photographs))]
        source = _drawn(photographs, [row[0] for row in rows], [row[1] for row in rows])
        return Pairs(source, source, tuple(row[2] for row in rows), (IDENTITY,) * len(rows))

    def _row(self, words: random.Random, held_out: bool) -> tuple[Ground, Sequence[Object], str]:
        """A ground, what is drawn on it, and what is asked."""
        if words.random() < ABSENT_SHARE:
            ground = random_ground(words, 0.5)
            edit = _edit_of_an_object(words, ground)
            return ground, _without_likes_of_its_subject(edit), object_instruction(edit, words, held_out=held_out)
        if words.random() < SCENES_SHARE:
            ground = random_ground(words, 0.5)
            return ground, random_edit(words, ground).before, nothing(words, held_out=held_out)
        return Ground("photograph"), (), nothing(words, held_out=held_out)


def double_name(first: str, second: str) -> str:
    return f"{first}, then {second}"


def some_as_scenes(photographs: Tensor, words: random.Random, share: float = SCENES_SHARE) -> Tensor:
    """The photographs, a share of them replaced by drawn scenes."""
    rows = [row for row in range(len(photographs)) if words.random() < share]
    if not rows:
        return photographs
    grounds = [random_ground(words, 0.3) for _ in rows]
    pictures = photographs.clone()
    pictures[rows] = _drawn(photographs[rows], grounds, [random_edit(words, g).before for g in grounds])
    return pictures


def _drawn(photographs: Tensor, grounds: Sequence[Ground], objects: Sequence[Sequence[Object]]) -> Tensor:
    return draw(scene(grounds, objects, photographs), (photographs.shape[-2], photographs.shape[-1]))


def _two_edits(words: random.Random, held_out: bool) -> tuple[str, str]:
    table = HELD_OUT_PARTNERS if held_out else TRAINED_PARTNERS
    tone = words.choice(tuple(table))
    partners = table[tone]
    alike = [p for p in partners if p in TONES]
    if alike and (len(alike) == len(partners) or words.random() < SHARE_OF_TONES):
        partners = alike
    other = words.choice(partners)
    return (tone, other) if words.random() < 0.5 else (other, tone)


def _partners(*, held_out: bool) -> dict[str, Sequence[str]]:
    table = {t: [e for e in EDITS if _go_together(t, e) and is_held_out(*sorted((t, e))) == held_out] for t in TONES}
    return {tone: partners for tone, partners in table.items() if partners}


def _go_together(tone: str, edit: str) -> bool:
    both_tints = all(name.removeprefix("tint_") in TINTS for name in (tone, edit))
    return tone != edit and not both_tints and frozenset((tone, edit)) not in SENSELESS


def _edit_of_an_object(words: random.Random, ground: Ground) -> ObjectEdit:
    while True:
        edit = random_edit(words, ground)
        if edit.subject is not None:
            return edit


def _without_likes_of_its_subject(edit: ObjectEdit) -> tuple[Object, ...]:
    subject = edit.subject
    assert subject is not None
    return tuple(o for o in edit.before if o.colour != subject.colour and o.shape != subject.shape)


TRAINED_PARTNERS: Mapping[str, Sequence[str]] = MappingProxyType(_partners(held_out=False))
HELD_OUT_PARTNERS: Mapping[str, Sequence[str]] = MappingProxyType(_partners(held_out=True))
