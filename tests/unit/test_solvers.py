"""The solvers against diffusers' scheduler, step by step, and against the equations they are made of."""

import json
import math
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux.pipeline_flux_kontext import calculate_shift
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from serve.errors import ConfigurationError
from serve.families.solvers import (
    Shift,
    add_noise,
    blend,
    euler,
    flow_sigmas,
    guide,
    last_steps,
    steps_to_run,
    velocity_of_sample,
)

FLUX: Any = FlowMatchEulerDiscreteScheduler(
    shift=3.0,
    use_dynamic_shifting=True,
    base_shift=0.5,
    max_shift=1.15,
    base_image_seq_len=256,
    max_image_seq_len=4096,
)
PLAIN: Any = FlowMatchEulerDiscreteScheduler()
FIXED: Any = FlowMatchEulerDiscreteScheduler(shift=3.0)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@pytest.mark.parametrize("tokens", [16, 256, 1024, 4096, 6144])
@pytest.mark.parametrize("steps", [1, 2, 7, 28, 100])
@pytest.mark.parametrize("scheduler", [FLUX, PLAIN, FIXED], ids=["flux", "plain", "fixed shift"])
def test_the_schedule_equals_diffusers(scheduler: Any, steps: int, tokens: int):
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps).tolist(), mu=calculate_shift(tokens))

    sigmas = flow_sigmas(steps, _shift(scheduler), tokens)

    assert sigmas.dtype == torch.float32
    assert torch.equal(sigmas, scheduler.sigmas)


@given(
    steps=st.integers(1, 100),
    tokens=st.integers(1, 10_000),
    shift=st.sampled_from([Shift(), Shift(fixed=3.0), Shift(dynamic=True)]),
)
def test_a_schedule_falls_from_noise_to_the_image(steps: int, tokens: int, shift: Shift):
    sigmas = flow_sigmas(steps, shift, tokens)

    assert sigmas.shape == (steps + 1,)
    assert sigmas[0] == 1
    assert sigmas[-1] == 0
    assert bool((sigmas.diff() < 0).all())


@given(steps=st.integers(1, 100), percent=st.integers(1, 100))
def test_a_strength_runs_the_last_steps_counted_in_decimals(steps: int, percent: int):
    sigmas = flow_sigmas(steps, Shift(dynamic=True), tokens=1024)

    run = last_steps(sigmas, percent / 100)

    assert steps_to_run(steps, percent / 100) == max(1, math.floor(Fraction(percent, 100) * steps))
    assert len(run) - 1 == steps_to_run(steps, percent / 100)
    assert torch.equal(run, sigmas[-len(run) :])


def test_the_smallest_strength_runs_one_step():
    assert steps_to_run(100, 1e-9) == 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scheduler", [FLUX, PLAIN], ids=["flux", "plain"])
def test_every_euler_step_equals_diffusers(scheduler: Any, dtype: torch.dtype):
    steps = 12
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps).tolist(), mu=calculate_shift(1024))
    scheduler.set_begin_index(0)
    sigmas = flow_sigmas(steps, _shift(scheduler), 1024)
    ours = theirs = _normal(0, dtype)
    for step, timestep in enumerate(scheduler.timesteps):
        velocity = _normal(step + 1, dtype)

        ours = euler(ours, velocity, sigmas[step], sigmas[step + 1])
        theirs = scheduler.step(velocity, timestep, theirs, return_dict=False)[0]

        assert ours.dtype == dtype
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("index", [0, 1, 6, 11])
def test_noising_equals_diffusers(index: int, dtype: torch.dtype):
    FLUX.set_timesteps(sigmas=np.linspace(1.0, 1 / 12, 12).tolist(), mu=calculate_shift(1024))
    FLUX.set_begin_index(index)
    source, noise = _normal(0, dtype), _normal(1, dtype)

    ours = add_noise(source, noise, flow_sigmas(12, Shift(dynamic=True), 1024)[index])

    assert torch.equal(ours, FLUX.scale_noise(source, FLUX.timesteps[index : index + 1], noise))


def test_at_the_first_sigma_only_noise_is_left():
    source, noise = _normal(0), _normal(1)

    assert torch.equal(add_noise(source, noise, torch.tensor(1.0)), noise)
    assert torch.equal(add_noise(source, noise, torch.tensor(0.0)), source)


def test_a_model_that_predicts_the_image_exactly_arrives_at_it():
    image, noise = _normal(0), _normal(1)
    sigmas = flow_sigmas(5, Shift())
    latents = add_noise(image, noise, sigmas[0])
    for sigma, sigma_next in pairwise(sigmas):
        latents = euler(latents, velocity_of_sample(latents, image, sigma), sigma, sigma_next)

    # Five float32 subtractions, divisions and sums of values of size 1 to 4: a few units in the last place each.
    torch.testing.assert_close(latents, image, rtol=0, atol=5e-6)


def test_the_velocity_of_a_sample_is_noise_minus_image():
    image, noise, sigma = _normal(0), _normal(1), torch.tensor(0.5)

    velocity = velocity_of_sample(add_noise(image, noise, sigma), image, sigma)

    torch.testing.assert_close(velocity, noise - image, rtol=0, atol=1e-6)


def test_guidance_of_zero_one_and_two_goes_to_neither_to_one_and_beyond():
    conditional, unconditional = torch.tensor([3.0]), torch.tensor([1.0])

    assert [guide(conditional, unconditional, scale).item() for scale in (0, 1, 2)] == [1, 3, 5]


@pytest.mark.parametrize("sigma", [0.0, 0.3, 1.0])
def test_a_blend_keeps_the_noised_source_outside_the_mask(sigma: float):
    latents, source, noise = _normal(0), _normal(1), _normal(2)
    mask = torch.zeros_like(source)
    mask[:, ::2] = 1

    mixed = blend(latents, source, noise, mask, torch.tensor(sigma))

    assert torch.equal(mixed[:, ::2], latents[:, ::2])
    assert torch.equal(mixed[:, 1::2], add_noise(source, noise, torch.tensor(sigma))[:, 1::2])


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"use_karras_sigmas": True}, "use_karras_sigmas"),
        ({"use_exponential_sigmas": True}, "use_exponential_sigmas"),
        ({"use_beta_sigmas": True}, "use_beta_sigmas"),
        ({"invert_sigmas": True}, "invert_sigmas"),
        ({"shift_terminal": 0.1}, "shift_terminal"),
        ({"stochastic_sampling": True}, "stochastic_sampling"),
        ({"num_train_timesteps": 500}, "num_train_timesteps"),
        ({"use_dynamic_shifting": True, "time_shift_type": "linear"}, "time_shift_type"),
        ({"_class_name": "DDIMScheduler"}, "DDIMScheduler"),
    ],
)
def test_a_schedule_that_is_not_served_is_named(config: dict[str, object], named: str):
    with pytest.raises(ConfigurationError, match=named):
        Shift.from_config({"_class_name": "FlowMatchEulerDiscreteScheduler", **config})


def _shift(scheduler: Any) -> Shift:
    """Of the configuration as a checkpoint's file holds it."""
    return Shift.from_config(json.loads(scheduler.to_json_string()))


def _normal(seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(1, 24, 8, generator=torch.Generator().manual_seed(seed)).to(dtype)
