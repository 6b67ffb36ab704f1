"""The pool in virtual time: every request ends, GPUs are counted from a replica's start to its end."""

from itertools import pairwise

import pytest
from ray.serve.config import AutoscalingConfig, AutoscalingContext

from benchmarks.pool import Day, Device, Pool, Request
from tests.simulation import h200_512px

LIMIT, START_S = 8, 60.0


def day(wanted: int, requests: list[Request], until_s: float, most: int = 8) -> Day:
    """With a policy that always wants as many."""

    def policy(context: AutoscalingContext) -> tuple[int, dict[str, object]]:
        return wanted, {}

    device = Device(lambda passes: h200_512px("k", passes), LIMIT, START_S)
    config = AutoscalingConfig(min_replicas=1, max_replicas=most, upscale_delay_s=20, downscale_delay_s=50)
    return Pool(device, config, policy, max_ongoing=4).serve(requests, until_s)


def test_one_request_takes_its_steps():
    requests = [Request(3.0, 10, 1), Request(100.0, 4, 2)]
    ended_s = day(1, requests, 200.0).ended_s
    assert ended_s == pytest.approx([3.0 + 10 * h200_512px("k", 1), 100.0 + 4 * h200_512px("k", 2)])


def test_every_request_ends_however_many_come_at_once():
    requests = [Request(0.5 * number, 20, 1 + number % 4) for number in range(300)]
    ended_s = day(4, requests, 100.0).ended_s
    assert all(ended > one.at_s for ended, one in zip(ended_s, requests, strict=True))
    assert max(ended_s) < 1e4


def test_replicas_come_after_the_delay_and_help_once_they_have_started():
    gpus = day(3, [], 300.0).gpus
    assert gpus[0] == (0.0, 1)
    assert gpus[1] == (pytest.approx(20.0, abs=2.0), 3)
    crowd = [Request(0.0, 100, 1) for _ in range(40)]
    alone_s, helped_s = (max(day(wanted, crowd, 300.0).ended_s) for wanted in (1, 3))
    assert 0.4 * alone_s < helped_s < 0.7 * alone_s


def test_gpu_hours_are_those_of_all_replicas():
    held = day(8, [], 3600.0, most=5)
    assert max(count for _, count in held.gpus) == 5
    assert held.gpu_hours() == pytest.approx(5.0, abs=0.1)
    assert all(before <= after for (before, _), (after, _) in pairwise(held.gpus))
