"""What a key may spend in a minute and hold at a time, whichever ingress counts it."""

import re

import pytest

from serve.auth import Limits, Principal
from serve.deployments.quotas import SILENT_S, Ledger, duration
from serve.errors import LimitTooLow, RateLimited


def principal(name: str = "ada", **limits: int) -> Principal:
    return Principal(name, limits=Limits(**limits))


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_requests_are_counted_and_refused_once_they_are_spent():
    ledger, ada = Ledger(), principal(requests_per_minute=3)
    told = [ledger.request(ada) for _ in range(3)]
    assert [headers["x-ratelimit-remaining-requests"] for headers in told] == ["2", "1", "0"]
    assert {headers["x-ratelimit-limit-requests"] for headers in told} == {"3"}
    with pytest.raises(RateLimited, match="3 requests a minute") as refused:
        ledger.request(ada)
    assert 1 <= (refused.value.retry_after_s or 0) <= 60
    told = refused.value.limits
    assert (told["x-ratelimit-limit-requests"], told["x-ratelimit-remaining-requests"]) == ("3", "0")
    assert re.fullmatch(r"(1m)?\d{1,2}s", told["x-ratelimit-reset-requests"])
    assert ledger.request(principal("bob", requests_per_minute=3))["x-ratelimit-remaining-requests"] == "2"


def test_images_count_as_they_are_asked_for():
    ledger, ada = Ledger(), principal(images_per_minute=5)
    assert ledger.begin(ada, 3, "one")[1]["x-ratelimit-remaining-images"] == "2"
    with pytest.raises(RateLimited, match="2 are left"):
        ledger.begin(ada, 3, "two")
    assert ledger.begin(ada, 2, "two")[1]["x-ratelimit-remaining-images"] == "0"
    with pytest.raises(RateLimited, match="6 images were asked for"):
        ledger.begin(ada, 6, "one")


def test_images_in_flight_are_bounded_over_all_replicas_and_free_at_their_end():
    ledger, ada = Ledger(), principal(images_in_flight=4)
    lease, headers = ledger.begin(ada, 3, "one")
    assert headers == {}
    with pytest.raises(RateLimited, match="3 images of this key are in flight and 2 more"):
        ledger.begin(ada, 2, "two")
    other, _ = ledger.begin(ada, 1, "two")
    ledger.end("one", lease)
    ledger.end("one", lease)
    ledger.begin(ada, 3, "two")
    with pytest.raises(RateLimited):
        ledger.begin(ada, 1, "one")
    ledger.end("two", other)
    ledger.begin(ada, 1, "one")


@pytest.mark.parametrize("limit", ["images_per_minute", "images_in_flight"])
def test_more_than_a_key_ever_allows_is_not_worth_a_retry(limit: str):
    ledger = Ledger()
    with pytest.raises(LimitTooLow, match=r"4 images were asked for; this key may") as refused:
        ledger.begin(Principal("ada", limits=Limits(**{limit: 3})), 4, "one")
    assert not refused.value.retryable


def test_what_a_dead_replica_held_becomes_free():
    clock = Clock()
    ledger, ada = Ledger(clock), principal(images_in_flight=1)
    lease, _ = ledger.begin(ada, 1, "dead")
    clock.now_s += SILENT_S
    ledger.alive("dead", {lease})
    clock.now_s += SILENT_S
    with pytest.raises(RateLimited):
        ledger.begin(ada, 1, "other")
    clock.now_s += 0.1
    ledger.begin(ada, 1, "other")
    ledger.end("dead", lease)


def test_a_lease_that_its_replica_never_learnt_of_becomes_free():
    clock = Clock()
    ledger, ada = Ledger(clock), principal(images_in_flight=2)
    held, _ = ledger.begin(ada, 1, "one")
    ledger.begin(ada, 1, "one")
    clock.now_s += SILENT_S
    ledger.alive("one", {held})
    with pytest.raises(RateLimited):
        ledger.begin(ada, 1, "one")
    clock.now_s += 0.1
    ledger.alive("one", {held})
    ledger.begin(ada, 1, "one")
    with pytest.raises(RateLimited):
        ledger.begin(ada, 1, "one")


def test_a_lease_of_a_ledger_that_is_gone_frees_nothing_of_its_successor():
    ada = principal(images_in_flight=2)
    old, _ = Ledger().begin(ada, 2, "one")
    successor = Ledger()
    lease, _ = successor.begin(ada, 2, "one")
    successor.end("one", old)
    with pytest.raises(RateLimited, match="2 images of this key are in flight"):
        successor.begin(ada, 2, "one")
    successor.end("one", lease)
    successor.begin(ada, 2, "one")


def test_an_image_that_is_refused_for_the_minute_is_not_in_flight():
    ledger, ada = Ledger(), principal(images_in_flight=2, images_per_minute=1)
    ledger.end("one", ledger.begin(ada, 1, "one")[0])
    for _ in range(3):
        with pytest.raises(RateLimited, match="a minute"):
            ledger.begin(ada, 1, "one")


@pytest.mark.parametrize(("seconds", "said"), [(0, "0s"), (0.2, "1s"), (59, "59s"), (60, "1m0s"), (359.5, "6m0s")])
def test_a_time_is_told_as_openai_tells_it(seconds: float, said: str):
    assert duration(seconds) == said
