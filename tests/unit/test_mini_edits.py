"""The edits of whole pictures that the new embedded model is taught."""

from itertools import combinations

import numpy as np
import pytest
import torch
from torch import Tensor

from embedded_model import edits as numpy_edits
from embedded_model.mini.edits import EDITS, IDENTITY, apply, apply_each
from embedded_model.mini.geometry import mirror, upside_down
from embedded_model.mini.styles import BLOCK_PX
from embedded_model.mini.tones import TONES
from embedded_model.mini.weather import FLAKES_SIDE_PX

PORTED = sorted(set(numpy_edits.EDITS) - {IDENTITY})


@pytest.fixture
def pictures() -> Tensor:
    """Smooth colours over the whole range with some grain, (3, 3, 96, 144)."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(3, 3, 5, 7, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (96, 144), mode="bicubic")
    return (smooth + 0.1 * torch.rand(3, 3, 96, 144, generator=generator)).clamp(0, 1)


@pytest.mark.parametrize("edit", PORTED)
def test_a_tone_is_what_it_was_in_numpy(edit: str, pictures: Tensor):
    expected = numpy_edits.apply(pictures.permute(0, 2, 3, 1).numpy(), [edit])
    edited = apply(pictures, [edit]).permute(0, 2, 3, 1).numpy()
    assert np.allclose(edited, expected, atol=2e-6)  # sums in another order


def test_no_edit_of_the_first_version_is_lost():
    assert set(PORTED) <= set(EDITS)
    assert set(EDITS) - set(PORTED) == {
        *("pencil", "poster", "pixelated", "oil", "cartoon", "emboss"),
        *("fog", "snow", "sunset", "vignette", "mirror", "upside_down"),
    }


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("size", [(16, 16), (48, 16), (96, 144)])
def test_an_edit_keeps_shape_type_and_range_and_leaves_its_input(edit: str, size: tuple[int, int], pictures: Tensor):
    crops = pictures[..., : size[0], : size[1]].contiguous()
    before = crops.clone()
    edited = apply(crops, [edit])
    assert edited.shape == crops.shape
    assert edited.dtype == torch.float32
    assert edited.isfinite().all()
    assert edited.min() >= 0
    assert edited.max() <= 1
    assert torch.equal(crops, before)


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("level", [0.0, 1.0])
def test_an_edit_takes_pictures_of_black_and_of_white(edit: str, level: float):
    edited = apply(torch.full((1, 3, 32, 32), level), [edit])
    assert edited.isfinite().all()


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_gives_the_same_twice_and_does_not_look_at_its_neighbours(edit: str, pictures: Tensor):
    together = apply(pictures, [edit])
    assert torch.equal(apply(pictures, [edit]), together)
    for i in range(len(pictures)):
        assert torch.allclose(apply(pictures[i : i + 1], [edit]), together[i : i + 1], atol=1e-6)


def test_every_two_edits_differ_visibly(pictures: Tensor):
    names = (IDENTITY, *EDITS)
    targets = torch.stack([apply(pictures[:1], [name]).flatten() for name in names])
    psnr_db = -10 * torch.log10(torch.cdist(targets, targets) ** 2 / targets.shape[1])
    alike = [(names[a], names[b]) for a, b in combinations(range(len(names)), 2) if psnr_db[a, b] > 30]
    assert not alike


def test_each_row_gets_its_own_edit(pictures: Tensor):
    names = ["snow", IDENTITY, "tint_red"]
    edited = apply_each(pictures, names)
    for i, name in enumerate(names):
        assert torch.allclose(edited[i : i + 1], apply(pictures[i : i + 1], [name]), atol=1e-6)


def test_edits_follow_each_other_in_their_order(pictures: Tensor):
    assert torch.equal(apply(pictures, ["invert", "darker"]), (1 - pictures) * 0.5)
    assert torch.equal(apply(pictures, ["darker", "invert"]), 1 - pictures * 0.5)


def test_a_mirror_swaps_left_and_right_alone(pictures: Tensor):
    assert torch.equal(mirror(pictures)[..., 0], pictures[..., -1])
    assert torch.equal(mirror(mirror(pictures)), pictures)


def test_upside_down_is_half_a_turn(pictures: Tensor):
    assert torch.equal(upside_down(pictures), torch.rot90(pictures, 2, dims=(-2, -1)))


def test_a_pixelated_picture_has_one_colour_a_token(pictures: Tensor):
    blocks = apply(pictures, ["pixelated"]).unfold(2, BLOCK_PX, BLOCK_PX).unfold(3, BLOCK_PX, BLOCK_PX)
    assert torch.equal(blocks, blocks[..., :1, :1].expand_as(blocks))
    assert torch.allclose(blocks[0, 0, 1, 2, 0, 0], pictures[0, 0, 16:32, 32:48].mean(), atol=1e-6)


@pytest.mark.parametrize("edit", ["pencil", "emboss"])
def test_a_drawing_has_no_colours_of_the_picture(edit: str, pictures: Tensor):
    edited = apply(pictures, [edit])
    assert torch.allclose(edited / edited[:, :1], (edited / edited[:, :1])[..., :1, :1].expand_as(edited), atol=1e-5)


def test_a_poster_has_few_colours(pictures: Tensor):
    assert len(apply(pictures, ["poster"]).unique()) <= 4


@pytest.mark.parametrize("edit", ["oil", "cartoon", "poster"])
def test_a_painting_has_less_grain(edit: str):
    """Of neighbouring pixels, most are alike in flat dabs of colour."""
    grain = 0.5 + 0.04 * torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    change = [(p[..., 1:] - p[..., :-1]).abs().median() for p in (grain, apply(grain, [edit]))]
    assert change[1] < change[0] / 2


def test_fog_is_thinner_below(pictures: Tensor):
    contrast = apply(pictures, ["fog"]).std(dim=(0, 1, 3)) / pictures.std(dim=(0, 1, 3))
    assert contrast[-16:].mean() > 1.5 * contrast[:16].mean()


def test_snow_lightens_and_repeats_without_depending_on_the_canvas():
    black = torch.zeros(1, 3, 2 * FLAKES_SIDE_PX, FLAKES_SIDE_PX)
    snow = apply(black, ["snow"])
    assert snow.min() > 0.1
    assert 0.01 < (snow > 0.9).float().mean() < 0.1  # flakes
    assert torch.equal(snow[..., :FLAKES_SIDE_PX, :], snow[..., FLAKES_SIDE_PX:, :])
    assert torch.equal(apply(black[..., :48, :32], ["snow"]), snow[..., :48, :32])


def test_a_sunset_glows_two_thirds_down():
    light = apply(torch.full((1, 3, 96, 32), 0.5), ["sunset"])[0, :, :, 0]
    red, green, blue = light
    assert abs(int(light.sum(0).argmax()) - 0.65 * 96) < 8
    assert blue[0] > green[0]  # violet
    assert red[62] > green[62] > 2 * blue[62]  # orange


def test_a_vignette_darkens_corners_and_keeps_the_centre(pictures: Tensor):
    edited = apply(pictures, ["vignette"])
    assert torch.equal(edited[..., 40:56, 60:84], pictures[..., 40:56, 60:84])
    assert edited[..., :4, :4].mean() < 0.15 * pictures[..., :4, :4].mean()


def test_tones_know_no_place(pictures: Tensor):
    for tone in TONES:
        if tone != "blur":
            assert torch.allclose(apply(mirror(pictures), [tone]), mirror(apply(pictures, [tone])), atol=1e-6), tone
