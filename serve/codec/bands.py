"""A picture in bands of rows: what is worked out on the way then takes little memory and stays in the CPU's cache."""

from collections.abc import Iterator

ROWS = 64


def bands(height: int) -> Iterator[slice]:
    """The rows 0 to height in pieces of at most `ROWS`."""
    for top in range(0, height, ROWS):
        yield slice(top, min(top + ROWS, height))
