"""The groups of tasks of the new embedded model: what each shows, asks and wants."""

import random
from collections import Counter
from dataclasses import fields

import pytest
import torch
from torch import Tensor

from embedded_model.mini.batch import Pairs, joined
from embedded_model.mini.edits import EDITS, IDENTITY, apply
from embedded_model.mini.filters import luma
from embedded_model.mini.held_out import is_held_out
from embedded_model.mini.mask_groups import InMask, Repairs, grown, regions
from embedded_model.mini.object_groups import ColourTransfers, Insertions, with_colours_of
from embedded_model.mini.pairs import GROUPS
from embedded_model.mini.picture_groups import (
    HELD_OUT_PARTNERS,
    SENSELESS,
    TRAINED_PARTNERS,
    Double,
    Single,
    double_name,
)
from embedded_model.mini.tones import TONES

SIZE = (64, 96)


@pytest.fixture(scope="module")
def photographs() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(24, 3, 4, 6, generator=generator)
    return torch.nn.functional.interpolate(coarse, SIZE, mode="bicubic").clamp(0, 1)


def made(name: str, photographs: Tensor, seed: int = 0, *, held_out: bool = False) -> Pairs:
    generator = torch.Generator().manual_seed(seed)
    return GROUPS[name].make(photographs, generator, random.Random(seed), held_out=held_out)


def tensors(pairs: Pairs) -> dict[str, Tensor]:
    named = {f.name: getattr(pairs, f.name) for f in fields(pairs)}
    return {name: value for name, value in named.items() if isinstance(value, Tensor)}


@pytest.mark.parametrize("held_out", [False, True])
@pytest.mark.parametrize("name", GROUPS)
def test_a_group_makes_a_pair_for_each_photograph(name: str, held_out: bool, photographs: Tensor):
    before = photographs.clone()
    pairs = made(name, photographs, held_out=held_out)
    assert torch.equal(photographs, before)
    assert len(pairs.instructions) == len(pairs.edits) == len(photographs)
    for key, tensor in tensors(pairs).items():
        assert tensor.shape == (len(photographs), 1 if key == "mask" else 3, *SIZE)
        assert tensor.dtype == torch.float32
        assert tensor.isfinite().all()
        assert tensor.min() >= 0
        assert tensor.max() <= 1
    assert (pairs.mask is not None) == (name in {"repairs", "masked"})
    assert (pairs.reference is not None) == (name == "two_images")


@pytest.mark.parametrize("name", GROUPS)
def test_the_same_seeds_make_the_same_pairs_and_others_make_others(name: str, photographs: Tensor):
    first, again, other = (made(name, photographs, seed) for seed in (1, 1, 2))
    assert first.instructions == again.instructions
    assert first.edits == again.edits
    assert all(torch.equal(a, b) for a, b in zip(tensors(first).values(), tensors(again).values(), strict=True))
    assert first.instructions != other.instructions


def test_one_photograph_is_a_batch(photographs: Tensor):
    for name in GROUPS:
        for seed in range(4):
            assert len(made(name, photographs[:1], seed).instructions) == 1


def test_the_groups_share_the_whole_training():
    assert sum(group.weight for group in GROUPS.values()) == pytest.approx(1)
    assert all(group.weight > 0 for group in GROUPS.values())


def test_every_edit_of_a_whole_picture_is_in_one_group():
    singles = [group for group in GROUPS.values() if isinstance(group, Single)]
    assert Counter(name for group in singles for name in group.names) == Counter(list(EDITS))


@pytest.mark.parametrize("name", ["tones", "styles", "weather", "geometry"])
def test_the_target_of_a_single_edit_is_the_edited_source(name: str, photographs: Tensor):
    pairs = made(name, photographs)
    for i, edit in enumerate(pairs.edits):
        assert torch.allclose(pairs.target[i], apply(pairs.source[i : i + 1], [edit])[0], atol=1e-6)


def test_the_target_of_two_edits_follows_the_order_of_the_words(photographs: Tensor):
    pairs = made("combinations", photographs)
    for i, name in enumerate(pairs.edits):
        edits = name.split(", then ")
        assert torch.allclose(pairs.target[i], apply(pairs.source[i : i + 1], edits)[0], atol=1e-6)
    names = made("combinations", photographs[..., :16, :16].repeat(8, 1, 1, 1)).edits
    orders = {tuple(name.split(", then ")) for name in names}
    assert any((b, a) in orders for a, b in orders)


def test_held_out_pairs_of_edits_are_never_trained(photographs: Tensor):
    generator, words, group = torch.Generator().manual_seed(0), random.Random(0), Double(1.0)
    pictures = photographs[:, :, :16, :16].repeat(8, 1, 1, 1)
    for held_out in (False, True):
        for name in group.make(pictures, generator, words, held_out=held_out).edits:
            assert is_held_out(*sorted(name.split(", then "))) == held_out
    assert double_name("sepia", "blur") == "sepia, then blur"


def test_every_tone_meets_others_and_no_pair_is_senseless():
    assert set(TRAINED_PARTNERS) == set(TONES)
    pairs = [
        frozenset((t, p)) for table in (TRAINED_PARTNERS, HELD_OUT_PARTNERS) for t, ps in table.items() for p in ps
    ]
    assert not SENSELESS & set(pairs)
    assert all(len(pair) == 2 for pair in pairs)
    assert not any(all(name.startswith("tint_") for name in pair) for pair in pairs)
    assert all(pair <= set(EDITS) for pair in SENSELESS)


