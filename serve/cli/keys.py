"""`retouch keys`: who may use the server."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from serve.auth import create_key, read_keys, revoke_key
from serve.cli.console import EXIT_CODES, Exit, Failure, say
from serve.errors import ConfigurationError

keys = typer.Typer(help="Bearer keys, of which a file holds hashes: a server reads it again when it changes.")

FileOption = Annotated[Path, typer.Option("--file", "-f", help="What the configuration's auth.keys_file names.")]
Many = typer.Option(min=1, show_default="no limit", help="That the key may spend, over all replicas.")


@keys.command(epilog=EXIT_CODES)
def create(
    name: Annotated[str, typer.Argument(help="Whose key it is; the log and the limits go by it.")],
    file: FileOption,
    models: Annotated[str, typer.Option(show_default="all", help="Ids or aliases, with commas in between.")] = "",
    requests_per_minute: Annotated[int | None, Many] = None,
    images_per_minute: Annotated[int | None, Many] = None,
    images_in_flight: Annotated[int | None, Many] = None,
) -> None:
    """Make a key and print it, once."""
    allowed = tuple(word.strip() for word in models.split(",") if word.strip()) or None
    limits = {
        "requests_per_minute": requests_per_minute,
        "images_per_minute": images_per_minute,
        "images_in_flight": images_in_flight,
    }
    try:
        key = create_key(file, name, allowed, limits)
    except ConfigurationError as error:
        raise Failure(str(error), Exit.USAGE) from None
    say(f"the key of {name}; it is shown this once:")
    typer.echo(key)


@keys.command("list", epilog=EXIT_CODES)
def list_keys(file: FileOption) -> None:
    """Show the names of the keys and what each may do."""
    try:
        found = read_keys(file)
    except ConfigurationError as error:
        raise Failure(str(error), Exit.USAGE) from None
    table = Table("name", "created", "models", "limits", box=None, pad_edge=False)
    for key in found:
        limits = ", ".join(f"{name} {value}" for name, value in key.limits.model_dump(exclude_none=True).items())
        table.add_row(key.name, key.created, ", ".join(key.models or ("all",)), limits or "none")
    Console().print(table)


@keys.command(epilog=EXIT_CODES)
def revoke(name: Annotated[str, typer.Argument(help="Whose key goes.")], file: FileOption) -> None:
    """Take a key out of the file; servers refuse it about a second later."""
    try:
        revoke_key(file, name)
    except ConfigurationError as error:
        raise Failure(str(error), Exit.USAGE) from None
    say(f"the key of {name} is revoked")
