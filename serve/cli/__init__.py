"""The command line: `retouch serve`, `edit`, `models`, `build-engines`, `keys`, `doctor` and `bench`."""

import sys
from collections.abc import Sequence
from typing import NoReturn

import typer

from serve.cli.bench import bench
from serve.cli.build import build_engines
from serve.cli.console import EXIT_CODES, Exit, Failure, say
from serve.cli.doctor.command import doctor
from serve.cli.edit import edit
from serve.cli.keys import keys
from serve.cli.models import models
from serve.cli.serve import serve

app = typer.Typer(
    help="An image-edit server: pictures and an instruction in, edited pictures out.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (serve, edit, models, build_engines, doctor):
    app.command(epilog=EXIT_CODES)(command)
app.add_typer(bench, name="bench")
app.add_typer(keys, name="keys")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command of `arguments` (default: the process's) and exit."""
    try:
        app(args=None if arguments is None else list(arguments))
    except Failure as failure:
        say(f"retouch: {failure}")
        sys.exit(failure.code)
    except KeyboardInterrupt:
        sys.exit(Exit.INTERRUPTED)
    sys.exit(0)
