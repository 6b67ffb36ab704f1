"""What the report of a broken cluster makes of requests: which ends break a promise, and how long it took."""

from dataclasses import replace

import pytest

from benchmarks.chaos.clients import Kind, Request, Try
from benchmarks.chaos.report import Blow, markdown, reported

BLOW = Blow("node", calm_s=0.0, struck_s=10.0, made_s=11.0, restored_s=14.0, until_s=40.0, cuts=True)


def _request(*kinds: Kind, at_s: float = 12.0) -> Request:
    return Request(0, "plain", tuple(Try(kind, "plain", at_s, at_s + 0.5, "id") for kind in kinds))


@pytest.mark.parametrize("kinds", [("right",), ("retryable", "retryable", "right"), ("cut", "right")])
def test_what_ends_right_keeps_the_promise(kinds: tuple[Kind, ...]) -> None:
    assert reported([BLOW], [_request(*kinds)])["wrongs"] == []


@pytest.mark.parametrize("kinds", [("wrong",), ("unclean",), ("hung",), ("retryable", "retryable"), ("cut", "cut")])
def test_what_does_not_breaks_it(kinds: tuple[Kind, ...]) -> None:
    assert len(reported([BLOW], [_request(*kinds)])["wrongs"]) == 1


def test_a_connection_is_cut_only_where_a_process_that_holds_some_was_killed() -> None:
    cut = _request("cut", "right")
    assert len(reported([replace(BLOW, cuts=False)], [cut])["wrongs"]) == 1
    assert len(reported([BLOW], [_request("cut", "right", at_s=5.0)])["wrongs"]) == 1


def test_replicas_that_stay_away_break_it() -> None:
    assert len(reported([replace(BLOW, restored_s=None)], [])["wrongs"]) == 1


def test_it_tells_when_answers_came_again_and_when_as_many_as_before() -> None:
    before = [_request("right", at_s=second) for second in range(10)]
    after = [_request("right", at_s=12.0), *(_request("right", at_s=second) for second in range(20, 40))]
    (blow,) = reported([BLOW], [*before, *after])["blows"]
    assert blow["next_good_s"] == 2.5
    assert blow["restored_s"] == 3.0, "the fault's own mending is none of the cluster's time"
    assert 9.0 <= blow["full_s"] <= 10.5


def test_what_kills_nothing_has_no_time_to_come_up_again() -> None:
    told = [
        markdown(reported([replace(BLOW, kills=kills)], [])).splitlines()[2].split("|")[5] for kills in (True, False)
    ]
    assert [cell.strip() for cell in told] == ["3.0 s", ""]


def test_a_body_that_comes_a_byte_a_second_is_refused_for_its_time_and_nothing_else() -> None:
    report = reported([BLOW], [], slow_ends=[408, 408])
    assert report["wrongs"] == []
    assert "were answered 2 times 408." in markdown(report)
    assert len(reported([BLOW], [], slow_ends=[408, 0, 200])["wrongs"]) == 2
