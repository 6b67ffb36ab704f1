"""The new embedded model's networks and training: latents, noise, batches, and runs that are stopped and go on."""

import os
import random
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from diffusers import AutoencoderKL
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.transformer_flux import FluxPosEmbed
from torch import Tensor, nn
from torch.nn import functional

from embedded_model.mini.autoencoder import new_autoencoder
from embedded_model.mini.batches import TOKEN, Batch, EditBatches, Format, sentences
from embedded_model.mini.blocks import BLOCK, LATENT_CHANNELS, BlockTransform, fit, read_from, write_into
from embedded_model.mini.device import attention
from embedded_model.mini.edit_stage import EditStage, how_much_is_seen, pack, unpack
from embedded_model.mini.edits import apply
from embedded_model.mini.flow import (
    LEAST_OWN_SIGMA,
    MAX_GUIDANCE,
    Drawn,
    draw,
    guided,
    noisy_and_velocity,
    rest_of_the_way,
    sampled,
)
from embedded_model.mini.loop import Run, Schedule, load_average
from embedded_model.mini.network import Shape, Tokenizers, kept_tokenizers, new_networks, scaled, train_tokenizers
from embedded_model.mini.pairs import GROUPS
from embedded_model.mini.photographs import Photographs
from embedded_model.mini.picture_groups import Single
from embedded_model.mini.places import positions, spread
from embedded_model.mini.seeds import seed_of
from embedded_model.mini.steady import steady_decoder, straight
from embedded_model.mini.words_stage import WordsStage, features
from serve.families.flux_kontext_components import PACK

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    """(24, 3, 64, 64) in [-1, 1], smooth as photographs are."""
    generator = torch.Generator().manual_seed(0)
    rough = torch.rand((24, 3, 80, 80), generator=generator) * 2 - 1
    return nn.functional.avg_pool2d(nn.functional.avg_pool2d(rough, 9, stride=1), 9, stride=1) * 6


@pytest.fixture(scope="module")
def transform(pictures: Tensor) -> BlockTransform:
    return fit(pictures)


@pytest.fixture(scope="module")
def autoencoder(transform: BlockTransform) -> AutoencoderKL:
    made = new_autoencoder()
    write_into(made.encoder, transform)
    return made.requires_grad_(False).eval()


@pytest.fixture(scope="module")
def tokenizers() -> Tokenizers:
    return train_tokenizers(sentences(600))


def test_the_encoder_of_diffusers_computes_the_block_transform(
    autoencoder: AutoencoderKL, transform: BlockTransform, pictures: Tensor
):
    encoded = cast(Any, autoencoder.encode(pictures)).latent_dist

    assert torch.allclose(encoded.mode(), transform.encode(pictures), atol=5e-3)  # the constants' own rounding
    assert encoded.std.max() < 1e-6


def test_the_encoder_computes_it_in_bfloat16_as_well(transform: BlockTransform, pictures: Tensor):
    half: Any = new_autoencoder()
    write_into(half.encoder, transform)
    expected = transform.encode(pictures)

    latents = half.to(torch.bfloat16).encode(pictures.bfloat16()).latent_dist.mode()

    assert (latents.float() - expected).square().mean().sqrt() < 0.01 * expected.square().mean().sqrt()


def test_what_latents_keep_of_smooth_pictures_is_nearly_all(transform: BlockTransform, pictures: Tensor):
    error = (transform.invert(transform.encode(pictures)) - pictures).square().mean()

    assert 10 * torch.log10(4 / error) > 40


def test_latents_have_a_variance_of_about_one(transform: BlockTransform, pictures: Tensor):
    assert transform.encode(pictures).square().mean() == pytest.approx(1, abs=0.05)


def test_mirrored_pictures_have_mirrored_latents(transform: BlockTransform, pictures: Tensor):
    """Each component is even or odd, so that mirroring a block leaves or turns its sign."""
    there, mirrored = transform.encode(pictures), transform.encode(pictures.flip(3)).flip(3)

    signs = (there * mirrored).sum((0, 2, 3)).sign()

    assert torch.allclose(mirrored, there * signs[:, None, None], atol=1e-3)


