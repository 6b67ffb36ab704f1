"""Flow matching: the schedule of one row and its steps, as pure functions. Rows never see each other here.

Flow matching goes in straight lines: x_sigma = (1 - sigma) * image + sigma * noise; sigma 1 is noise and 0 the image,
and the velocity dx/dsigma is noise - image (Liu et al. 2022, "Flow straight and fast"; Esser et al. 2024). The
arithmetic is, operation by operation, that of diffusers' `FlowMatchEulerDiscreteScheduler`: results agree bit for bit.

A sigma is a scalar tensor of float32 on the CPU, an element of the schedule. It is rounded to the latents' type before
it meets them: a float32 sigma beside bfloat16 latents would drift from what the models were tuned with.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
import torch
from torch import Tensor

from serve.errors import ConfigurationError

TIMESTEPS = 1000
"""Models are told sigma * TIMESTEPS, rounded to their precision, and divided again where they expect 0 to 1."""

_UNSUPPORTED = (
    "invert_sigmas",
    "shift_terminal",
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
    "stochastic_sampling",
)


@dataclass(frozen=True, slots=True)
class Shift:
    """How a checkpoint bends the straight schedule towards noise, because large pictures hide noise better.

    fixed: the shift at every size, for checkpoints that do not look at it. dynamic: bend by exp(mu) instead, where mu
    runs in a straight line through (base_tokens, base_shift) and (max_tokens, max_shift).
    """

    fixed: float = 1.0
    dynamic: bool = False
    base_tokens: int = 256
    max_tokens: int = 4096
    base_shift: float = 0.5
    max_shift: float = 1.15

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Shift":
        """Of a checkpoint's `scheduler_config.json`. Raises ConfigurationError for a schedule that is not this one."""
        _refuse_other_schedules(config)
        return cls(
            fixed=config.get("shift", 1.0),
            dynamic=config.get("use_dynamic_shifting", False),
            base_tokens=config.get("base_image_seq_len", 256),
            max_tokens=config.get("max_image_seq_len", 4096),
            base_shift=config.get("base_shift", 0.5),
            max_shift=config.get("max_shift", 1.15),
        )

    def mu(self, tokens: int) -> float:
        """The logarithm of the dynamic shift for a picture of that many latent tokens."""
        slope = (self.max_shift - self.base_shift) / (self.max_tokens - self.base_tokens)
        return tokens * slope + (self.base_shift - slope * self.base_tokens)


def flow_sigmas(steps: int, shift: Shift, tokens: int = 0) -> Tensor:
    """The full schedule: (steps + 1,) float32, falling from 1 to 0. tokens: of the picture, for a dynamic shift."""
    straight = np.linspace(1.0, 1 / steps, steps).astype(np.float32)
    if shift.dynamic:
        factor = math.exp(shift.mu(tokens))
        bent = factor / (factor + (1 / straight - 1))
    else:
        bent = shift.fixed * straight / (1 + (shift.fixed - 1) * straight)
    return torch.from_numpy(np.append(bent, 0).astype(np.float32))


def steps_to_run(steps: int, strength: float) -> int:
    """How many of the schedule's last steps a strength of (0, 1] runs: max(1, floor(steps * strength)).

    In decimals: 100 steps at 0.29 are 29, which a product of binary floats would make 28.
    """
    return max(1, int(Decimal(repr(float(strength))) * steps))


def last_steps(sigmas: Tensor, strength: float) -> Tensor:
    """The part of the schedule that a strength of (0, 1] runs: (ticks + 1,), still falling to 0."""
    return sigmas[len(sigmas) - 1 - steps_to_run(len(sigmas) - 1, strength) :]


def add_noise(source: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """The source at noise level sigma: x_sigma = (1 - sigma) * source + sigma * noise. source, noise: equal shapes."""
    sigma = sigma.to(source.dtype)
    return sigma * noise + (1.0 - sigma) * source


def euler(latents: Tensor, velocity: Tensor, sigma: Tensor, sigma_next: Tensor) -> Tensor:
    """One step from sigma to sigma_next along the velocity. The sum is taken in float32, the result in its type."""
    dt = (sigma_next - sigma).to(velocity.dtype)
    return (dt * velocity).add_(latents.float()).to(velocity.dtype)


def velocity_of_sample(latents: Tensor, predicted: Tensor, sigma: Tensor) -> Tensor:
    """The velocity that a model which predicts the clean image implies: (x_sigma - image) / sigma, for sigma > 0."""
    return (latents - predicted) / sigma.to(latents.dtype)


def sample_of_velocity(latents: Tensor, velocity: Tensor, sigma: Tensor) -> Tensor:
    """The clean image that a velocity implies, where the straight line through x_sigma ends: x_sigma - sigma * v."""
    return latents - sigma.to(latents.dtype) * velocity


def guide(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance (Ho and Salimans 2022): away from the unconditional answer; 1 is no guidance."""
    return unconditional + scale * (conditional - unconditional)


def blend(latents: Tensor, source: Tensor, noise: Tensor, mask: Tensor, sigma: Tensor) -> Tensor:
    """Latents where the mask is 1, and where it is 0 the source as it looks at noise level sigma."""
    kept = add_noise(source, noise, sigma) if sigma > 0 else source
    return (1 - mask) * kept + mask * latents


def _refuse_other_schedules(config: Mapping[str, Any]) -> None:
    name = config.get("_class_name")
    if name != "FlowMatchEulerDiscreteScheduler":
        raise ConfigurationError(f"scheduler {name} is not served; only FlowMatchEulerDiscreteScheduler is")
    for key in _UNSUPPORTED:
        if config.get(key):
            raise ConfigurationError(f"the scheduler's {key}: {config[key]!r} is not served")
    if config.get("num_train_timesteps", TIMESTEPS) != TIMESTEPS:
        raise ConfigurationError(f"the scheduler's num_train_timesteps must be {TIMESTEPS}")
    if config.get("use_dynamic_shifting") and config.get("time_shift_type", "exponential") != "exponential":
        raise ConfigurationError(f"the scheduler's time_shift_type: {config['time_shift_type']!r} is not served")
