"""Who may use the server."""

import shlex
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from serve.auth import read_keys
from serve.cli.doctor.findings import Finding, ok, refused, warning, wrong
from serve.client import is_loopback
from serve.errors import ConfigurationError

if TYPE_CHECKING:
    from serve.settings import Settings


def public_address(settings: "Settings") -> Iterator[Finding]:
    from serve.settings import refuse_open_server  # noqa: PLC0415

    check, host = "public address", settings.server.host
    try:
        refuse_open_server(settings, host)
    except ConfigurationError as error:
        found, _, advice = str(error).partition(": ")
        yield wrong(check, found, advice)
        return
    if is_loopback(host):
        yield ok(check, f"{host} is of this machine alone")
    elif settings.auth.keys_file:
        yield ok(check, f"{host} can be reached by others, who need a key")
    else:
        advice = "set auth.keys_file unless something before the server lets nobody else in"
        yield warning(check, f"{host} can be reached by others, and auth.allow_anonymous lets them all edit", advice)


def keys(settings: "Settings") -> Iterator[Finding]:
    path = settings.auth.keys_file
    if path is None:
        return
    create = f"retouch keys create NAME --file {shlex.quote(str(path))}"
    try:
        found = read_keys(path)
    except ConfigurationError as error:
        yield refused("keys", error, f"make one: {create}" if not path.exists() else "mend it, or restore a copy")
        return
    if found:
        yield ok("keys", f"{len(found)} in {path}")
    else:
        yield wrong("keys", f"{path} holds none, so that everybody is refused", f"make one: {create}")
    served = {name for model in settings.models for name in (model.id, *model.aliases)}
    for key in found:
        unknown = sorted(set(key.models or ()) - served)
        if unknown:
            advice = f"revoke it and make it anew: retouch keys revoke {key.name} --file {shlex.quote(str(path))}"
            yield warning("keys", f"that of {key.name} names {', '.join(unknown)}, which is not served", advice)
    yield from _rights(path)


def _rights(path: Path) -> Iterator[Finding]:
    mode = stat.S_IMODE(path.stat().st_mode)
    advice = f"close it: chmod o-rwx {shlex.quote(str(path))}"
    if mode & stat.S_IWOTH:
        yield wrong("keys", f"every user of this machine may write {path} (mode {mode:o})", advice)
    elif mode & stat.S_IROTH:
        yield warning("keys", f"every user of this machine may read {path} (mode {mode:o})", advice)
