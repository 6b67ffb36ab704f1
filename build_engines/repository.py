"""The configurations in model_repository/ that come with the project: those of the embedded model, and of FLUX.1
Kontext in its real size.

`python -m build_engines.repository` writes them from the components' declarations; with `--check` it writes nothing and
fails where a file says something else. Engines come from `retouch build-engines`, which writes the same text where it
builds for the same sizes and batches.
"""

import argparse
import sys
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

from build_engines.parts import parts_of
from build_engines.profiles import tuned
from build_engines.triton_config import NO_SHAPES, Platform, config_text
from serve.backends.manifest import triton_name
from serve.backends.shapes import Asked, Shapes
from serve.families import FAMILIES
from serve.families.flux_kontext_components import Dimensions, specs
from serve.settings import embedded_model
from serve.types import ComponentSpec

REPOSITORY = embedded_model().model_repository
CONFIG = "config.pbtxt"

FLUX_KONTEXT = "flux-kontext"
FLUX_KONTEXT_ASKED = Asked(sizes=((1024, 1024), (512, 512)), references=(0, 1), batches=(1, 4))
FLUX_KONTEXT_DIMENSIONS = Dimensions(
    dtype="bfloat16",
    latent_channels=16,
    token_pixels=16,
    clip_tokens=77,
    t5_tokens=512,
    clip_words=49408,
    t5_words=32100,
    text_width=4096,
    pooled_width=768,
    rotary_axes=(16, 56, 56),
)
"""Of https://huggingface.co/black-forest-labs/FLUX.1-Kontext-dev."""


def configurations() -> dict[str, str]:
    """The texts of all files, by their places in the repository."""
    return dict([*_embedded(), *_flux_kontext()])


def stale(repository: Path = REPOSITORY) -> list[str]:
    """What is wrong with the files there, a sentence each."""
    faults = (_fault(repository / place, text) for place, text in configurations().items())
    return [fault for fault in faults if fault is not None]


def write(repository: Path = REPOSITORY) -> None:
    for place, text in configurations().items():
        (repository / place).parent.mkdir(parents=True, exist_ok=True)
        (repository / place).write_text(text, encoding="utf-8")


def _embedded() -> Iterator[tuple[str, str]]:
    model = embedded_model()
    for part in parts_of(model, "float32")[1].values():
        yield _configuration(model.id, part.spec, "openvino")


def _flux_kontext() -> Iterator[tuple[str, str]]:
    facts = FAMILIES["flux_kontext"].facts
    for spec in specs(FLUX_KONTEXT_DIMENSIONS):
        shapes = tuned(spec, FLUX_KONTEXT_DIMENSIONS.lengths, facts, FLUX_KONTEXT_ASKED)
        yield _configuration(FLUX_KONTEXT, spec, "tensorrt_plan", shapes)


def _configuration(model: str, spec: ComponentSpec, platform: Platform, shapes: Shapes = NO_SHAPES) -> tuple[str, str]:
    name = triton_name(model, spec.name)
    return f"{name}/{CONFIG}", config_text(name, spec, platform, shapes)


def _fault(path: Path, wanted: str) -> str | None:
    """The first line that differs."""
    if not path.is_file():
        return f"{path} is missing"
    lines = zip_longest(path.read_text(encoding="utf-8").splitlines(), wanted.splitlines(), fillvalue="")
    different = ((number, *pair) for number, pair in enumerate(lines, 1) if pair[0] != pair[1])
    for number, found, declared in different:
        return f"{path}:{number} is {found.strip()!r}, declared is {declared.strip()!r}"
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where a file differs")
    if not parser.parse_args().check:
        write()
        return
    if faults := stale():
        sys.exit("\n".join([*faults, "run `python -m build_engines.repository`, and commit what it writes"]))


if __name__ == "__main__":
    main()
