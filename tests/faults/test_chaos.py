"""Parts of a cluster die under load, and every request gets its one right answer."""

import os
import shutil

import pytest

from benchmarks.chaos.__main__ import Pace, run

FAULTS = ("editor", "codec", "ingress", "runs", "controller", "node", "gcs")


def test_whatever_dies_each_request_gets_its_one_right_answer(only_cluster: None) -> None:
    if shutil.which("redis-server") is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("needs redis-server")
    report = run(FAULTS, Pace(clients=6, think_s=1, calm_s=2, watched_s=5))
    assert report["wrongs"] == []
    assert [blow["name"] for blow in report["blows"]] == list(FAULTS)
    assert all(blow["next_good_s"] is not None for blow in report["blows"])
    assert report["requests"] > 100
