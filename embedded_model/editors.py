"""Two ways to have a picture edited: over HTTP by a running server, or directly from a checkpoint folder."""

import base64
import io
from pathlib import Path
from typing import Any, Protocol

import httpx
import torch
from PIL import Image
from transformers import AutoTokenizer, T5EncoderModel

from embedded_model.sampling import DEFAULT_STEPS, edit_latents, encode_text, to_latents, to_pictures
from serve.families.pixel_edit_unet import PixelEditUNet

TIMEOUT_S = 300.0


class Editor(Protocol):
    @property
    def takes_empty_prompt(self) -> bool: ...

    def edit(self, picture: Image.Image, prompt: str, seed: int, strength: float = 1.0) -> Image.Image:
        """The edited picture, of the same size; strength in (0, 1], 1 is the whole edit."""
        ...


class HttpEditor:
    """Sends each edit to POST /v1/images/edits."""

    takes_empty_prompt = False

    def __init__(self, url: str, model: str) -> None:
        self.client = httpx.Client(base_url=url, timeout=TIMEOUT_S)
        self.model = model

    def edit(self, picture: Image.Image, prompt: str, seed: int, strength: float = 1.0) -> Image.Image:
        body: dict[str, Any] = {
            "model": self.model,
            "images": [_to_base64(picture)],
            "prompt": prompt,
            "size": f"{picture.width}x{picture.height}",
            "response_format": "b64_json",
            "seed": seed,
        }
        if strength < 1:
            body["strength"] = strength
        response = self.client.post("/v1/images/edits", json=body)
        if response.is_error:
            raise RuntimeError(f"{prompt!r}: {response.status_code} {response.text[:500]}")
        return Image.open(io.BytesIO(base64.b64decode(response.json()["data"][0]["b64_json"]))).convert("RGB")


class CheckpointEditor:
    """Runs the sampler in this process, in float32 on the CPU."""

    takes_empty_prompt = True

    def __init__(self, folder: Path, steps: int = DEFAULT_STEPS) -> None:
        self.denoiser = PixelEditUNet.from_pretrained(folder / "denoiser", torch_dtype=torch.float32).eval()
        self.encoder = T5EncoderModel.from_pretrained(folder / "text_encoder", dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
        self.steps = steps

    def edit(self, picture: Image.Image, prompt: str, seed: int, strength: float = 1.0) -> Image.Image:
        config = self.denoiser.config
        source = to_latents([picture], config["patch_size"])
        text, mask = encode_text(self.tokenizer, self.encoder, [prompt], config["text_length"])
        noise = torch.randn(source.shape, generator=torch.Generator().manual_seed(seed))
        edited = edit_latents(self.denoiser, source, text, mask, noise, self.steps, strength)
        return to_pictures(edited, config["patch_size"])[0]


def _to_base64(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", compress_level=1)
    return base64.b64encode(buffer.getvalue()).decode()
