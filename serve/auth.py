"""Who may use the server: bearer keys, of which a file holds only hashes.

A key is 256 random bits, so that its plain SHA-256 gives nothing away. The file is read again when it has changed; one
that is broken then changes nothing, and is told of in the log.
"""

import hashlib
import hmac
import logging
import os
import secrets
import time
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import yaml
from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from serve import strict_yaml
from serve.errors import ConfigurationError, InvalidAPIKey, MissingAPIKey

logger = logging.getLogger(__name__)
PREFIX = "rtk-"
KEY_BYTES = 32
RELOAD_S = 1.0
_SCHEME = "bearer "

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$")]
Count = Annotated[int, Field(ge=1)]


class Limits(BaseModel):
    """Of one key, over all replicas of the server; None: no limit. images count as they are asked for (`n`)."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    requests_per_minute: Count | None = None
    images_per_minute: Count | None = None
    images_in_flight: Count | None = None


class Key(BaseModel):
    """As it stands in the file. models: ids or aliases that it may use; None: all. created: UTC."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    created: str
    models: tuple[str, ...] | None = None
    limits: Limits = Limits()


@dataclass(frozen=True, slots=True)
class Principal:
    """Who sends a request: the name of the key, empty on a server without keys, and what it may do."""

    name: str = ""
    models: frozenset[str] | None = None
    limits: Limits = field(default_factory=Limits)

    def may_use(self, names: Iterable[str]) -> bool:
        """names: of one model, its id and aliases."""
        return self.models is None or not self.models.isdisjoint(names)


ANYONE = Principal()


class Keys:
    """The keys of a file. Raises ConfigurationError where it cannot be read at first."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = _state(path)
        self._keys = read_keys(path)
        self._look_again_s = time.monotonic() + RELOAD_S

    def principal(self, authorization: str) -> Principal:
        """Whose key this header holds. Raises MissingAPIKey, InvalidAPIKey."""
        if not authorization:
            raise MissingAPIKey("no API key was sent; send it as `Authorization: Bearer KEY`")
        if authorization[: len(_SCHEME)].lower() != _SCHEME:
            raise InvalidAPIKey("the Authorization header holds no bearer key; send `Authorization: Bearer KEY`")
        self._reload()
        digest = _digest(authorization[len(_SCHEME) :].strip())
        # All are compared, so that the time it takes tells nothing of which one is near.
        matching = [key for key in self._keys if hmac.compare_digest(key.sha256, digest)]
        if not matching:
            raise InvalidAPIKey("the API key is unknown or was revoked")
        key = matching[0]
        return Principal(key.name, None if key.models is None else frozenset(key.models), key.limits)

    def _reload(self) -> None:
        now_s = time.monotonic()
        if now_s < self._look_again_s:
            return
        self._look_again_s = now_s + RELOAD_S
        found = _state(self._path)
        if found == self._seen:
            return
        self._seen = found
        try:
            self._keys = read_keys(self._path)
        except ConfigurationError as error:
            logger.error("the keys stay as they were: %s", error)


def read_keys(path: Path) -> tuple[Key, ...]:
    """Raises ConfigurationError: the file cannot be read, or holds something else."""
    try:
        values = strict_yaml.load(path.read_text(encoding="utf-8")) or {}
        keys = tuple(Key.model_validate(one) for one in values.get("keys") or ())
    except OSError as error:
        raise ConfigurationError(f"the keys in {path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError, AttributeError, TypeError) as error:
        raise ConfigurationError(f"{path} is no file of keys: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigurationError(f"{path} holds a key whose {where} is wrong: {first['msg']}") from None
    names = [key.name for key in keys]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise ConfigurationError(f"{path} holds two keys of the name {doubled[0]}")
    return keys


def create_key(path: Path, name: str, models: tuple[str, ...] | None, limits: Mapping[str, int | None]) -> str:
    """Add a key and answer it; nobody can read it from the file. Raises ConfigurationError: the name is taken."""
    key = PREFIX + secrets.token_urlsafe(KEY_BYTES)
    created = datetime.now(UTC).isoformat(timespec="seconds")
    with _locked(path) as keys:
        if any(one.name == name for one in keys):
            raise ConfigurationError(f"{path} holds a key of the name {name}; revoke it, or choose another name")
        try:
            entry = Key(name=name, sha256=_digest(key), created=created, models=models, limits=Limits(**limits))
        except ValidationError as error:
            raise ConfigurationError(f"{error.errors()[0]['loc'][0]} is refused: {error.errors()[0]['msg']}") from None
        keys.append(entry)
    return key


def revoke_key(path: Path, name: str) -> None:
    """Raises ConfigurationError: there is no such key."""
    with _locked(path) as keys:
        kept = [key for key in keys if key.name != name]
        if len(kept) == len(keys):
            raise ConfigurationError(f"{path} holds no key of the name {name}")
        keys[:] = kept


@contextmanager
def _locked(path: Path) -> Generator[list[Key]]:
    """The keys, to be changed; written in one rename, in a file that only its owner reads, unless this raises."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):
            keys = list(read_keys(path)) if path.exists() else []
            yield keys
            _write(path, keys)
    except OSError as error:
        raise ConfigurationError(f"the keys in {path} cannot be written: {error.strerror}") from None


def _write(path: Path, keys: Iterable[Key]) -> None:
    text = yaml.safe_dump(
        {"keys": [key.model_dump(mode="json", exclude_defaults=True) for key in keys]}, sort_keys=False
    )
    draft = path.with_name(f".{path.name}.new")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    if path.exists():
        draft.chmod(path.stat().st_mode)  # the server may run as another user of the file's group
    draft.replace(path)


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()


def _state(path: Path) -> tuple[int, ...] | None:
    """What changes when the file does; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
