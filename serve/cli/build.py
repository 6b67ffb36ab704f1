"""`retouch build-engines`: compiled components for a model, into the model repository."""

import re
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from serve.cli.console import Exit, Failure, say
from serve.errors import ConfigurationError

if TYPE_CHECKING:
    from build_engines.build import Built
    from serve.settings import ModelSettings

_PRECISIONS = {
    name: full
    for short, full in (("fp32", "float32"), ("fp16", "float16"), ("bf16", "bfloat16"))
    for name in (short, full)
}
COLUMNS = ("component", "", "backend", "precision", "MB", "error", "s", "peak MiB")


def build_engines(
    config: Annotated[Path | None, typer.Option(show_default="the model that comes along", help="A YAML file.")] = None,
    model: Annotated[str, typer.Option(show_default="the default model", help="A model's id or alias.")] = "",
    backend: Annotated[str, typer.Option(show_default="the model's", help="tensorrt, onnxruntime or openvino.")] = "",
    precision: Annotated[
        str, typer.Option(show_default="the model's", help="float32, float16 or bfloat16 (or fp32, fp16, bf16).")
    ] = "",
    components: Annotated[str, typer.Option(show_default="all", help="Names, with commas between them.")] = "",
    sizes: Annotated[
        str, typer.Option(help="Pictures that TensorRT tunes for; it takes all others that the model draws.")
    ] = "1024x1024,512x512",
    references: Annotated[
        str,
        typer.Option(show_default="0,1", help="Counts of references that TensorRT tunes for; the largest is the most."),
    ] = "",
    batch: Annotated[
        str, typer.Option(show_default="1 and the model's max_batch", help="The denoiser's batches, likewise.")
    ] = "",
    architecture: Annotated[
        str, typer.Option(show_default="this machine's GPU", help="sm_89, for TensorRT for RTX without a GPU.")
    ] = "",
    repository: Annotated[
        Path | None, typer.Option(show_default="the model's model_repository", help="Where the engines are put.")
    ] = None,
    python: Annotated[
        bool, typer.Option("--python", help="For a Triton server that has its Python backend alone (CPU).")
    ] = False,
) -> None:
    """Compile a model's components, compare them with torch, and put them into the model repository."""
    try:
        settings = _model(config, model, repository)
        asked = {
            "backend": _one_of(backend, "--backend", {name: name for name in ("tensorrt", "onnxruntime", "openvino")}),
            "precision": _one_of(precision, "--precision", _PRECISIONS),
            "components": tuple(_words(components)),
            "sizes": tuple(_size(word) for word in _words(sizes)),
            "references": tuple(_count(word, "--references", 0) for word in _words(references)),
            "batches": tuple(_count(word, "--batch", 1) for word in _words(batch)),
            "architecture": architecture,
            "python": python,
        }
        built = _build(settings, asked)
    except ConfigurationError as error:
        raise Failure(str(error), Exit.USAGE) from None
    _print(built)


def _model(config: Path | None, name: str, repository: Path | None) -> "ModelSettings":
    from serve.settings import load  # noqa: PLC0415  # Here and below: what takes seconds is loaded when it is used.

    settings = load(config)
    found = settings.model(name)
    if found is None:
        known = ", ".join(model.id for model in settings.models)
        raise ConfigurationError(f"model {name!r} is none of {known}")
    return found if repository is None else found.model_copy(update={"model_repository": repository})


def _build(model: "ModelSettings", asked: Mapping[str, Any]) -> "list[Built]":
    from build_engines.build import Wish, build_model  # noqa: PLC0415

    with _shown() as report:
        return build_model(model, Wish(**asked), report)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _one_of(word: str, option: str, known: dict[str, str]) -> str | None:
    if word and word not in known:
        raise ConfigurationError(f"{option} {word} is none of {', '.join(known)}")
    return known[word] if word else None


def _size(word: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{2,5})x(\d{2,5})", word)
    if match is None:
        raise ConfigurationError(f"--sizes {word} is no size, such as 1024x1024")
    return int(match[1]), int(match[2])


def _count(word: str, option: str, least: int) -> int:
    if not word.isdecimal() or not least <= int(word) <= 64:
        raise ConfigurationError(f"{option} {word} is no number from {least} to 64")
    return int(word)


@contextmanager
def _shown() -> Generator[Callable[[str, str, float | None], None]]:
    """A bar a component on a terminal; elsewhere a line for each thing that is done."""
    console = Console(stderr=True)
    if not console.is_terminal:
        told: set[tuple[str, str]] = set()

        def tell(component: str, doing: str, share: float | None) -> None:
            if (component, doing) not in told:
                told.add((component, doing))
                say(f"{component}: {doing}")

        yield tell
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=None)

        def draw(component: str, doing: str, share: float | None) -> None:
            total = None if share is None else 1.0
            progress.update(task, description=f"{component}: {doing}", total=total, completed=share or 0.0)

        yield draw


def _print(built: "list[Built]") -> None:
    table = Table(box=None, pad_edge=False)
    for column in COLUMNS:
        table.add_column(column, overflow="fold")
    for one in built:
        made = one.manifest
        errors = made.errors if isinstance(made.errors, str) else f"{max(e.measured for e in made.errors.values()):.2g}"
        megabytes = sum(made.files.values()) / 1e6
        table.add_row(
            one.component,
            "up to date" if one.fresh else "built",
            made.backend,
            made.precision,
            f"{megabytes:.1f}",
            errors,
            f"{made.seconds:.0f}",
            f"{made.peak_mib:.0f}",
        )
    Console(highlight=False, markup=False, soft_wrap=True).print(table)
