"""A node that is to be stopped: what runs there ends first."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import psutil
import pytest

from serve.deployments import drain


def test_a_drained_node_ends_what_it_has_begun_and_then_runs_nothing():
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    command = [sys.executable, "-m", "tests.deploy.node_to_drain"]
    ended = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=180)
    assert json.loads(ended.stdout.splitlines()[-1]) == {"before": True, "drained": True, "answer": "done"}


def test_the_seconds_begin_when_ray_agrees(monkeypatch: pytest.MonkeyPatch):
    """Which on a busy machine is long after it was asked, and all that replicas have to end in."""
    clock = [0.0]

    def late(seconds: int) -> bool:
        clock[0] += seconds
        return True

    still = iter([True, True, False])
    monkeypatch.setattr(drain, "ask", late)
    monkeypatch.setattr(drain, "runs", lambda root, titles: next(still))
    slow = SimpleNamespace(monotonic=lambda: clock[0], sleep=lambda seconds: clock.append(clock.pop() + seconds))
    monkeypatch.setattr(drain, "time", slow)
    assert drain.drain(3, psutil.Process())


def test_a_node_that_still_runs_something_after_those_seconds_is_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(drain, "ask", lambda seconds: True)
    monkeypatch.setattr(drain, "runs", lambda root, titles: True)
    assert not drain.drain(0, psutil.Process())
