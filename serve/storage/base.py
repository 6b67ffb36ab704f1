"""What a store of results offers, whether the server answers its links itself or an object store does."""

from typing import NamedTuple, Protocol

from serve.errors import BackendUnavailable, ConfigurationError
from serve.types import OutputFormat


class StorageFull(BackendUnavailable):
    """The store takes no more until results in it expire. The edit itself succeeded: doing it again at once is vain."""


class StoreUnreachable(ConfigurationError):
    """The store does not answer. The address may be wrong, or the store be away for a while."""


class StoredFile(NamedTuple):
    data: bytes
    media_type: str


class Storage(Protocol):
    """Keeps finished pictures for a while. Methods block; any thread of any process may call them at the same time."""

    def put(self, data: bytes, output_format: OutputFormat, base_url: str) -> str:
        """Keep one encoded picture and answer the complete URL that serves it, for at least the configured lifetime.

        The URL is signed and cannot be guessed. base_url: what links of this server start with
        (`https://images.example.com`); a store with a host of its own has no use for it. Raises StorageFull when there
        is no room, and BackendUnavailable when the store fails otherwise; nobody has a link to what may be left of the
        picture then.
        """
        ...

    def read(self, name: str, expires: str, signature: str) -> StoredFile:
        """The picture behind a link that leads to this server. expires, signature: as they stand in it, or empty.

        Raises NotFound, InvalidSignature, LinkExpired, and BackendUnavailable when the store cannot be read.
        """
        ...

    def sweep(self) -> int:
        """Remove what has expired, where that is the server's to do, and answer how many pictures went.

        Raises BackendUnavailable.
        """
        ...

    def check(self) -> None:
        """Whether results can be kept. Raises ConfigurationError where nothing but another configuration would help,
        and StoreUnreachable where the store may also come back.
        """
        ...
