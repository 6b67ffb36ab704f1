"""Both stores behind one face: what a caller sees of a link, and how each store goes away and comes back."""

from pathlib import Path
from typing import NamedTuple, Protocol
from urllib.parse import parse_qs, urlsplit

import httpx

from serve.errors import EditError
from serve.settings import StorageSettings
from serve.storage import LocalStore, ObjectStore, Storage
from tests.storage.ceph import Ceph
from tests.storage.conftest import BUCKET, PREFIX, bucket_settings

HOST = "https://images.example.com"


class Fetched(NamedTuple):
    status: int
    media_type: str
    data: bytes


class Face(Protocol):
    def open(self, lifetime_s: float = 3600) -> Storage: ...

    def fetch(self, url: str) -> Fetched:
        """As a caller without any key."""
        ...

    def lose(self, name: str) -> None:
        """Take a picture away behind the store's back."""
        ...

    def go_away(self) -> None: ...

    def come_back(self) -> None: ...


class EmbeddedFace:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def open(self, lifetime_s: float = 3600) -> Storage:
        return LocalStore(StorageSettings(folder=self._folder, lifetime_s=lifetime_s, secret="shared"))

    def fetch(self, url: str) -> Fetched:
        parts = urlsplit(url)
        query = parse_qs(parts.query)
        try:
            found = self.open().read(parts.path.rsplit("/", 1)[1], query["expires"][0], query["signature"][0])
        except EditError as error:
            return Fetched(error.status, "", b"")
        return Fetched(200, found.media_type, found.data)

    def lose(self, name: str) -> None:
        (self._folder / name).unlink()

    def go_away(self) -> None:
        self._folder.rename(self._folder.with_name("elsewhere"))

    def come_back(self) -> None:
        self._folder.with_name("elsewhere").rename(self._folder)


class S3Face:
    def __init__(self, ceph: Ceph) -> None:
        self._ceph = ceph

    def open(self, lifetime_s: float = 3600) -> Storage:
        return ObjectStore(bucket_settings(self._ceph.endpoint, lifetime_s=lifetime_s))

    def fetch(self, url: str) -> Fetched:
        answer = httpx.get(url)
        return Fetched(answer.status_code, answer.headers["content-type"], answer.content)

    def lose(self, name: str) -> None:
        self._ceph.bucket(BUCKET).delete(f"{PREFIX}/{name}")

    def go_away(self) -> None:
        self._ceph.kill_gateway()

    def come_back(self) -> None:
        self._ceph.start_gateway()
