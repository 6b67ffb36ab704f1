"""`retouch models`: what a server offers."""

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from serve.cli.remote import KeyOption, UrlOption, connect, remote_failures

COLUMNS = ("id", "aliases", "family", "sizes", "defaults")
"""Fields of the API's model objects."""


def models(url: UrlOption = "http://127.0.0.1:8000", api_key: KeyOption = "") -> None:
    """List the models of the server at --url: their sizes and defaults."""
    with remote_failures():
        offered = connect(url, api_key).models()
    table = Table(box=None, pad_edge=False)
    for column in COLUMNS:
        table.add_column(column, overflow="fold")
    for model in offered:
        table.add_row(*(_cell(model.get(column)) for column in COLUMNS))
    Console(highlight=False, markup=False).print(table)


def _cell(value: object) -> str:
    """A list or an object has a line for each item; what the server does not tell stays empty."""
    if isinstance(value, Mapping):
        return "\n".join(f"{name} {item}" for name, item in value.items())
    if isinstance(value, list):
        return "\n".join(str(item) for item in value)
    return "" if value is None else str(value)
