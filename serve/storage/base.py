"""What a store of results offers, whether the server answers its links itself or an object store does."""

from typing import Protocol

from serve.errors import BackendUnavailable
from serve.types import OutputFormat


class StorageFull(BackendUnavailable):
    """The store takes no more until results in it expire. The edit itself succeeded: doing it again at once is vain."""


class Storage(Protocol):
    """Keeps finished pictures for a while. Methods block; any thread of any process may call them at the same time."""

    def put(self, data: bytes, output_format: OutputFormat, base_url: str) -> str:
        """Keep one encoded picture and answer the complete URL that serves it, for at least the configured lifetime.

        The URL is signed and cannot be guessed. base_url: what links of this server start with
        (`https://images.example.com`); a store with a host of its own has no use for it. Raises StorageFull when there
        is no room, and BackendUnavailable when the store fails otherwise; nothing of the picture is left behind then.
        """
        ...