def test_the_transform_can_be_read_from_an_encoder(transform: BlockTransform, autoencoder: AutoencoderKL):
    encoder: Any = autoencoder.encoder
    assert torch.equal(read_from(encoder).weights, transform.weights)


def test_the_transform_is_the_same_in_any_number_of_threads(pictures: Tensor, transform: BlockTransform):
    """A decoder and a transformer that were trained with other signs understand nothing."""
    threads = torch.get_num_threads()
    torch.set_num_threads(3 - threads if threads < 3 else 1)
    again = fit(pictures + 1e-6 * torch.randn(pictures.shape, generator=torch.Generator().manual_seed(1)))
    torch.set_num_threads(threads)

    alike = (again.weights * transform.weights).sum((1, 2, 3)) / transform.weights.square().sum((1, 2, 3))

    assert alike[:16].min() > 0.99  # of smooth pictures the others are next to nothing, and in no sure order


def test_an_encoder_without_room_for_the_transform_is_refused(transform: BlockTransform):
    shape: dict[str, Any] = {**new_autoencoder().config, "block_out_channels": (32, 48, 96, 64)}
    narrow: Any = AutoencoderKL.from_config(shape)

    with pytest.raises(ValueError, match="no room for 4 latents, twice, and a pair of constants"):
        write_into(narrow.encoder, transform)


def test_a_fresh_decoder_draws_a_part_of_a_picture_whatever_the_rest_is():
    """As group normalisation alone does not, which divides by the spread of the whole."""
    torch.manual_seed(0)
    decoder = new_autoencoder().decoder
    latents = torch.randn(2, LATENT_CHANNELS, 4, 32)
    latents[1, :, :, :16] = latents[0, :, :, :16]
    latents[1, :, :, 16:] *= 8

    def change() -> Tensor:
        one, other = decoder(latents)[:, :, :, :32]  # 12 cells from where the two differ
        return (one - other).abs().mean() / one.std()

    normalised = change()
    steady_decoder(decoder)

    assert change() < 0.1 * normalised


def test_a_fresh_decoder_is_its_straight_chain():
    torch.manual_seed(0)
    decoder = new_autoencoder().decoder
    steady_decoder(decoder)
    latents = torch.randn(2, LATENT_CHANNELS, 4, 6)

    drawn = straight(decoder, latents)

    assert torch.equal(decoder(latents), drawn)
    once, twice = drawn - straight(decoder, 0 * latents), straight(decoder, 2 * latents) - drawn
    assert torch.allclose(once, twice, atol=1 / 255)
    assert drawn.std() > 0.1


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"is_causal": True},
        {"scale": 0.5},
        {"attn_mask": torch.linspace(-2, 2, 81).reshape(1, 1, 9, 9)},
        {"attn_mask": torch.ones(9, 9, dtype=torch.bool).tril()},
    ],
    ids=["plain", "causal", "scaled", "added mask", "boolean mask"],
)
def test_attention_as_products_is_attention(how: dict[str, Any]):
    query, key, value = torch.randn(3, 2, 4, 9, 16, generator=torch.Generator().manual_seed(0)).unbind()

    with attention(CPU):
        found = functional.scaled_dot_product_attention(query, key, value, **how)

    assert torch.allclose(found, functional.scaled_dot_product_attention(query, key, value, **how), atol=1e-5)


@pytest.mark.parametrize("grid", [(8, 8), (32, 32), (16, 24)])
def test_some_heads_begin_by_looking_at_the_same_place_of_the_source(tokenizers: Tokenizers, grid: tuple[int, int]):
    attention: Any = cast(Any, new_networks(tokenizers, Shape(1, 1))["transformer"]).transformer_blocks[0].attn
    rows, columns = (axis.flatten() for axis in torch.meshgrid(*map(torch.arange, grid), indexing="ij"))
    places = torch.cat([torch.stack([torch.full_like(rows, index), rows, columns], -1) for index in (0, 1)]).float()
    rotary = FluxPosEmbed(10_000, [16, 24, 24])(places)
    hidden = torch.randn(1, len(places), 256, generator=torch.Generator().manual_seed(0))

    query, key = (
        cast(Tensor, apply_rotary_emb(norm(project(hidden).unflatten(-1, (4, 64))), rotary, sequence_dim=1))[0, :, 0]
        for norm, project in ((attention.norm_q, attention.to_q), (attention.norm_k, attention.to_k))
    )

    drawn = len(rows)
    assert torch.equal((query @ key.T)[:drawn].argmax(1), torch.arange(drawn) + drawn)


