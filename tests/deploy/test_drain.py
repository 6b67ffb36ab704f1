"""A node that is to be stopped: what runs there ends first."""

import json
import os
import subprocess
import sys


def test_a_drained_node_ends_what_it_has_begun_and_then_runs_nothing():
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    command = [sys.executable, "-m", "tests.deploy.node_to_drain"]
    ended = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=180)
    assert json.loads(ended.stdout.splitlines()[-1]) == {"before": True, "drained": True, "answer": "done"}
