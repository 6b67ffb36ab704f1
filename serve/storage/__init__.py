"""Where results that are answered by URL lie: `base` is the contract, `local` the store that the server embeds,
`object_store` a bucket."""

from serve.settings import StorageSettings
from serve.storage.base import Storage, StorageFull, StoredFile, StoreUnreachable
from serve.storage.local import LocalStore
from serve.storage.object_store import ObjectStore

__all__ = ["LocalStore", "ObjectStore", "Storage", "StorageFull", "StoreUnreachable", "StoredFile", "open_storage"]


def open_storage(settings: StorageSettings) -> Storage:
    """The store that the configuration names. Raises ConfigurationError."""
    return ObjectStore(settings) if settings.url else LocalStore(settings)
