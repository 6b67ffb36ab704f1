"""A real nginx before a server."""

import os
import pwd
import shutil
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.waiting import eventually

OWN_FOLDERS = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
STOP_S = 10


@contextmanager
def nginx(block: str, url: str, folder: Path) -> Generator[None]:
    """With this `server` block, once it answers at `url`. folder: for all that it writes."""
    user = pwd.getpwuid(os.getuid()).pw_name  # by default it is another's, who may not write here
    temporary = "".join(f"{name}_temp_path {folder / name};\n" for name in OWN_FOLDERS)
    file = folder / "nginx.conf"
    file.write_text(
        f"user {user};\ndaemon off;\npid {folder}/pid;\nevents {{}}\nhttp {{\naccess_log off;\n{temporary}{block}}}\n"
    )
    process = subprocess.Popen([_program(), "-c", str(file), "-e", str(folder / "errors")])
    try:
        eventually(lambda: _answers(url))
        yield
    finally:
        process.terminate()
        process.wait(STOP_S)


def _program() -> str:
    """Where it is. Without nginx tests are skipped, but in CI."""
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if found is None and os.environ.get("CI") == "true":
        raise AssertionError("CI needs nginx; Debian has it in the package nginx")
    if found is None:
        pytest.skip("there is no nginx here; Debian has it in the package nginx")
    return found


def _answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False
