"""What the commands that ask a running server share: its address, the wait for its turn, and its errors as failures."""

import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Annotated

import typer

from serve.cli.console import Exit, Failure, say
from serve.client import API_KEY_VARIABLE, Client, Refused, Unreachable

UrlOption = Annotated[str, typer.Option(help="The server.")]
KeyOption = Annotated[
    str, typer.Option("--api-key", envvar=API_KEY_VARIABLE, show_default="none", help="Where the server wants one.")
]


def connect(url: str, key: str) -> Client:
    """A client that says so when the server asks it to wait. Raises Failure when `url` is none."""
    try:
        return Client(url, wait=_wait, key=key)
    except ValueError as error:
        raise Failure(str(error), Exit.USAGE) from None


@contextmanager
def remote_failures() -> Generator[None]:
    """The client's errors, as the command's."""
    try:
        yield
    except Refused as error:
        raise Failure(str(error), Exit.REFUSED) from None
    except Unreachable as error:
        raise Failure(str(error), Exit.ADDRESS) from None


def _wait(seconds: float) -> None:
    say(f"The server is busy and asks to come back in {seconds:.0f} s")
    time.sleep(seconds)
