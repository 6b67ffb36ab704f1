"""The store that the server embeds: files in one folder, behind signed links that the server itself answers.

Several processes share the folder without locks. A picture appears whole, by a rename; a link holds all that is
needed to check it; sweeping what is already gone is no error. A file's modification time is the moment at which its
link expires, so that a sweep knows by `stat` alone what may go, also after the configured lifetime has changed. Only
what has expired goes: a folder that has reached its limit takes no more, and every link keeps its promise.
"""

import errno
import hmac
import math
import os
import re
import secrets
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

from serve.errors import BackendUnavailable, ConfigurationError, InvalidSignature, LinkExpired, NotFound
from serve.settings import StorageSettings
from serve.storage.base import StorageFull, StoredFile
from serve.storage.room import Look, Room
from serve.types import OutputFormat

FILES_ROUTE = "/v1/files"
SECRET_FILE = ".secret"
SECRET_BYTES = 32
NAME_BYTES = 16
GRACE_S = 60.0
"""A file outlives its link by this much, so that a download that began in time also ends."""

ABANDONED_S = 600.0
"""A temporary file this old belongs to a process that died while it wrote."""

_NAME = re.compile(r"[0-9a-f]{32}\.(png|jpeg|webp)")
_TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.tmp")
FULL_DISK_RETRY_S = 30.0
"""After which a sweep may have made room, or somebody else; until then an edit would be drawn in vain again."""

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True, slots=True)
class _Entry:
    """mtime: of a picture, when its link expires; of a temporary file, when it was written."""

    path: str
    mtime: float
    size: int


class LocalStore:
    """Implements `Storage`. clock: seconds since the epoch."""

    def __init__(self, settings: StorageSettings, clock: Callable[[], float] = time.time) -> None:
        """Make the folder, and draw the secret where none is set. Raises ConfigurationError when either fails."""
        self._folder = settings.folder
        self._lifetime_s = settings.lifetime_s
        self._clock = clock
        self._room = Room(settings.max_bytes, self._remove_expired, clock)
        with _start_fails_on_os_error(self._folder):
            _open_folder(self._folder)
            self._secret = settings.secret.encode() or _shared_secret(self._folder)

    def put(self, data: bytes, output_format: OutputFormat, base_url: str) -> str:
        """Keep one picture; see `Storage.put`. `Room` says how closely `max_bytes` is kept among processes."""
        name = f"{secrets.token_hex(NAME_BYTES)}.{output_format}"
        self._room.take(len(data))
        expires = math.ceil(self._clock() + self._lifetime_s)
        with _unavailable_on_os_error(), _temporary_file(self._folder, data) as path:
            os.utime(path, (expires, expires))
            path.replace(self._folder / name)
        query = urlencode({"expires": expires, "signature": self._sign(name, str(expires))})
        return f"{base_url.rstrip('/')}{FILES_ROUTE}/{name}?{query}"

    def read(self, name: str, expires: str, signature: str) -> StoredFile:
        """The picture behind a link. expires, signature: as they stand in the link; empty where they are missing.

        Raises NotFound for what is no name of ours or no longer there, InvalidSignature, LinkExpired, and
        BackendUnavailable when the folder cannot be read. Only who holds a valid link learns whether a file exists.
        """
        parts = _NAME.fullmatch(name)
        if parts is None:
            raise NotFound("there is no such file")
        # Compared before it is parsed: only numbers that this server wrote reach int().
        if not hmac.compare_digest(self._sign(name, expires).encode(), signature.encode("utf-8", "replace")):
            raise InvalidSignature("the link is incomplete or was changed; use it exactly as it was answered")
        if self._clock() > int(expires):
            raise LinkExpired("the link has expired; send the edit again to get a new one")
        return StoredFile(self._bytes_of(name), f"image/{parts[1]}")

    def sweep(self) -> int:
        """Remove the pictures whose links have expired and answer how many; no other picture ever goes.

        Clears up after processes that died while they wrote. Any number of processes may sweep at the same time.
        Raises BackendUnavailable when the folder cannot be read.
        """
        return self._room.refresh().removed

    def check(self) -> None:
        """Nothing that was not needed to open it."""

    def _remove_expired(self) -> Look:
        now = self._clock()
        with _unavailable_on_os_error():
            for entry in _entries(self._folder, _TEMPORARY):
                if entry.mtime + ABANDONED_S < now:
                    _remove(entry)
            with suppress(FileNotFoundError):
                os.utime(self._folder / SECRET_FILE)  # or cleaners of /tmp would take it, and new replicas draw another
            pictures = list(_entries(self._folder, _NAME))
            removed = sum(_remove(entry) for entry in pictures if entry.mtime + GRACE_S <= now)
        kept = [entry for entry in pictures if entry.mtime + GRACE_S > now]
        next_release = min((entry.mtime + GRACE_S for entry in kept), default=math.inf)
        return Look(removed, sum(entry.size for entry in kept), next_release)

    def _sign(self, name: str, expires: str) -> str:
        signed = f"{name}\n{expires}".encode("utf-8", "replace")
        return hmac.digest(self._secret, signed, "sha256").hex()

    def _bytes_of(self, name: str) -> bytes:
        with _unavailable_on_os_error():
            try:
                return (self._folder / name).read_bytes()
            except FileNotFoundError:
                raise NotFound("the file is no longer kept") from None


def _entries(folder: Path, pattern: re.Pattern[str]) -> Iterator[_Entry]:
    with os.scandir(folder) as found:
        for item in found:
            if not pattern.fullmatch(item.name):
                continue
            with suppress(FileNotFoundError):  # another process swept it between the listing and the stat
                status = item.stat(follow_symlinks=False)
                yield _Entry(item.path, status.st_mtime, status.st_size)


def _remove(entry: _Entry) -> bool:
    """Whether it was this call that removed the file."""
    try:
        os.unlink(entry.path)
    except FileNotFoundError:
        return False
    return True


@contextmanager
def _temporary_file(folder: Path, data: bytes) -> Generator[Path]:
    """A new file of mode 0600 that holds `data`, in `folder`; gone at the end unless it was renamed."""
    path = folder / f".{secrets.token_hex(NAME_BYTES)}.tmp"
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
        yield path
    finally:
        path.unlink(missing_ok=True)


def _open_folder(folder: Path) -> None:
    """A new folder is closed to other users; one that is there (a mounted volume) keeps its mode."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    owner = folder.stat().st_uid
    if owner not in (0, os.geteuid()):
        raise ConfigurationError(f"storage.folder {folder} belongs to another user (uid {owner})")


def _shared_secret(folder: Path) -> bytes:
    """The secret of every process that uses the folder: the first to link its draft to the name decides."""
    path = folder / SECRET_FILE
    if not path.exists():
        with _temporary_file(folder, secrets.token_bytes(SECRET_BYTES)) as draft, suppress(FileExistsError):
            path.hardlink_to(draft)
    secret = path.read_bytes()
    if len(secret) != SECRET_BYTES:
        raise ConfigurationError(f"{path} is damaged ({len(secret)} bytes); remove it, or set storage.secret")
    return secret


@contextmanager
def _start_fails_on_os_error(folder: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigurationError(f"storage.folder {folder} cannot be used: {error.strerror}") from error


@contextmanager
def _unavailable_on_os_error() -> Generator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            message = "the disk of the store of results is full; ask for b64_json"
            raise StorageFull(message, retry_after_s=FULL_DISK_RETRY_S) from error
        raise BackendUnavailable(f"the file store does not work: {error.strerror}") from error
