"""What people write first: diffusers' own FLUX.1 Kontext pipeline behind FastAPI, one request after the other.

`python -m benchmarks.plain_diffusers FOLDER --port 8001 --threads 2` answers `POST /v1/images/edits` in this server's
JSON, so that the same harness measures both on the same checkpoint. A lock keeps the pipeline to one call at a time, in
a thread, and nothing is batched, cached, checked or cancelled. It takes one picture, `prompt`, `size`, `n`, `seed`,
`num_inference_steps`, `guidance_scale`, `strength` and `mask`, and answers PNG in base64.

The work of a request is that of this server: the source is cropped to the output's aspect, an output below 512 pixels
is drawn at 512 and reduced, and without a `strength` or `mask` the whole picture is drawn anew.
"""

import argparse
import asyncio
import base64
import io
import secrets
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import uvicorn
from diffusers import FluxKontextInpaintPipeline, FluxKontextPipeline
from fastapi import FastAPI, Response
from PIL import Image, ImageOps
from pydantic import BaseModel

from benchmarks.server import free_port

DRAW_MIN = 512
GUIDANCE = 2.5
STEPS = 28
MODEL = "plain-diffusers"
START_TIMEOUT_S = 60.0


class Asked(BaseModel):
    """The fields that it knows; others are passed over."""

    images: list[str]
    prompt: str
    mask: str | None = None
    n: int = 1
    size: str = "1024x1024"
    num_inference_steps: int = STEPS
    guidance_scale: float = GUIDANCE
    strength: float = 1.0
    seed: int | None = None


class PlainEditor:
    """The two pipelines of one checkpoint. draw: one call at a time."""

    def __init__(self, folder: Path, precision: str) -> None:
        self._whole: Any = FluxKontextPipeline.from_pretrained(folder, dtype=getattr(torch, precision))
        self._whole.set_progress_bar_config(disable=True)
        self._inpaint: Any = FluxKontextInpaintPipeline(**self._whole.components)
        self._inpaint.set_progress_bar_config(disable=True)
        self._text_tokens = min(self._whole.tokenizer_2.model_max_length, 512)
        self._lock = threading.Lock()

    def draw(self, asked: Asked) -> tuple[list[bytes], float]:
        """PNG files, one a seed, and the seconds in the pipeline."""
        width, height = (int(side) for side in asked.size.split("x"))
        scale = max(1.0, DRAW_MIN / min(width, height))
        drawn = (round(width * scale), round(height * scale))
        canvas = _fitted(asked.images[0], drawn, "RGB", Image.Resampling.LANCZOS)
        mask = None if asked.mask is None else _fitted(asked.mask, drawn, "L", Image.Resampling.BILINEAR)
        seed = secrets.randbelow(2**53) if asked.seed is None else asked.seed
        with self._lock:
            began_s = time.perf_counter()
            pictures = [self._picture(asked, canvas, mask, seed + number) for number in range(asked.n)]
            took_s = time.perf_counter() - began_s
        kept = _fitted(asked.images[0], (width, height), "RGB", Image.Resampling.LANCZOS)
        under = None if asked.mask is None else _fitted(asked.mask, (width, height), "L", Image.Resampling.BILINEAR)
        return [_png(_composed(kept, picture, under)) for picture in pictures], took_s

    def _picture(self, asked: Asked, canvas: Image.Image, mask: Image.Image | None, seed: int) -> Image.Image:
        width, height = canvas.size
        arguments: dict[str, Any] = {
            "image": canvas,
            "prompt": asked.prompt,
            "width": width,
            "height": height,
            "max_area": width * height,
            "num_inference_steps": asked.num_inference_steps,
            "guidance_scale": asked.guidance_scale,
            "generator": torch.Generator("cpu").manual_seed(seed % 2**64),
            "max_sequence_length": self._text_tokens,
            "_auto_resize": False,
        }
        if mask is None and asked.strength == 1.0:
            return self._whole(**arguments).images[0]
        edited = mask or Image.new("L", canvas.size, 255)
        return self._inpaint(**arguments, mask_image=edited, strength=asked.strength).images[0]


def app_of(editor: PlainEditor) -> FastAPI:
    """The routes that the harness asks."""
    app = FastAPI()

    @app.post("/v1/images/edits")
    async def edit(asked: Asked, response: Response) -> dict[str, Any]:
        files, took_s = await asyncio.to_thread(editor.draw, asked)
        response.headers["server-timing"] = f"denoise;dur={took_s * 1e3:.1f}"
        data = [{"b64_json": base64.b64encode(file).decode()} for file in files]
        return {"created": int(time.time()), "model": MODEL, "size": asked.size, "data": data}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": MODEL, "object": "model", "backend": "diffusers"}]}

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    return app


@contextmanager
def serving(folder: Path, precision: str = "float32", port: int | None = None) -> Generator[str]:
    """Its address, in this process, for the time of the body. port: None is a free one."""
    port = port or free_port()
    app = app_of(PlainEditor(folder, precision))
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    give_up_at = time.monotonic() + START_TIMEOUT_S
    while not server.started and time.monotonic() < give_up_at and thread.is_alive():
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


def main() -> None:
    arguments = _arguments()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    app = app_of(PlainEditor(arguments.folder, arguments.precision))
    uvicorn.run(app, host="127.0.0.1", port=arguments.port, log_level="warning")


def _fitted(encoded: str, size: tuple[int, int], mode: str, resampling: Image.Resampling) -> Image.Image:
    picture = Image.open(io.BytesIO(base64.b64decode(encoded.rpartition(",")[2]))).convert(mode)
    return picture if picture.size == size else ImageOps.fit(picture, size, resampling)


def _composed(canvas: Image.Image, edited: Image.Image, mask: Image.Image | None) -> Image.Image:
    if edited.size != canvas.size:
        edited = edited.resize(canvas.size, Image.Resampling.LANCZOS)
    return edited if mask is None else Image.composite(edited, canvas, mask)


def _png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a FLUX.1 Kontext checkpoint in diffusers' layout")
    parser.add_argument("--port", type=int, default=8001)
    parser.add_argument("--threads", type=int, default=0, help="of the CPU's kernels; 0: as many as PyTorch takes")
    parser.add_argument("--precision", choices=["float32", "bfloat16", "float16"], default="float32")
    return parser.parse_args()


if __name__ == "__main__":
    main()
