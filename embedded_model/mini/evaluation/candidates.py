"""What an output might be taken for, group by group: the alternatives to the edit that was asked for.

An edit is *right* when its target is nearer to the output, in squared error, than every alternative. An alternative
that looks the same (`SAME_DB`) is none. A hole's filling is compared without fine detail. The chance of a guess is one
in the number of alternatives and the target.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch
from torch import Tensor

from embedded_model.mini.edits import EDITS, IDENTITY, apply
from embedded_model.mini.evaluation.cases import SAME_DB, Case
from embedded_model.mini.evaluation.scores import psnr_db, squared_error
from embedded_model.mini.filters import blur
from embedded_model.mini.mask_groups import grown
from embedded_model.mini.object_groups import COLOUR_TRANSFER, with_colours_of
from embedded_model.mini.objects import ObjectEdit
from embedded_model.mini.picture_groups import HELD_OUT_PARTNERS, TRAINED_PARTNERS, double_name
from embedded_model.mini.scenes import COLOURS, PLACES, RADII, Ground, Object, draw_ground, draw_objects, scene
from embedded_model.mini.shapes import SHAPES

AFAR = 32
RIM_PX = 8  # around a hole, whose colour a flat filling has

Named = tuple[str, Tensor]
"""An alternative: what it would be, and its picture (3, H, W)."""
PICTURES_AT_ONCE = 8  # that an edit is applied to


@dataclass(frozen=True)
class Judgement:
    """nearest: what the output is nearest to, the edit's own name where that is its target."""

    nearest: str
    right: bool
    alternatives: int


def judged(case: Case, outputs: Sequence[Tensor]) -> list[Judgement]:
    """What each output of a case is nearest to."""
    seen = _from_afar if case.group == "repairs" else _as_it_is
    shown, target = seen(torch.stack(list(outputs))), seen(case.target)
    errors, names = [squared_error(shown, target, case.region)], [case.edit]
    for name, picture in ALTERNATIVES[case.group](case):
        if psnr_db(picture, case.target, case.region) < SAME_DB:
            errors.append(squared_error(shown, seen(picture), case.region))
            names.append(name)
    nearest = torch.stack(errors).argmin(dim=0).tolist()
    return [Judgement(names[index], index == 0, len(names) - 1) for index in nearest]


def _as_it_is(pictures: Tensor) -> Tensor:
    return pictures


def _from_afar(pictures: Tensor) -> Tensor:
    """Pictures (..., 3, H, W) without what is finer than a thirtieth of their width: of a hole, nobody can know it."""
    return blur(pictures.reshape(-1, *pictures.shape[-3:]), pictures.shape[-1] / AFAR).reshape(pictures.shape)


def edits_of_the_picture(case: Case) -> Iterator[Named]:
    """The source, and the source after each edit of whole pictures; under the mask, where there is one."""
    source = case.request.source
    yield IDENTITY, source
    for name in EDITS:
        yield name, _under(case.region, apply(source[None], [name])[0], source)


def pairs_of_edits(case: Case) -> Iterator[Named]:
    """All of the above, and all pairs of edits that are ever asked for together, in both orders."""
    singles = dict(edits_of_the_picture(case))
    yield from singles.items()
    for second, firsts in FIRSTS.items():
        for start in range(0, len(firsts), PICTURES_AT_ONCE):
            some = firsts[start : start + PICTURES_AT_ONCE]
            pictures = apply(torch.stack([singles[first] for first in some]), [second])
            yield from zip((double_name(first, second) for first in some), pictures, strict=True)


def edits_of_the_scene(case: Case) -> Iterator[Named]:
    """No edit; each object removed; the subject, or what it becomes, with any other shape, colour, size or place; the
    same edit of each other object."""
    assert case.scene is not None
    edit, ground, photograph = case.scene.edit, case.scene.ground, case.scene.photograph[None]
    size = (photograph.shape[-2], photograph.shape[-1])
    empty = draw_ground(scene([ground], [()], photograph), size)
    yield IDENTITY, case.request.source
    for other in other_object_edits(edit):
        yield str(other), draw_objects(scene([ground], [other.after], photograph), empty)[0]