def test_nothing_asked_changes_nothing(photographs: Tensor):
    pairs = made("identity", photographs)
    assert torch.equal(pairs.source, pairs.target)
    assert set(pairs.edits) == {IDENTITY}


def test_an_edit_of_an_object_leaves_most_of_the_picture_alone(photographs: Tensor):
    pairs = made("objects", photographs)
    changed = (pairs.source != pairs.target).any(dim=1).float().mean(dim=(1, 2))
    assert changed.max() <= 2 / 9  # two of the nine cells
    assert changed.min() > 0


def test_half_of_the_objects_are_drawn_over_photographs(photographs: Tensor):
    """Of a photograph, all is left that lies outside of the nine objects' discs: its corner pixel."""
    pairs = made("objects", photographs.repeat(8, 1, 1, 1))
    kept = (pairs.source[..., 0, 0] == photographs.repeat(8, 1, 1, 1)[..., 0, 0]).all(dim=1).float().mean()
    assert 0.4 < kept < 0.6


def test_a_repair_shows_damage_in_the_mask_and_wants_the_photograph(photographs: Tensor):
    pairs = Repairs(1.0).make(photographs, torch.Generator().manual_seed(0), random.Random(0))
    assert pairs.mask is not None
    assert torch.equal(pairs.target, photographs)
    damaged = (pairs.source != pairs.target).any(dim=1, keepdim=True)
    assert damaged.flatten(1).any(dim=1).all()
    assert not (damaged & (pairs.mask == 0)).any()
    assert torch.equal(grown(damaged.float(), 4), pairs.mask)
    assert set(pairs.edits) == {"repair grey", "repair noise", "repair shape"}


def test_an_edit_in_a_mask_is_the_edit_inside_and_the_source_outside(photographs: Tensor):
    pairs = InMask(1.0, tuple(EDITS)).make(photographs, torch.Generator().manual_seed(0), random.Random(0))
    assert pairs.mask is not None
    inside = (pairs.mask > 0).expand_as(pairs.source)
    assert torch.equal(pairs.target[~inside], pairs.source[~inside])
    for i, name in enumerate(pairs.edits):
        edited = apply(pairs.source[i : i + 1], [name.removesuffix(" in the mask")])[0]
        assert torch.allclose(pairs.target[i][inside[i]], edited[inside[i]], atol=1e-6)


def test_regions_are_of_the_size_asked_and_of_three_kinds():
    masks = regions(torch.zeros(300, 3, 64, 96), torch.Generator().manual_seed(0), 0.1, 0.15)
    shares = masks.mean(dim=(1, 2, 3))
    assert set(masks.unique().tolist()) == {0.0, 1.0}
    assert shares.min() > 0.01
    assert shares.max() < 0.13
    rows, columns = (masks[:, 0].amax(dim=d).sum(dim=1) for d in (2, 1))
    filled = masks.sum(dim=(1, 2, 3)) / (rows * columns)
    assert (filled == 1).float().mean() > 0.2  # rectangles
    assert ((filled - torch.pi / 4).abs() < 0.05).float().mean() > 0.2  # ellipses


def test_an_inserted_object_looks_as_in_the_second_picture(photographs: Tensor):
    pairs = Insertions(1.0).make(photographs, torch.Generator().manual_seed(0), random.Random(0))
    assert pairs.reference is not None
    changed = (pairs.source != pairs.target).any(dim=1)
    assert (changed.float().mean(dim=(1, 2)) < 1 / 9).all()
    for i in range(len(photographs)):
        ground = pairs.reference[i, :, :1, :1]
        shown = (pairs.reference[i] != ground).any(dim=0)
        paint = pairs.reference[i][:, shown].mode(dim=1).values
        inserted = pairs.target[i][:, changed[i]].mode(dim=1).values
        assert torch.equal(paint, inserted), pairs.edits[i]
        assert changed[i].sum().item() == pytest.approx(shown.sum().item(), rel=0.35, abs=12)


def test_colours_of_the_second_picture_have_its_mean_and_spread():
    generator = torch.Generator().manual_seed(0)
    pictures, references = (0.4 + 0.2 * torch.rand(2, 3, 32, 32, generator=generator) for _ in range(2))
    references = references * torch.tensor([1.2, 0.8, 0.6]).view(3, 1, 1)
    changed = with_colours_of(pictures, references)
    assert torch.allclose(changed.mean(dim=(2, 3)), references.mean(dim=(2, 3)), atol=1e-3)
    for channel in (luma, lambda p: p[:, 2:] - luma(p), lambda p: p[:, :1] - luma(p)):  # spread is of an opponent space
        assert torch.allclose(channel(changed).std(dim=(2, 3)), channel(references).std(dim=(2, 3)), rtol=0.05)
    assert torch.allclose(with_colours_of(pictures, pictures), pictures, atol=5e-3)


def test_the_second_picture_of_a_colour_transfer_is_another_photograph(photographs: Tensor):
    pairs = ColourTransfers(1.0).make(photographs, torch.Generator(), random.Random(0))
    assert pairs.reference is not None
    assert torch.equal(pairs.source, photographs)
    assert torch.equal(pairs.reference[1:], photographs[:-1])
    assert torch.equal(pairs.target, with_colours_of(photographs, pairs.reference))


def test_parts_with_and_without_a_mask_are_not_joined(photographs: Tensor):
    with pytest.raises(ValueError, match="a reference or a mask"):
        joined([made("tones", photographs), made("repairs", photographs)])
