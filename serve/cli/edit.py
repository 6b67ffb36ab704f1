"""`retouch edit`: one edit by the HTTP API of any server."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from serve.cli.console import Exit, Failure, say, working
from serve.cli.pictures import Sendable, read_mask, read_picture
from serve.cli.remote import KeyOption, UrlOption, connect, remote_failures
from serve.client import EditAnswer, EditCall

Format = Literal["png", "jpeg", "webp"]
Priority = Literal["low", "normal", "high"]
SUFFIXES: dict[str, Format] = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}


def edit(
    photo: Annotated[Path, typer.Argument(help="The picture to edit: PNG, JPEG or WebP.")],
    prompt: Annotated[str, typer.Argument(help='What to change: "make it black and white".')],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", show_default="PHOTO-edited.png", help="Where the result goes; numbered where --n asks."
        ),
    ] = None,
    mask: Annotated[
        Path | None, typer.Option(help="A picture of the photo's size: white is edited, black kept.")
    ] = None,
    image: Annotated[list[Path] | None, typer.Option(help="A further picture for reference; may be repeated.")] = None,
    model: Annotated[str | None, typer.Option(show_default="the server's", help="An id from `retouch models`.")] = None,
    size: Annotated[
        str | None, typer.Option(show_default="1024x1024", help="256x256, 512x512, 1024x1024 or auto.")
    ] = None,
    n: Annotated[int | None, typer.Option("--n", min=1, max=10, show_default="1", help="How many results.")] = None,
    seed: Annotated[
        int | None, typer.Option(show_default="random", help="The same seed draws the same result.")
    ] = None,
    strength: Annotated[
        float | None, typer.Option(show_default="the model's", help="0 to 1: how far it may leave the photo.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(show_default="the model's", help="1 to 100: more is slower and finer.")
    ] = None,
    guidance: Annotated[
        float | None, typer.Option(show_default="the model's", help="0 to 20: how closely it follows the words.")
    ] = None,
    priority: Annotated[
        Priority | None, typer.Option(show_default="normal", help="Whose turn comes first among the model's edits.")
    ] = None,
    output_format: Annotated[
        Format | None, typer.Option(show_default="what --output ends in, or png", help="Of the result.")
    ] = None,
    url: UrlOption = "http://127.0.0.1:8000",
    api_key: KeyOption = "",
) -> None:
    """Edit a photo as the prompt says, by the server at --url.

    A photo that is no PNG or over 4 MiB is converted and reduced to what the API takes; the file itself stays.

    A result that is there already is replaced.
    """
    form = _format(output, output_format)
    sources = [photo, *(image or ())]
    targets = _targets(output or photo.with_name(f"{photo.stem}-edited{_suffix(form)}"), n or 1)
    _check_targets(targets, [*sources, *([mask] if mask else ())])
    pictures = [read_picture(path) for path in sources]
    sent_mask = read_mask(mask, pictures[0]) if mask else None
    _tell_changes([*pictures, *([sent_mask] if sent_mask else ())])
    asked = {
        "model": model,
        "size": size,
        "n": n,
        "seed": seed,
        "strength": strength,
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "priority": priority,
        "output_format": form,
    }
    call = EditCall(
        prompt=prompt,
        images=[picture.png for picture in pictures],
        mask=sent_mask.png if sent_mask else None,
        options={name: value for name, value in asked.items() if value is not None},
    )
    began = time.perf_counter()
    with remote_failures():
        client = connect(url, api_key)
        with working(f"Editing {photo.name}") as tell:
            answer = client.edit(call, progress=lambda done, steps: tell(done, steps * (n or 1)))
    _write(answer, targets)
    _tell_cost(answer, time.perf_counter() - began)


def _format(output: Path | None, asked: Format | None) -> Format:
    """The format that `output` ends in and the one asked for must agree."""
    if output is None:
        return asked or "png"
    named = SUFFIXES.get(output.suffix.lower())
    if named is None:
        raise Failure(f"--output {output} must end in one of {', '.join(SUFFIXES)}", Exit.USAGE)
    if asked not in (None, named):
        raise Failure(f"--output {output} and --output-format {asked} disagree; drop one of them", Exit.USAGE)
    return named


def _suffix(form: Format) -> str:
    return next(suffix for suffix, named in SUFFIXES.items() if named == form)


def _targets(output: Path, n: int) -> list[Path]:
    if n <= 1:
        return [output]
    return [output.with_name(f"{output.stem}-{number}{output.suffix}") for number in range(1, n + 1)]


def _check_targets(targets: Sequence[Path], inputs: Sequence[Path]) -> None:
    """What would fail only after the server's work fails before it."""
    if not targets[0].parent.is_dir():
        raise Failure(f"the folder of --output {targets[0]} is not there", Exit.USAGE)
    kept = {path.resolve() for path in inputs}
    for target in targets:
        if target.resolve() in kept:
            raise Failure(f"the result would replace {target}; give another --output", Exit.USAGE)


def _tell_changes(pictures: Sequence[Sendable]) -> None:
    for picture in pictures:
        if picture.changed:
            say(picture.changed)


def _write(answer: EditAnswer, targets: Sequence[Path]) -> None:
    if len(answer.pictures) != len(targets):
        raise Failure(f"the server answered {len(answer.pictures)} pictures, not {len(targets)}", Exit.REFUSED)
    for picture, target in zip(answer.pictures, targets, strict=True):
        try:
            target.write_bytes(picture.data)
        except OSError as error:
            raise Failure(f"{target} cannot be written: {error.strerror}", Exit.USAGE) from None
        typer.echo(f"{target}" if picture.seed is None else f"{target}  seed {picture.seed}")


def _tell_cost(answer: EditAnswer, seconds: float) -> None:
    drawn = " ".join(part for part in (answer.size, f"by {answer.model}" if answer.model else "") if part)
    say(f"{drawn}{', ' if drawn else ''}{seconds:.1f} s")
