"""What the scheduler is told of the device: constant between two steps, and new after each."""

from collections.abc import Hashable

import pytest

from serve.engine.costs import DeviceCosts
from serve.engine.curves import RECENT
from serve.engine.memory import Room
from serve.engine.profile import Profile
from tests.simulation import H200_512PX

KEY: Hashable = ("family", 512, 512)


def profile_of() -> Profile:
    profile = Profile(16, fixed=False)
    profile.know(KEY, 1024)
    for passes, seconds in H200_512PX.items():
        profile.seconds.measured(KEY, 1024, passes, seconds)
        profile.peak_bytes.measured(KEY, 1024, passes, 100.0 * passes)
    return profile


def test_costs_are_those_of_the_profile_and_the_room():
    costs = DeviceCosts(profile_of(), Room(profile_of()))
    assert costs.step_s(KEY, 8) == pytest.approx(H200_512PX[8])
    assert costs.limit(KEY) == 8


def test_figures_are_the_same_until_they_are_refreshed():
    profile = profile_of()
    room = Room(profile, budget_bytes=650.0)
    costs = DeviceCosts(profile, room)
    told = costs.step_s(KEY, 8), costs.limit(KEY)
    for _ in range(RECENT):
        profile.stepped(KEY, 8, 100.0)
    room.hold(1, 400.0)
    assert (costs.step_s(KEY, 8), costs.limit(KEY)) == told == (pytest.approx(H200_512PX[8]), 6)
    costs.refresh()
    assert costs.step_s(KEY, 8) > 10.0
    assert costs.limit(KEY) <= 2


def test_a_limit_shrinks_after_running_out():
    profile = profile_of()
    room = Room(profile)
    costs = DeviceCosts(profile, room)
    assert costs.limit(KEY) == 8
    room.ran_out(KEY, 8)
    costs.refresh()
    assert costs.limit(KEY) == 4
