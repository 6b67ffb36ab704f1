"""How the commands speak: one-sentence failures with an exit code, and a line that shows that work goes on."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from enum import IntEnum

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

EXIT_CODES = (
    "Exit codes: 0 done, 1 the server refused or failed, or doctor found something wrong, 2 wrong usage or "
    "configuration, 3 no server at the address or, for serve, the address is taken, 130 interrupted."
)


class Exit(IntEnum):
    """What the shell sees."""

    REFUSED = 1
    USAGE = 2
    ADDRESS = 3
    INTERRUPTED = 130


class Failure(Exception):
    """Ends the command with one sentence on standard error."""

    def __init__(self, message: str, code: Exit) -> None:
        super().__init__(message)
        self.code = code


def say(text: str) -> None:
    """A remark beside the command's output: on standard error, so that a pipe gets the output alone."""
    _stderr().print(text, soft_wrap=True, markup=False, highlight=False)


@contextmanager
def working(text: str) -> Generator[Callable[[int, int], None]]:
    """Shows `text` and the seconds so far while the body runs; a plain line where no terminal is.

    The body may tell how much of how much is done: then a bar shows it.
    """
    console = _stderr()
    if not console.is_terminal:
        say(text)
        yield lambda done, total: None
        return
    columns = SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(text, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _stderr() -> Console:
    return Console(stderr=True)
