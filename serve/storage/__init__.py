"""Where results that are answered by URL lie: `base` is the contract, `local` the store that the server embeds."""

from serve.storage.base import Storage, StorageFull
from serve.storage.local import LocalStore, StoredFile

__all__ = ["LocalStore", "Storage", "StorageFull", "StoredFile"]
