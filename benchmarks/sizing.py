"""What a GPU must hold and compute for FLUX.1 Kontext, counted on the real architecture without weights.

`python -m benchmarks.sizing` prints the tables of `k8s/sizing.md`: bytes of weights by component and precision,
operations of an edit at each size, and edits an hour for shares of the GPU's peak. Nothing is computed and nothing is
measured: torch counts parameters and operations on its device `meta`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from benchmarks.gpu import Network, networks
from benchmarks.gpu_report import tflop_of
from benchmarks.real_models import Module, with_random_weights
from benchmarks.real_shapes import CLIP_WORDS, REAL_SUMMARY_TOKENS, REAL_TEXT_TOKENS, T5_WORDS
from serve.families.flux_kontext_components import TextEncoder, TextEncoder2

META = torch.device("meta")
SIDES = (512, 1024)
STEPS = 28
PEAKS: Mapping[str, float] = {"H100 or H200": 989.0, "L40S": 362.0, "A100": 312.0}
"""Dense bfloat16, TFLOP/s, by NVIDIA's data sheets."""
SHARES = (0.3, 0.4, 0.5)
"""Of the peak: what networks of this kind reach, from eager to compiled."""
GIB = 2**30


@dataclass(frozen=True, slots=True)
class Component:
    """parameters: how many. tflop: of one row at a side in pixels."""

    name: str
    parameters: int
    tflop: Mapping[int, float]


@dataclass(frozen=True, slots=True)
class Sizing:
    """text: the encoders of the prompt. denoiser: one step."""

    text: tuple[Component, ...]
    encoder: Component
    denoiser: Component
    decoder: Component

    @property
    def components(self) -> tuple[Component, ...]:
        return (*self.text, self.encoder, self.denoiser, self.decoder)

    def edit_tflop(self, side: int) -> float:
        """Of a whole edit of one picture, nothing of which is in a cache."""
        once = (*self.text, self.encoder, self.encoder, self.decoder)  # the picture as canvas and as reference
        return sum(one.tflop[side] for one in once) + STEPS * self.denoiser.tflop[side]

    def edits_per_hour(self, side: int, peak_tflop_per_s: float, share: float) -> float:
        return 3600 * peak_tflop_per_s * share / self.edit_tflop(side)


@lru_cache
def sizing() -> Sizing:
    denoiser, encoder, decoder, _ = networks()
    return Sizing(_text_encoders(), _component(encoder), _component(denoiser), _component(decoder))


def page(found: Sizing) -> str:
    peaks = [(gpu, peak, share) for gpu, peak in PEAKS.items() for share in SHARES]
    return "\n".join(
        [
            "| component | weights | bfloat16, GiB | float32, GiB | "
            + " | ".join(f"TFLOP at {side} px" for side in SIDES)
            + " |",
            "|---" * (4 + len(SIDES)) + "|",
            *(_line(one) for one in found.components),
            f"| an edit, {STEPS} steps | {_millions(found)} | {_gib(found, 2)} | {_gib(found, 4)} | "
            + " | ".join(f"{found.edit_tflop(side):,.0f}" for side in SIDES)
            + " |",
            "",
            "| GPU | share of its peak | " + " | ".join(f"edits an hour, {side} px" for side in SIDES) + " |",
            "|---" * (2 + len(SIDES)) + "|",
            *(
                f"| {gpu} | {100 * share:.0f} % of {peak:.0f} TFLOP/s | "
                + " | ".join(f"{found.edits_per_hour(side, peak, share):,.0f}" for side in SIDES)
                + " |"
                for gpu, peak, share in peaks
            ),
        ]
    )


def _text_encoders() -> tuple[Component, Component]:
    """CLIP-L and T5-XXL, as the checkpoint has them."""
    clip = CLIPTextConfig(
        vocab_size=CLIP_WORDS, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12
    )
    t5 = T5Config(
        vocab_size=T5_WORDS,
        d_model=4096,
        d_kv=64,
        d_ff=10240,
        num_layers=24,
        num_heads=64,
        feed_forward_proj="gated-gelu",
    )
    modules: dict[str, tuple[nn.Module, int]] = {
        "text_encoder": (
            TextEncoder(_outline(lambda: CLIPTextModel(clip))),
            REAL_SUMMARY_TOKENS,
        ),
        "text_encoder_2": (
            TextEncoder2(_outline(lambda: T5EncoderModel(t5))),
            REAL_TEXT_TOKENS,
        ),
    }
    first, second = (_text_encoder(name, module, tokens) for name, (module, tokens) in modules.items())
    return first, second


def _outline(make: Callable[[], Module]) -> Module:
    return with_random_weights(make, META, torch.bfloat16)


def _text_encoder(name: str, module: nn.Module, tokens: int) -> Component:
    tflop = tflop_of(module, {"ids": torch.zeros((1, tokens), dtype=torch.int64, device=META)})
    return Component(name, _parameters(module), dict.fromkeys(SIDES, tflop))


def _component(network: Network) -> Component:
    tflop = {side: network.tflop(side, batch=1) for side in SIDES}
    return Component(network.spec.name, _parameters(network.make(META)), tflop)


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _line(one: Component) -> str:
    counts = " | ".join(f"{one.tflop[side]:,.2f}" for side in SIDES)
    return (
        f"| {one.name} | {one.parameters / 1e6:,.0f} M | {2 * one.parameters / GIB:.1f} | "
        f"{4 * one.parameters / GIB:.1f} | {counts} |"
    )


def _millions(found: Sizing) -> str:
    return f"{sum(one.parameters for one in found.components) / 1e6:,.0f} M"


def _gib(found: Sizing, size: int) -> str:
    return f"{size * sum(one.parameters for one in found.components) / GIB:.1f}"


def main() -> None:
    print(page(sizing()))


if __name__ == "__main__":
    main()
