"""Edits of drawn scenes: what is asked of which object, chosen by a generator of random words."""

import math
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from embedded_model.mini.filters import RGB
from embedded_model.mini.held_out import is_held_out
from embedded_model.mini.scenes import COLOURS, PLACES, RADII, Ground, Object
from embedded_model.mini.shapes import SHAPES

VERBS = ("add", "remove", "recolour", "move", "replace")
MAX_OBJECTS = 5
MAX_OFFSET = 0.12  # in shorter sides of a cell
VISIBLE_DISTANCE = 0.4  # between the colours of an object and of what it is drawn on, in RGB
PATTERNS = ("plain", "gradient", "stripes", "checker")

Paint = tuple[str, str]  # colour and shape


@dataclass(frozen=True)
class ObjectEdit:
    """`subject`, one of the objects `before`, becomes `result`; None where an object comes or goes."""

    verb: str
    before: tuple[Object, ...]
    subject: Object | None
    result: Object | None

    @property
    def after(self) -> tuple[Object, ...]:
        kept = tuple(o for o in self.before if o is not self.subject)
        return kept if self.result is None else (*kept, self.result)

    @property
    def main_object(self) -> Object:
        """The object that decides whether the edit is held out: as it becomes, or as it was if it goes."""
        main = self.result or self.subject
        assert main is not None
        return main

    def __str__(self) -> str:
        match self.verb, self.subject, self.result:
            case "recolour", subject, Object(colour=colour):
                return f"recolour {subject} to {colour}"
            case "move", subject, Object(place=place):
                return f"move {subject} to {place}"
            case "replace", subject, Object(colour=colour, shape=shape):
                return f"replace {subject} with {colour} {shape}"
            case verb, _, _:
                return f"{verb} {self.main_object}"


def is_object_held_out(colour: str, shape: str, place: str) -> bool:
    return is_held_out(colour, shape, place)


def random_ground(words: random.Random, photograph_share: float) -> Ground:
    if words.random() < photograph_share:
        return Ground("photograph")
    first, second = _random_colour(words), _random_colour(words)
    return Ground(words.choice(PATTERNS), first, second, words.uniform(0, 2 * math.pi), words.uniform(20, 72))


def visible_colours(ground: Ground) -> Sequence[str]:
    """Names of the colours that stand out from a ground; a photograph may hide any."""
    if ground.kind == "photograph":
        return tuple(COLOURS)
    shown = [ground.first]
    if ground.kind != "plain":
        shown.append(ground.second)
    if ground.kind == "gradient":
        shown.extend(_mixed(ground.first, ground.second, share) for share in (0.25, 0.5, 0.75))
    return tuple(n for n, c in COLOURS.items() if all(math.dist(c, s) > VISIBLE_DISTANCE for s in shown))


def random_edit(words: random.Random, ground: Ground, *, held_out: bool = False) -> ObjectEdit:
    """An edit of a scene in which no two objects are alike; of held-out combinations only its main object is one."""
    colours = visible_colours(ground)
    while True:
        edit = _attempt(words, colours)
        if edit is not None and _is_main_object_held_out(edit) == held_out:
            return edit


def random_object(
    words: random.Random,
    place: str,
    colours: Collection[str],
    taken: Collection[Paint] = (),
    *,
    trained_only: bool = True,
) -> Object:
    """An object unlike those `taken`, somewhere around the middle of its place."""
    paints = TRAINED_PAINTS[place] if trained_only else ALL_PAINTS
    colour, shape = words.choice(paints)
    while colour not in colours or (colour, shape) in taken:
        colour, shape = words.choice(paints)
    size = words.choice(tuple(RADII))
    reach = min(MAX_OFFSET, 0.48 - RADII[size])
    return Object(shape, colour, place, size, (words.uniform(-reach, reach), words.uniform(-reach, reach)))


def _attempt(words: random.Random, colours: Sequence[str]) -> ObjectEdit | None:
    verb = words.choice(VERBS)
    count = words.randint(0, MAX_OBJECTS - 1) if verb == "add" else words.randint(1, MAX_OBJECTS)
    free, *places = words.sample(PLACES, count + 1)
    before: list[Object] = []
    for place in places:
        going = verb == "remove" and not before
        before.append(random_object(words, place, colours, _paints(before), trained_only=not going))
    subject = None if verb == "add" else before[0]
    result = _result(verb, subject, free, words, colours)
    words.shuffle(before)
    edit = ObjectEdit(verb, tuple(before), subject, result)
    return edit if len(set(_paints(edit.after))) == len(edit.after) else None


def _result(
    verb: str, subject: Object | None, free: str, words: random.Random, colours: Sequence[str]
) -> Object | None:
    if subject is None:
        return replace(random_object(words, free, colours, trained_only=False), offset=(0.0, 0.0))
    other_colours = [c for c in colours if c != subject.colour]
    match verb:
        case "recolour":
            return replace(subject, colour=words.choice(other_colours))
        case "move":
            return replace(subject, place=free, offset=(0.0, 0.0))
        case "replace":
            colour = subject.colour if words.random() < 0.5 else words.choice(other_colours)
            return replace(subject, shape=words.choice([s for s in SHAPES if s != subject.shape]), colour=colour)
        case _:
            return None


def _is_main_object_held_out(edit: ObjectEdit) -> bool:
    main = edit.main_object
    return is_object_held_out(main.colour, main.shape, main.place)


def _paints(objects: Sequence[Object]) -> list[Paint]:
    return [(o.colour, o.shape) for o in objects]


def _random_colour(words: random.Random) -> RGB:
    """Any colour, but rarely a strong one, so that objects stand out."""
    grey, strength = words.uniform(0.1, 0.95), words.uniform(0, 0.35)
    red, green, blue = (min(max(grey + strength * words.uniform(-1, 1), 0.0), 1.0) for _ in range(3))
    return red, green, blue


def _mixed(first: RGB, second: RGB, share: float) -> RGB:
    red, green, blue = (a + share * (b - a) for a, b in zip(first, second, strict=True))
    return red, green, blue


ALL_PAINTS: Sequence[Paint] = [(colour, shape) for colour in COLOURS for shape in SHAPES]
TRAINED_PAINTS: Mapping[str, Sequence[Paint]] = MappingProxyType(
    {p: [(c, s) for c, s in ALL_PAINTS if not is_object_held_out(c, s, p)] for p in PLACES}
)