def fillings_of_the_hole(case: Case) -> Iterator[Named]:
    """The damage as it is, and after each edit of whole pictures; and a flat filling in the colour around the hole."""
    yield from edits_of_the_picture(case)
    assert case.region is not None
    rim = grown(case.region[None], RIM_PX)[0] - case.region
    around = (case.request.source * rim).sum(dim=(1, 2), keepdim=True) / rim.sum()
    yield "flat", _under(case.region, around.expand_as(case.target), case.request.source)


def uses_of_the_second_picture(case: Case) -> Iterator[Named]:
    """Neither picture changed; and of an object, others in its place and it in other places; of colours, those of each
    other photograph, and each edit of whole pictures."""
    source, reference = case.request.source, case.request.reference
    assert reference is not None
    yield IDENTITY, source
    yield "the second picture", reference
    if case.edit == COLOUR_TRANSFER:
        yield from edits_of_the_picture(case)
        for number, other in enumerate(case.photographs):
            yield f"colours of photograph {number}", with_colours_of(source[None], other[None])[0]
        return
    assert case.placed is not None
    for _, thing in _varied(case.placed):
        yield f"insert {thing}", draw_objects(scene([Ground("photograph")], [[thing]], source[None]), source[None])[0]


def other_object_edits(edit: ObjectEdit) -> list[ObjectEdit]:
    """What else might be done to the same scene, without two objects at one place; none does what `edit` does."""
    before, subject, result = edit.before, edit.subject, edit.result
    others = [ObjectEdit("remove", before, thing, None) for thing in before]
    if subject is not None:
        others += [ObjectEdit(verb, before, subject, thing) for verb, thing in _varied(subject)]
    if result is not None:
        others += [ObjectEdit("add", before, None, result)]
        others += [ObjectEdit(edit.verb, before, subject, thing) for _, thing in _varied(result)]
    if subject is not None and result is not None:
        others += [ObjectEdit(edit.verb, before, thing, _like(edit.verb, result, thing)) for thing in before]
    seen = {frozenset(edit.after), frozenset(before)}
    return [other for other in others if _fits(other) and not _is_among(other, seen)]


def _is_among(edit: ObjectEdit, seen: set[frozenset[Object]]) -> bool:
    """Whether its scene was seen before; now it is."""
    after, known = frozenset(edit.after), len(seen)
    seen.add(after)
    return len(seen) == known


def _like(verb: str, result: Object, thing: Object) -> Object:
    """Another object, after what has made the subject of an edit its result."""
    match verb:
        case "recolour":
            return replace(thing, colour=result.colour)
        case "move":
            return replace(thing, place=result.place, offset=result.offset)
        case _:
            return replace(thing, shape=result.shape, colour=result.colour)


def _varied(thing: Object) -> Iterator[tuple[str, Object]]:
    """The object with another shape, colour, size or place, and what would make it so."""
    yield from (("replace", replace(thing, shape=shape)) for shape in SHAPES)
    yield from (("recolour", replace(thing, colour=colour)) for colour in COLOURS)
    yield from (("replace", replace(thing, size=size)) for size in RADII)
    yield from (("move", replace(thing, place=place)) for place in PLACES)


def _fits(edit: ObjectEdit) -> bool:
    places = [thing.place for thing in edit.after]
    return len(set(places)) == len(places)


def _under(region: Tensor | None, edited: Tensor, source: Tensor) -> Tensor:
    return edited if region is None else torch.where(region > 0, edited, source)


def _firsts() -> dict[str, tuple[str, ...]]:
    """By the second edit, the first ones of all pairs that are ever asked for, in both orders."""
    pairs = {
        pair
        for table in (TRAINED_PARTNERS, HELD_OUT_PARTNERS)
        for tone, partners in table.items()
        for partner in partners
        for pair in ((tone, partner), (partner, tone))
    }
    return {second: tuple(first for first in EDITS if (first, second) in pairs) for second in EDITS}


FIRSTS: Mapping[str, tuple[str, ...]] = MappingProxyType(_firsts())
ALTERNATIVES: Mapping[str, Callable[[Case], Iterable[Named]]] = MappingProxyType(
    {
        "tones": edits_of_the_picture,
        "combinations": pairs_of_edits,
        "styles": edits_of_the_picture,
        "weather": edits_of_the_picture,
        "geometry": edits_of_the_picture,
        "objects": edits_of_the_scene,
        "repairs": fillings_of_the_hole,
        "masked": edits_of_the_picture,
        "two_images": uses_of_the_second_picture,
        "identity": edits_of_the_picture,
    }
)
