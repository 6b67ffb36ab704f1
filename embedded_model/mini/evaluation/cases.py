"""What is asked: tasks of every group on held-out photographs, in held-out words, for held-out combinations."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice
from zlib import crc32

import torch
from torch import Tensor

from embedded_model.mini.batch import Group, Pairs
from embedded_model.mini.edits import IDENTITY
from embedded_model.mini.evaluation.editor import Request
from embedded_model.mini.evaluation.scores import psnr_db
from embedded_model.mini.object_groups import SHARE_OF_PHOTOGRAPHS
from embedded_model.mini.objects import ObjectEdit, random_edit, random_ground
from embedded_model.mini.scenes import COLOURS, PLACES, RADII, Ground, Object
from embedded_model.mini.shapes import SHAPES

SAME_DB = 40.0
"""Pictures nearer to each other than this are the same to the eye, and so to the evaluation."""
INSERT = "insert "


@dataclass(frozen=True)
class DrawnEdit:
    """An edit of a scene with what it is drawn on; photograph (3, H, W) is the ground where that is one."""

    edit: ObjectEdit
    ground: Ground
    photograph: Tensor


@dataclass(frozen=True)
class Case:
    """One edit to be made. target (3, H, W) as pictures are sent; photographs: those of its batch, (B, 3, H, W).

    scene: what is drawn, in the group of objects. placed: the object that should appear at a named place, where one
    should, and `left` the place that it comes from.
    """

    group: str
    edit: str
    request: Request
    target: Tensor
    photographs: Tensor
    scene: DrawnEdit | None = None
    placed: Object | None = None
    left: str | None = None

    @property
    def region(self) -> Tensor | None:
        """Where the edit may show, (1, H, W), if not everywhere."""
        return self.request.mask


def cases_of(name: str, group: Group, photographs: Tensor, rows: int, seed: int) -> list[Case]:
    """`rows` tasks of a group that ask for something to be seen, which all follow from the arguments.

    Every photograph (B, 3, H, W) in [0, 1] comes once before any comes again, now and then under a drawn scene.
    """
    return list(islice(filter(_is_visible, _endless(name, group, photographs, seed)), rows))


def described_object(description: str) -> Object:
    """The object, in the middle of its place, that `str` describes so."""
    try:
        return OBJECTS[description]
    except KeyError:
        raise ValueError(f"{description!r} is no object") from None


def _endless(name: str, group: Group, photographs: Tensor, seed: int) -> Iterator[Case]:
    for batch in count():
        drawn = crc32(f"{name} {batch} {seed}".encode())
        order = random.Random(drawn).sample(range(len(photographs)), len(photographs))
        shown = photographs[order]
        generator = torch.Generator(photographs.device).manual_seed(drawn)
        pairs = group.make(shown, generator, random.Random(drawn), held_out=True)
        scenes = _scenes(pairs, shown, drawn) if name == "objects" else [None] * len(shown)
        for row, scene in enumerate(scenes):
            yield _case(name, pairs, row, shown, scene)


def _case(name: str, pairs: Pairs, row: int, photographs: Tensor, scene: DrawnEdit | None) -> Case:
    edit = pairs.edits[row]
    request = Request(
        source=_in_bytes(pairs.source[row]),
        prompt=pairs.instructions[row],
        seed=row,
        reference=None if pairs.reference is None else _in_bytes(pairs.reference[row]),
        mask=None if pairs.mask is None else pairs.mask[row],
    )
    placed, left = _placed(edit, scene)
    return Case(name, edit, request, _in_bytes(pairs.target[row]), photographs, scene, placed, left)


def _scenes(pairs: Pairs, photographs: Tensor, seed: int) -> list[DrawnEdit]:
    """What the group of objects drew, chosen again as it chooses."""
    words = random.Random(seed)
    grounds = [random_ground(words, SHARE_OF_PHOTOGRAPHS) for _ in range(len(photographs))]
    edits = [random_edit(words, ground, held_out=True) for ground in grounds]
    if tuple(map(str, edits)) != pairs.edits:
        raise RuntimeError("the group of objects chooses its scenes in another way than is repeated here")
    return [DrawnEdit(*parts) for parts in zip(edits, grounds, photographs, strict=True)]


def _placed(edit: str, scene: DrawnEdit | None) -> tuple[Object | None, str | None]:
    if edit.startswith(INSERT):
        return described_object(edit.removeprefix(INSERT)), None
    if scene is None or scene.edit.verb not in ("add", "move"):
        return None, None
    subject = scene.edit.subject
    return scene.edit.result, subject.place if subject else None


def _is_visible(case: Case) -> bool:
    """An edit of grey to grey, or of an object on its like, asks for nothing that can be judged."""
    return case.edit == IDENTITY or psnr_db(case.request.source, case.target, case.region) < SAME_DB


def _in_bytes(picture: Tensor) -> Tensor:
    return (picture * 255).round() / 255


OBJECTS = {
    str(thing): thing
    for thing in (
        Object(shape, colour, place, size)
        for shape in SHAPES
        for colour in COLOURS
        for place in PLACES
        for size in RADII
    )
}
