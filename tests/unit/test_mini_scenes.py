"""Drawn scenes of the new embedded model, and the edits of their objects."""

import random
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from embedded_model.mini.objects import (
    MAX_OBJECTS,
    VERBS,
    ObjectEdit,
    is_object_held_out,
    random_edit,
    random_ground,
    visible_colours,
)
from embedded_model.mini.scenes import (
    COLOURS,
    GROUNDS,
    PLACES,
    RADII,
    Ground,
    Object,
    draw,
    draw_ground,
    scene,
)
from embedded_model.mini.shapes import SHAPES

SIZE = (96, 144)
WHITE = Ground("plain", (1.0, 1.0, 1.0))
STAR = Object("star", "red", "top left")


@pytest.fixture
def photographs() -> Tensor:
    return torch.rand(4, 3, *SIZE, generator=torch.Generator().manual_seed(0))


def drawn(ground: Ground, *objects: Object, photograph: Tensor | None = None, size: tuple[int, int] = SIZE) -> Tensor:
    """One picture (3, H, W)."""
    photographs = torch.zeros(1, 3, *size) if photograph is None else photograph[None]
    return draw(scene([ground], [objects], photographs), size)[0]


def cell(picture: Tensor, place: str) -> Tensor:
    height, width = (s // 3 for s in picture.shape[-2:])
    row, column = divmod(PLACES.index(place), 3)
    return picture[..., row * height : (row + 1) * height, column * width : (column + 1) * width]


@pytest.mark.parametrize("size", [(48, 48), (96, 96), (144, 96), (64, 160), (512, 512)])
@pytest.mark.parametrize("kind", GROUNDS)
def test_a_scene_has_the_size_asked_and_lies_in_the_range(kind: str, size: tuple[int, int], photographs: Tensor):
    ground = Ground(kind, (0.0, 0.2, 1.0), (1.0, 0.9, 0.1), angle=1.0)
    picture = drawn(ground, STAR, photograph=photographs[0], size=SIZE) if size == SIZE else None
    picture = draw(scene([ground], [[STAR]], photographs[:1]), size) if picture is None else picture[None]
    assert picture.shape == (1, 3, *size)
    assert picture.min() >= 0
    assert picture.max() <= 1


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("size", RADII)
@pytest.mark.parametrize("shape", SHAPES)
def test_an_object_stays_in_its_place(shape: str, size: str, place: str):
    """Also at its largest offset, and on a canvas that is not square."""
    reach = min(0.12, 0.48 - RADII[size])
    white = drawn(WHITE)
    for offset in ((0.0, 0.0), (reach, -reach), (-reach, reach)):
        changed = drawn(WHITE, Object(shape, "black", place, size, offset)) != white
        assert cell(changed, place).any()
        assert changed.sum() == cell(changed, place).sum()


def test_an_object_has_its_colour_and_smooth_edges():
    for name, colour in COLOURS.items():
        picture = drawn(WHITE, Object("circle", name, "centre"), size=(96, 96))
        assert torch.allclose(picture[:, 48, 48], torch.tensor(colour))
    levels = drawn(WHITE, Object("circle", "black", "centre", offset=(0.03, 0.01)), size=(96, 96))[0].unique()
    assert len(levels) > 20


@pytest.mark.parametrize(
    ("shape", "share"),
    # of the square around the circle of radius 1: by the areas of the figures
    [("circle", 0.665), ("square", 0.608), ("triangle", 0.407), ("diamond", 0.33), ("ring", 0.484), ("cross", 0.462)],
)
def test_a_shape_covers_as_much_as_its_geometry_says(shape: str, share: float):
    size = (480, 480)
    cover = 1 - (drawn(WHITE, Object(shape, "black", "centre"), size=size)[0] - 0.04) / 0.96
    radius = RADII["big"] * 160
    assert cover.sum().item() / (2 * radius) ** 2 == pytest.approx(share, rel=0.02)


def test_a_star_points_up_and_a_heart_down():
    star = drawn(WHITE, Object("star", "black", "centre"), size=(96, 96))[0] < 0.5
    heart = drawn(WHITE, Object("heart", "black", "centre"), size=(96, 96))[0] < 0.5
    assert star[48, 48]
    assert heart[48, 48]
    for shape, end in ((star, 0), (heart, -1)):
        rows = shape.any(dim=1).nonzero().flatten()
        tip = shape[rows[end]]
        assert tip.nonzero().float().mean().item() == pytest.approx(47.5, abs=1)
        assert tip.sum() < 6
        assert torch.equal(shape, shape.flip(-1))


def test_big_is_bigger_than_small():
    big, small = ((drawn(WHITE, replace(STAR, size=size)) < 1).sum() for size in ("big", "small"))
    assert big > 2 * small


def test_two_objects_at_one_place_are_refused():
    with pytest.raises(ValueError, match="two objects at one place"):
        scene([WHITE], [[STAR, replace(STAR, shape="ring")]], torch.zeros(1, 3, *SIZE))


def test_rows_of_a_batch_do_not_depend_on_each_other(photographs: Tensor):
    words = random.Random(0)
    grounds = [random_ground(words, 0.5) for _ in range(4)]
    objects = [random_edit(words, g).before for g in grounds]
    together = draw(scene(grounds, objects, photographs), SIZE)
    for i in range(4):
        alone = draw(scene(grounds[i : i + 1], objects[i : i + 1], photographs[i : i + 1]), SIZE)
        assert torch.allclose(alone[0], together[i], atol=1e-6)


def test_a_photograph_is_a_ground_bit_for_bit(photographs: Tensor):
    assert torch.equal(drawn(Ground("photograph"), photograph=photographs[0]), photographs[0])


def test_removing_an_object_restores_the_ground_bit_for_bit(photographs: Tensor):
    for kind in GROUNDS:
        ground = Ground(kind, (0.2, 0.3, 0.4), (0.7, 0.6, 0.5), angle=0.4)
        without = drawn(ground, photograph=photographs[0])
        assert torch.equal(without, draw_ground(scene([ground], [[]], photographs[:1]), SIZE)[0])
        with_star = drawn(ground, STAR, photograph=photographs[0])
        changed = (with_star != without).any(dim=0)
        assert changed.any()
        assert changed.sum() == cell(changed, "top left").sum()


@pytest.mark.parametrize("verb", VERBS)
def test_an_edit_changes_only_its_places(verb: str, photographs: Tensor):
    words = random.Random(verb)
    for _ in range(20):
        edit = edit_of(verb, words)
        before, after = (drawn(WHITE, *objects) for objects in (edit.before, edit.after))
        changed = (before != after).any(dim=0)
        named = {o.place for o in (edit.subject, edit.result) if o is not None}
        for place in PLACES:
            assert bool(cell(changed, place).any()) == (place in named), str(edit)


@pytest.mark.parametrize("verb", VERBS)
def test_an_edit_does_what_it_says(verb: str):
    words = random.Random(verb)
    for _ in range(50):
        edit = edit_of(verb, words)
        gone, come = set(edit.before) - set(edit.after), set(edit.after) - set(edit.before)
        assert len(gone) == (verb != "add")
        assert len(come) == (verb != "remove")
        if edit.subject is not None and edit.result is not None:
            same = [a == b for a, b in zip(aspects(edit.subject), aspects(edit.result), strict=True)]
            expected = {"recolour": [True, False, True, True], "move": [True, True, False, True]}
            assert same == expected.get(verb, [False, same[1], True, True])
        assert str(edit).startswith(verb)


def edit_of(verb: str, words: random.Random) -> ObjectEdit:
    while True:
        edit = random_edit(words, WHITE)
        if edit.verb == verb:
            return edit


def aspects(thing: Object) -> tuple[str, ...]:
    return thing.shape, thing.colour, thing.place, thing.size


def test_scenes_hold_up_to_five_objects_no_two_alike():
    words = random.Random(0)
    edits = [random_edit(words, random_ground(words, 0.5)) for _ in range(500)]
    scenes = [s for e in edits for s in (e.before, e.after)]
    assert {len(s) for s in scenes} == set(range(MAX_OBJECTS + 1))
    for objects in scenes:
        assert len({(o.colour, o.shape) for o in objects}) == len(objects)
        assert len({o.place for o in objects}) == len(objects)


def test_objects_stand_out_from_drawn_grounds():
    words = random.Random(0)
    for _ in range(500):
        ground = random_ground(words, 0)
        colours = visible_colours(ground)
        assert len(colours) >= 2
        edit = random_edit(words, ground)
        assert {o.colour for o in (*edit.before, *edit.after)} <= set(colours)


def test_training_never_draws_a_held_out_object_and_the_evaluation_asks_for_one():
    words = random.Random(0)
    for _ in range(1000):
        edit = random_edit(words, random_ground(words, 0.5))
        assert not any(is_object_held_out(o.colour, o.shape, o.place) for o in (*edit.before, *edit.after))
    for _ in range(200):
        main = random_edit(words, random_ground(words, 0.5), held_out=True).main_object
        assert is_object_held_out(main.colour, main.shape, main.place)


def test_each_colour_shape_and_place_is_trained_and_held_out():
    everything = [(c, s, p) for c in COLOURS for s in SHAPES for p in PLACES]
    for position in range(3):
        for part in (True, False):
            names = {names[position] for names in everything if is_object_held_out(*names) == part}
            assert names == {names[position] for names in everything}


def test_the_same_words_make_the_same_scenes():
    first, again = (random_edit(random.Random(5), WHITE) for _ in range(2))
    assert first == again
