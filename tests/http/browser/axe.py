"""axe-core, which checks a page against the rules of accessibility; from the npm registry, once."""

import shutil
import subprocess
import tarfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

PACKAGE = "axe-core@4.14.1"
FOLDER = Path(__file__).parents[3] / ".cache" / "axe"
INSTALL_S = 120


def violations(page: Page) -> list[Any]:
    """What breaks a rule: the rule, and the elements. Skips the test where axe cannot be had."""
    page.evaluate(_source())
    found = page.evaluate("() => axe.run()")["violations"]
    return [(rule["id"], rule["help"], [node["html"] for node in rule["nodes"]]) for rule in found]


@cache
def _source() -> str:
    file = FOLDER / f"{PACKAGE}.js"
    if not file.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        with tarfile.open(_packed()) as package:
            script = package.extractfile("package/axe.min.js")
            assert script is not None
            file.write_bytes(script.read())
    return file.read_text(encoding="utf-8")


def _packed() -> Path:
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("axe-core comes from the npm registry, and there is no npm here")
    command = [npm, "pack", PACKAGE, "--silent", "--pack-destination", str(FOLDER)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=INSTALL_S)
    if done.returncode:
        pytest.skip(f"{PACKAGE} cannot be had: {done.stderr.strip()[-200:]}")
    return FOLDER / done.stdout.strip().splitlines()[-1]
