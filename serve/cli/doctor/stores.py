"""Where the server writes: results, what it measured, and what it logs of steps."""

import os
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from serve.cli.doctor.findings import Finding, gib, ok, refused, warning, wrong
from serve.errors import ConfigurationError

if TYPE_CHECKING:
    from serve.settings import Settings, StorageSettings


def store(settings: "Settings") -> Iterator[Finding]:
    """What a start tries as well, but once."""
    from serve.storage import open_storage  # noqa: PLC0415

    storage = settings.storage
    try:
        open_storage(storage.model_copy(update={"retry_s": 0.0})).check()
    except ConfigurationError as error:
        yield refused("store", error, _advice(storage))
        return
    if storage.url:
        yield ok("store", f"{storage.url} takes objects and gives them back")
    elif fault := _unwritable(storage.folder):
        yield wrong("store", f"storage.folder {storage.folder} cannot be written: {fault}", _advice(storage))
    else:
        yield ok("store", f"{storage.folder} can be written")
        yield _disk(storage)


def cache_folder(settings: "Settings") -> Iterator[Finding]:
    folder = settings.server.cache_folder
    if fault := _unwritable(folder):
        found = f"{folder} cannot be written ({fault}), so that every start measures the models anew"
        yield warning("cache folder", found, _another("server.cache_folder", folder))
    else:
        yield ok("cache folder", f"{folder} can be written")


def step_logs(settings: "Settings") -> Iterator[Finding]:
    for model in settings.models:
        if model.step_log is None:
            continue
        check, target = f"step log {model.id}", model.step_log
        fault = _unwritable(target.parent) or (target.is_dir() and "it is a folder") or ""
        if fault:
            yield wrong(check, f"{target} cannot be written: {fault}", "name another file by the model's step_log")
        else:
            yield ok(check, f"{target} can be written")


def _disk(storage: "StorageSettings") -> Finding:
    """Whether results may fill what the configuration allows them."""
    free = shutil.disk_usage(storage.folder).free
    used = sum(entry.stat(follow_symlinks=False).st_size for entry in os.scandir(storage.folder) if entry.is_file())
    wanted = max(0, storage.max_bytes - used)
    found = f"{gib(free)} free beside {storage.folder}, where results may come to take {gib(wanted)} more"
    if free >= wanted:
        return ok("store's disk", found)
    return warning("store's disk", found, "free some, or lower storage.max_bytes or storage.lifetime_s")


def _unwritable(folder: Path) -> str:
    """Why files cannot be made there, or the folder not be made; empty where they can. Asked of the rights alone, so
    that nothing is written."""
    there = _nearest(folder)
    if not there.is_dir():
        return f"{there} is no folder"
    return "" if os.access(there, os.W_OK | os.X_OK) else f"this user may not write {there}"


def _nearest(folder: Path) -> Path:
    """The folder, or of those above it the first that is there."""
    return next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())


def _advice(storage: "StorageSettings") -> str:
    if storage.url:
        return "correct the bucket, its endpoint or its keys, which storage.options and the environment name"
    return _another("storage.folder", storage.folder)


def _another(key: str, folder: Path) -> str:
    """The command helps where only rights are missing."""
    own = f", or: sudo install -d -o $(id -u) {shlex.quote(str(folder))}" if _nearest(folder).is_dir() else ""
    return f"name another by {key}{own}"
