"""All checks, in the order in which a person would make them."""

import os
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from serve.cli.doctor import access, gpus, machine, models, network, packages, stores, triton
from serve.cli.doctor.findings import Finding, guarded, ok, refused
from serve.errors import ConfigurationError

if TYPE_CHECKING:
    from serve.settings import Settings

Check = Callable[["Settings"], Iterable[Finding]]
CHECKS: dict[str, Check] = {
    "packages of backends": packages.of_backends,
    "public address": access.public_address,
    "keys": access.keys,
    "port": network.port,
    "links": network.links,
    "store": stores.store,
    "cache folder": stores.cache_folder,
    "step logs": stores.step_logs,
    "cpus": machine.cpus,
    "memory": machine.memory,
    "shared memory": machine.shared_memory,
    "gpus": gpus.gpus,
    "torch on gpus": gpus.torch_on_gpus,
    "models": models.models,
    "triton": triton.triton,
}
"""By the name that a finding has where the check itself fails."""
_SECRET_OPTION = re.compile(r"key|secret|token|sas|password|credential", re.IGNORECASE)
_SHOWN = "***"
SHORTEST = 4
"""Of a secret: what is shorter is in many a word."""


def examine(config: Path | None) -> Iterator[Finding]:
    """Every finding as it is made. Never raises: a check that fails is a finding, too."""
    yield from guarded("python", packages.python)
    yield from guarded("packages", packages.of_server)
    loaded: list[Settings] = []
    yield from guarded("configuration", partial(_configuration, config, loaded))
    for settings in loaded:
        changes = _changes(settings, config)
        for name, check in CHECKS.items():
            for finding in guarded(name, partial(check, settings)):
                yield _changed(finding, changes)


def _configuration(config: Path | None, loaded: "list[Settings]") -> Iterator[Finding]:
    """Puts the settings into `loaded`."""
    from serve.settings import file_of, load, variables_of  # noqa: PLC0415  # Here and in the checks: see the package.

    try:
        loaded.append(load(config))
    except ConfigurationError as error:
        yield refused("configuration", error, "correct it; the rest is checked once the configuration loads")
        return
    file, variables = file_of(config), sorted(variables_of(os.environ))
    source = f"from {file}" if file else "from no file, so that all has its default"
    yield ok("configuration", f"{source}; " + (f"variables {', '.join(variables)}" if variables else "no variables"))


def _changes(settings: "Settings", config: Path | None) -> dict[str, str]:
    """Texts that no finding shows, and what stands in their place: secrets, whichever library's error they come in,
    and in commands what a server that knows no file's name would say."""
    from serve.backends.manifest import WITH_CONFIG  # noqa: PLC0415
    from serve.settings import file_of  # noqa: PLC0415

    storage, file = settings.storage, file_of(config)
    options = {**storage.options, **storage.client_options}
    held = [value for name, value in options.items() if isinstance(value, str) and _SECRET_OPTION.search(name)]
    command = f" --config {shlex.quote(str(file))}" if file else ""
    return {WITH_CONFIG: command, **{secret: _SHOWN for secret in (storage.secret, *held) if len(secret) >= SHORTEST}}


def _changed(finding: Finding, changes: Mapping[str, str]) -> Finding:
    found, advice = finding.found, finding.advice
    for text, shown in changes.items():
        found, advice = found.replace(text, shown), advice.replace(text, shown)
    return replace(finding, found=found, advice=advice)