def test_a_pipelines_transformer_tells_the_same_at_the_pipelines_scale(tokenizers: Tokenizers):
    torch.manual_seed(0)
    learned: Any = new_networks(tokenizers, Shape(1, 1, 1, 1))["transformer"]
    for parameter in learned.proj_out.parameters():
        nn.init.normal_(parameter)
    latents, text = torch.randn(1, 8, LATENT_CHANNELS * PACK**2), torch.randn(1, 4, learned.config.joint_attention_dim)

    def velocity(transformer: Any, hidden: Tensor) -> Tensor:
        return transformer(
            hidden_states=hidden,
            timestep=torch.tensor([0.5]),
            guidance=torch.ones(1),
            pooled_projections=torch.ones(1, transformer.config.pooled_projection_dim),
            encoder_hidden_states=text,
            txt_ids=torch.zeros(4, 3),
            img_ids=torch.zeros(8, 3),
        ).sample

    with torch.no_grad():
        wanted, found = velocity(learned, latents), velocity(scaled(learned, 4.0), 4 * latents)
    assert torch.allclose(found, 4 * wanted, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(velocity(learned, 4 * latents), 4 * wanted, rtol=0.1)


def test_the_words_of_an_edit_are_told_by_their_places():
    same, also, turned, *pairs = features(
        [
            *("sepia, then blur", "sepia, then blur", "blur, then sepia"),
            *("recolour red to blue", "recolour blue to red", "replace red with blue", "replace blue with red"),
        ]
    )

    assert torch.equal(same, also)
    assert same.sum() == 2
    assert not torch.equal(same, turned)
    for one, reverse in (pairs[:2], pairs[2:]):
        assert (one * reverse).sum() == 1  # the verb


def test_text_encoders_learn_what_is_asked(tokenizers: Tokenizers):
    torch.manual_seed(0)
    networks = new_networks(tokenizers, Shape(1, 1, 1, 1))
    stage = WordsStage({name: networks[name] for name in ("text_encoder", "text_encoder_2")}, tokenizers, 24, CPU)
    optimizer = torch.optim.Adam(stage.modules.parameters(), 1e-2)

    def losses() -> tuple[float, float]:
        found = stage.losses(0)
        optimizer.zero_grad()
        found["loss"].backward()
        optimizer.step()
        return found["clip"].item(), found["t5"].item()

    before = losses()
    after = [losses() for _ in range(20)][-1]

    assert all(later < 0.5 * earlier for earlier, later in zip(before, after, strict=True))


def test_tokenizers_are_kept_and_read_any_text(tmp_path: Path, tokenizers: Tokenizers):
    kept = kept_tokenizers(tmp_path, lambda: sentences(600))

    for text in ("make it Sepia", "", "日本 ü \U0001f600", "x" * 500):
        for made, read in ((tokenizers.clip, kept.clip), (tokenizers.t5, kept.t5)):
            ids = cast(Any, read)(text, padding="max_length", max_length=40, truncation=True)["input_ids"]
            assert ids == cast(Any, made)(text, padding="max_length", max_length=40, truncation=True)["input_ids"]
            assert len(ids) == 40


def test_ids_of_many_texts_are_those_of_calling_the_tokenizers(tokenizers: Tokenizers):
    texts = ["make it Sepia", "", "\u65e5\u672c \u00fc", *sentences(50), "word " * 60]

    for quick, tokenizer in zip(tokenizers.ids(texts), (tokenizers.clip, tokenizers.t5), strict=True):
        called = cast(Any, tokenizer)(texts, padding="max_length", max_length=40, truncation=True, return_tensors="pt")
        assert torch.equal(quick, called.input_ids)


def test_a_strength_s_that_starts_from_the_source_ends_at_the_part_s_of_the_edit():
    source, target = torch.zeros(1, 4, 2, 2), torch.ones(1, 4, 2, 2)
    noise = torch.randn((1, 4, 2, 2), generator=torch.Generator().manual_seed(1))
    strength, steps = 0.6, 6
    latents = torch.lerp(source, noise, strength)
    for step in range(steps):
        sigma = torch.tensor([strength * (1 - step / steps)])
        shown = (strength - sigma) / (1 - sigma)
        on_the_way, velocity = noisy_and_velocity(source, target, noise, Drawn(sigma, shown, torch.zeros(1).bool()))
        assert torch.allclose(on_the_way, latents, atol=1e-5)
        latents = latents - velocity * strength / steps

    assert torch.allclose(latents, torch.full_like(latents, strength), atol=1e-5)


def test_from_where_sampling_came_to_the_rest_of_the_way_leads_to_the_edit():
    noise, target = torch.randn((2, 5, 4, 2, 2), generator=torch.Generator().manual_seed(1))
    sigma = torch.linspace(LEAST_OWN_SIGMA, 1, 5)
    level = sigma[:, None, None, None]
    seen: list[Tensor] = []

    def right(latents: Tensor, levels: Tensor) -> Tensor:
        seen.append(levels)
        return rest_of_the_way(latents, target, levels)

    reached = sampled(noise, sigma, 3, right)
    straight = sampled(noise, sigma, 1, lambda *_: noise - target)
    wrong = sampled(noise, sigma, 2, lambda latents, _: latents)

    assert torch.allclose(reached, torch.lerp(target, noise, level), atol=1e-5)
    assert torch.allclose(straight, reached, atol=1e-5)
    assert torch.allclose(torch.stack(seen), torch.stack([torch.ones(5), (2 + sigma) / 3, (1 + 2 * sigma) / 3]))
    assert torch.allclose(wrong, noise * ((1 + level) / 2) ** 2, atol=1e-5)
    assert torch.allclose(wrong - level * rest_of_the_way(wrong, target, sigma), target, atol=1e-5)


def test_a_quarter_of_the_rows_goes_on_from_the_networks_own_first_steps():
    gradual = torch.arange(1000) % 2 == 0
    drawn = draw(1000, gradual, torch.Generator().manual_seed(0))
    few = [int(draw(2, gradual[:2], torch.Generator().manual_seed(i)).own.sum()) for i in range(100)]

    assert drawn.own.sum() == 250
    assert drawn.shown[drawn.own].eq(1).all()
    assert drawn.sigma[drawn.own].min() >= LEAST_OWN_SIGMA
    assert drawn.sigma[drawn.own].max() < 1
    assert not drawn.shown[gradual].eq(1).all()
    assert drawn.shown[~gradual].eq(1).all()
    assert set(few) == {0, 1}
    assert 30 < sum(few) < 70


def test_tokens_are_unpacked_as_they_were_packed():
    latents = torch.randn((2, 3, 4, 6), generator=torch.Generator().manual_seed(0))

    assert torch.equal(unpack(pack(latents), 2), latents)


def test_a_small_picture_has_the_places_of_a_large_one():
    """Every row and column of the large one now and then, in order, and what is mirrored at its own place."""
    small = torch.zeros(1, LATENT_CHANNELS, 16, 8)
    generator = torch.Generator().manual_seed(0)
    seen: set[int] = set()

    for _ in range(50):
        axes = spread(small, 4, generator)
        rows = axes.rows.tolist()
        seen.update(rows)
        assert [row // 4 for row in rows] == [*range(8)]
        assert [31 - row for row in reversed(rows)] == rows
        assert [column // 4 for column in axes.columns.tolist()] == [*range(4)]

    assert seen == {*range(32)}
    assert spread(small[..., :6], 4, generator).columns.tolist()[1] // 4 == 1


def test_small_pictures_lie_beside_each_other_as_large_ones_do():
    small, large = (torch.zeros(1, LATENT_CHANNELS, side, side) for side in (8, 32))
    pictures, generator = [small, small], torch.Generator().manual_seed(0)

    told, of_large = positions(small, pictures, spread(small, 4, generator)), positions(large, [large, large])

    assert {(int(i), int(r) // 4, int(c) // 4) for i, r, c in told} == {
        (int(i), int(r) // 4, int(c) // 4) for i, r, c in of_large
    }
    assert torch.equal(positions(small, pictures, spread(small, 1, generator)), positions(small, pictures))


def test_guidance_one_is_the_edit_and_the_most_is_half_as_much_again():
    source, target = torch.full((2, 3, 1, 1), 0.4), torch.full((2, 3, 1, 1), 0.5)

    assert torch.allclose(
        guided(source, target, torch.tensor([1.0, MAX_GUIDANCE]))[:, 0, 0, 0], torch.tensor([0.5, 0.55])
    )


@pytest.fixture(scope="module")
def batches(tokenizers: Tokenizers) -> EditBatches:
    formats = (Format((32, 48), 12, 0.5), Format((64, 64), 6, 0.5))
    return EditBatches(cast(Photographs, _Colours()), tokenizers, formats, CPU, seed=3)


def test_a_batch_follows_from_its_number_alone(batches: EditBatches):
    one, again, other = batches[5], batches[5], batches[6]

    for name in (f.name for f in fields(Batch)):
        first, second = getattr(one, name), getattr(again, name)
        assert torch.equal(first, second) if isinstance(first, Tensor) else first == second, name
    assert one.t5_ids.shape != other.t5_ids.shape or not torch.equal(one.t5_ids, other.t5_ids)


def test_batches_have_every_format_and_now_and_then_a_second_picture(batches: EditBatches):
    made = [batches[number] for number in range(60)]

    assert {batch.source.shape[2:] for batch in made} == {(32, 48), (64, 64)}
    assert 1 <= sum(batch.reference is not None for batch in made) <= 15
    for batch in made:
        assert batch.source.shape == batch.target.shape
        assert len({len(tensor) for tensor in (batch.source, batch.clip_ids, batch.guidance, batch.gradual)}) == 1


def test_under_a_mask_whole_tokens_count_alone(batches: EditBatches, monkeypatch: pytest.MonkeyPatch):
    """What the network draws elsewhere in a token is not what is wanted, as it does not know of the mask."""
    monkeypatch.setattr("embedded_model.mini.batches._ONE_IMAGE", (("masked",), (1.0,)))
    whole = 0
    for number in range(10):
        for counted in batches[number].counted:
            inside = functional.max_pool2d(counted, TOKEN) > 0
            if not inside.all() and (functional.avg_pool2d((counted > 0).float(), TOKEN) == 1).any():
                assert torch.equal(inside, -functional.max_pool2d(-counted, TOKEN) > 0)
                whole += 1
    assert whole > 0


@pytest.mark.parametrize(("edit", "exaggerated"), [("black_and_white", False), ("blur", False), ("warmer", True)])
def test_guidance_exaggerates_only_what_there_can_be_more_of(
    batches: EditBatches, monkeypatch: pytest.MonkeyPatch, edit: str, exaggerated: bool
):
    """Twice "black and white" would have colours, and twice "blur" would be sharp."""
    monkeypatch.setattr("embedded_model.mini.batches.GROUPS", {**GROUPS, "tones": Single(1.0, (edit,))})
    monkeypatch.setattr("embedded_model.mini.batches._ONE_IMAGE", (("tones",), (1.0,)))
    batch = next(batch for batch in map(batches.__getitem__, range(20)) if batch.reference is None)
    plain = apply(batch.source, [edit])

    guided_rows = batch.guidance > 1.5

    assert guided_rows.any()
    assert torch.allclose(batch.target[~guided_rows & (batch.guidance == 1)], plain[batch.guidance == 1])
    assert torch.allclose(batch.target, plain) != exaggerated


def test_what_a_picture_changes_counts_as_much_as_what_stays_within_limits(batches: EditBatches):
    partly = 0
    for number in range(20):
        batch = batches[number]
        for row in (~batch.gradual & (batch.counted.amin((1, 2, 3)) > 0)).nonzero().flatten():
            changed = (batch.source[row] != batch.target[row]).any(0)
            assert batch.counted[row, 0][~changed].eq(1).all()
            if changed.any():
                (counts,) = batch.counted[row, 0][changed].unique()
                as_much = (~changed).sum() / changed.sum()
                assert torch.allclose(counts, as_much.clamp(4, 32))
                partly += bool(as_much > 4)
    assert partly > 0


@dataclass
class _Colours:
    """Stands for photographs: smooth pictures of any size."""

    def crops(self, count: int, size: tuple[int, int], seed: int) -> Tensor:
        coarse = torch.rand((count, 3, 4, 4), generator=torch.Generator().manual_seed(seed))
        return nn.functional.interpolate(coarse, size, mode="bilinear")


def test_the_transformer_learns_edits_and_muon_trains_its_blocks(
    monkeypatch: pytest.MonkeyPatch,
    transform: BlockTransform,
    autoencoder: AutoencoderKL,
    tokenizers: Tokenizers,
    batches: EditBatches,
):
    monkeypatch.setattr("embedded_model.mini.edit_stage.blocks_compiled", lambda *_: None)
    torch.manual_seed(0)
    networks = new_networks(tokenizers, Shape(1, 1, 1, 1))
    photographs = cast(Photographs, _Colours())
    stage = EditStage(batches, photographs, transform, autoencoder, tokenizers, networks, 2, CPU)
    optimizer = torch.optim.Adam(stage.modules.parameters(), 1e-3)

    def loss() -> float:
        found = stage.losses(5)["loss"]
        optimizer.zero_grad()
        found.backward()
        optimizer.step()
        return found.item()

    losses = [loss() for _ in range(40)]

    assert losses[-1] < 0.5 * losses[0]
    trained_by_muon = {id(matrix) for matrix in stage.matrices}
    for name, weight in networks.named_parameters():
        a_map = ("transformer_blocks." in name or "_2.encoder.block." in name) and weight.dim() == 2
        assert (id(weight) in trained_by_muon) == (a_map and "relative_attention_bias" not in name), name


@dataclass
class _Line:
    """Learns a line's slope. stop_at: the step at which it is asked to stop, by the signal that ends a process.

    muon: whether the slope is a matrix that Muon trains.
    """

    stop_at: int | None = None
    muon: bool = False
    broken_at: int | None = None
    shown: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        line = nn.Linear(3, 1)
        self.modules = nn.ModuleDict({"line": line})
        self.matrices = [line.weight] if self.muon else []

    def losses(self, step: int) -> Mapping[str, Tensor]:
        if step == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        x = torch.randn((8, 3), generator=torch.Generator().manual_seed(step))
        loss = (self.modules["line"](x) - x.sum(1, keepdim=True)).square().mean()
        return {"loss": loss * float("nan") if step == self.broken_at else loss}

    def show(self, average: nn.ModuleDict, file: Path) -> None:
        self.shown.append(file.name)


SCHEDULE = Schedule(steps=40, rate=0.1, warmup=4, log_every=5, save_every=10)


@pytest.mark.parametrize("muon", [False, True], ids=["AdamW alone", "Muon beside it"])
def test_a_run_that_is_stopped_goes_on_as_if_it_had_not_been(tmp_path: Path, muon: bool):
    whole, first, second = _Line(muon=muon), _Line(stop_at=17, muon=muon), _Line(muon=muon)
    assert Run(whole, SCHEDULE, tmp_path / "whole", CPU).train()

    stopped = Run(first, SCHEDULE, tmp_path / "parts", CPU)
    assert not stopped.train()
    assert stopped.done == 18
    assert Run(second, SCHEDULE, tmp_path / "parts", CPU).train()

    for name, weight in whole.modules.state_dict().items():
        assert torch.equal(weight, second.modules.state_dict()[name])
    averages = [_Line().modules for _ in range(2)]
    assert [load_average(m, tmp_path / p) for m, p in zip(averages, ("whole", "parts"), strict=True)] == [40, 40]
    assert torch.equal(*(cast(nn.Linear, modules["line"]).weight for modules in averages))


@pytest.mark.parametrize(("muon", "rate"), [(False, 0.1), (True, 0.3)], ids=["AdamW alone", "Muon beside it"])
def test_a_run_learns_and_shows_and_logs_it(tmp_path: Path, muon: bool, rate: float):
    line = _Line(muon=muon)

    Run(line, replace(SCHEDULE, rate=rate), tmp_path, CPU).train()

    rows = [row.split(",") for row in (tmp_path / "losses.csv").read_text().splitlines()[1:]]
    assert [int(row[0]) for row in rows] == [*range(5, 45, 5)]
    assert float(rows[-1][3]) < 0.1 * float(rows[0][3])
    assert line.shown[0] == "step-000010.png"
    assert line.shown[-1] == "step-000040.png"


def test_a_run_ends_after_its_minutes(tmp_path: Path):
    run = Run(_Line(), replace(SCHEDULE, steps=10**9, minutes=0.005), tmp_path, CPU)

    assert run.train()
    assert 0 < run.done < 10**6


def test_a_loss_that_is_no_number_ends_the_run(tmp_path: Path):
    with pytest.raises(FloatingPointError, match="the loss is nan at step 15"):
        Run(_Line(broken_at=12), SCHEDULE, tmp_path, CPU).train()
    assert load_average(_Line().modules, tmp_path) == 10


def test_the_photographs_crops_have_any_size_and_follow_from_the_seed():
    photographs = Photographs.__new__(Photographs)
    choose = random.Random(0)
    scales = [[torch.randint(0, 255, (3, side, 2 * side), dtype=torch.uint8) for side in (40, 80)] for _ in range(3)]
    vars(photographs).update(_device=CPU, _scales=scales)

    for size in ((16, 32), (64, 16), (80, 160), (160, 80)):
        seed = choose.randrange(100)
        crops = photographs.crops(3, size, seed)
        assert crops.shape == (3, 3, *size)
        assert torch.equal(crops, photographs.crops(3, size, seed))
        assert crops.min() >= 0
        assert crops.max() <= 1
    with pytest.raises(ValueError, match="no photograph has 96x96 pixels"):
        photographs.crops(1, (96, 96), 0)


def test_crops_show_something_where_the_photographs_do():
    photographs = Photographs.__new__(Photographs)
    picture = torch.zeros(3, 32, 256, dtype=torch.uint8)
    picture[:, :, 192:] = torch.arange(0, 256, 8)[:, None]  # a quarter shows something
    vars(photographs).update(_device=CPU, _scales=[[picture]])

    flat = photographs.crops(200, (32, 32), 0).flatten(1).std(1) < 0.03

    assert 0.1 < flat.float().mean() < 0.5  # and of crops at random, nearly three quarters


def test_seeds_of_different_purposes_and_numbers_differ():
    seeds = {seed_of(purpose, number) for purpose in ("words", "noise") for number in range(100)}

    assert len(seeds) == 200


def test_a_block_is_the_side_of_a_latent_cell():
    assert 2 ** (len(new_autoencoder().config["block_out_channels"]) - 1) == BLOCK


def test_an_error_counts_more_in_a_channel_that_shows_more(transform: BlockTransform):
    seen = how_much_is_seen(transform)
    one_each = transform.invert(torch.eye(LATENT_CHANNELS)[:, :, None, None])
    shown = one_each.square().sum((1, 2, 3)).sqrt()

    assert torch.allclose(seen, shown / shown.mean(), rtol=1e-4)
    assert seen[0] == seen.max() > 2


def test_a_token_is_two_blocks_wide():
    assert TOKEN == PACK * BLOCK
