"""Python and the packages: what is installed, and whether it is what the project is tested with."""

import shlex
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, metadata, packages_distributions, requires, version
from importlib.util import find_spec
from typing import TYPE_CHECKING

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from serve.cli.doctor.executors import executors
from serve.cli.doctor.findings import Finding, ok, warning, wrong

if TYPE_CHECKING:
    from serve.settings import Settings

PROJECT = "retouch"
ALWAYS = ("ray", "torch", "diffusers", "transformers")
OF_BACKENDS: Mapping[str, str] = {"onnxruntime": "onnxruntime", "openvino": "openvino", "triton": "tritonclient"}
"""What a backend needs besides."""


def python() -> Iterator[Finding]:
    found = f"{'.'.join(map(str, sys.version_info[:3]))} in {sys.prefix}"
    wanted = metadata(PROJECT)["Requires-Python"] or ""
    if SpecifierSet(wanted).contains(found.partition(" ")[0]):
        yield ok("python", found)
    else:
        yield wrong(
            "python", f"{found}, wanted is {wanted}", "install Retouch with such a Python: make serve PYTHON=..."
        )


def of_server() -> Iterator[Finding]:
    """Those that no server can do without, one by one; of all others that are not as they are pinned, one line."""
    wanted = _requirements()
    for name in ALWAYS:
        yield _installed(name, wanted)
    others = wanted.keys() - {*ALWAYS, *OF_BACKENDS.values()}
    wanting = [one for one in (_installed(name, wanted) for name in sorted(others)) if one.advice]
    if not wanting:
        yield ok("other packages", f"{len(others)} installed as they are pinned")
        return
    told = ", ".join(f"{one.check.partition(' ')[2]} {one.found}" for one in wanting)
    yield warning("other packages", told, _install(*(str(wanted[one.check.partition(" ")[2]]) for one in wanting)))


def of_backends(settings: "Settings") -> Iterator[Finding]:
    """What the backends that models name need besides."""
    backends = {own.backend for model in settings.models for own in executors(model)}
    wanted = _requirements()
    for backend in sorted(backends & OF_BACKENDS.keys()):
        yield _installed(OF_BACKENDS[backend], wanted)
    if "tensorrt" in backends:
        yield _tensorrt()


def _requirements() -> dict[str, Requirement]:
    """What the project requires on this machine, by name; nothing of its extras."""
    all_of_it = [Requirement(line) for line in requires(PROJECT) or ()]
    return {one.name: one for one in all_of_it if one.marker is None or one.marker.evaluate({"extra": ""})}


def _installed(name: str, wanted: Mapping[str, Requirement]) -> Finding:
    check, requirement = f"package {name}", wanted.get(name) or Requirement(name)
    try:
        found = version(name)
    except PackageNotFoundError:
        return wrong(check, "is not installed", _install(str(requirement)))
    if requirement.specifier.contains(found, prereleases=True):
        return ok(check, found)
    return warning(check, f"{found} is installed, tested is {requirement.specifier}", _install(str(requirement)))


def _install(*requirements: str) -> str:
    return f"install it: {shlex.join((sys.executable, '-m', 'pip', 'install', *requirements))}"


def _tensorrt() -> Finding:
    from serve.backends.tensorrt_library import PACKAGES  # noqa: PLC0415

    module = next((name for name in PACKAGES if find_spec(name)), None)
    if module is None:
        found = f"neither {' nor '.join(PACKAGES)} is installed"
        return wrong("package tensorrt", found, "install it: pip install tensorrt, or -e '.[tensorrt]' for RTX cards")
    names = packages_distributions().get(module, [module])
    return ok("package tensorrt", f"{module} {version(names[0])}")
