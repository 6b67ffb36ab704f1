"""What the tests with a real Triton do where it cannot be had."""

import subprocess
from pathlib import Path

import pytest

from tests.triton import server


@pytest.mark.parametrize(("answered_for", "outcome"), [("true", pytest.fail.Exception), ("", pytest.skip.Exception)])
def test_without_a_triton_they_are_skipped_here_and_fail_in_ci(
    answered_for: str, outcome: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def no_index(command: list[str], **_: object) -> "subprocess.CompletedProcess[str]":
        return subprocess.CompletedProcess(command, 1, "", "there is no package index")

    monkeypatch.setattr(server, "FOLDER", tmp_path / "triton" / "none")
    monkeypatch.setattr(server.subprocess, "run", no_index)
    monkeypatch.setenv("CI", answered_for)

    with pytest.raises(outcome, match=r"nvidia-pytriton==[\d.]+ (cannot be installed.*no package index|is for|needs)"):
        server.installed()
