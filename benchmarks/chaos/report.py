"""What became of the requests around each fault: counted, judged, and told as JSON values and as a table."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.chaos.clients import OFFICIAL_TRIES, Request, Try

BAD = ("wrong", "unclean", "hung")
WINDOW_S = 5.0
_TIMES = ("next_good_s", "full_s", "restored_s", "slowest_s")
FULL = 0.8
"""Of the throughput before; the clients' number is fixed, so that requests which wait make it less."""


@dataclass(frozen=True, slots=True)
class Blow:
    """One fault as it was made: on the clients' clock, calm from when on, struck when, watched until when.

    made_s: when all of it was done: the strike, the time that what is mended from outside stays away, and its mending.
    restored_s: when all replicas were up again, if they were. cuts: whether it ended processes that hold connections.
    kills: whether it ended any.
    """

    name: str
    calm_s: float
    struck_s: float
    made_s: float
    restored_s: float | None
    until_s: float
    cuts: bool
    kills: bool = True


def reported(blows: Sequence[Blow], requests: Sequence[Request], slow_ends: Sequence[int] = ()) -> dict[str, Any]:
    """JSON values; `wrongs` has a sentence for each promise that was broken. slow_ends: see `World`."""
    return {
        "requests": len(requests),
        "tries": dict(Counter(_told(one) for request in requests for one in request.tries)),
        "most_tries": max((len(request.tries) for request in requests), default=0),
        "beyond_official_retries": sum(len(request.tries) > OFFICIAL_TRIES for request in requests),
        "blows": [_blow(blow, requests) for blow in blows],
        "slow_ends": {str(status): count for status, count in Counter(slow_ends).items()},
        "wrongs": [*_wrongs(blows, requests), *_slow_wrongs(slow_ends)],
    }


def _blow(blow: Blow, requests: Sequence[Request]) -> dict[str, Any]:
    tries = [one for request in requests for one in request.tries]
    near = [one for one in tries if blow.struck_s <= one.ended_s and one.began_s < blow.until_s]
    good = sorted(one.ended_s - blow.struck_s for one in near if one.kind == "right" and one.began_s >= blow.struck_s)
    ended_s = [one.ended_s for one in tries if one.kind == "right"]
    return {
        "name": blow.name,
        "ends": dict(Counter(_told(one) for one in near)),
        "next_good_s": good[0] if good else None,
        "full_s": _full_s(blow, ended_s),
        "kills": blow.kills,
        "restored_s": None if blow.restored_s is None else blow.restored_s - blow.made_s,
        "slowest_s": max((one.ended_s - one.began_s for one in near if one.kind == "right"), default=None),
    }


def _full_s(blow: Blow, ended_s: Sequence[float]) -> float | None:
    """From the blow until the start of the first window that has FULL of the throughput before."""
    before = sum(blow.calm_s <= one < blow.struck_s for one in ended_s) / (blow.struck_s - blow.calm_s)
    start_s = blow.struck_s
    while start_s + WINDOW_S <= blow.until_s:
        if sum(start_s <= one < start_s + WINDOW_S for one in ended_s) / WINDOW_S >= FULL * before:
            return start_s - blow.struck_s
        start_s += 0.5
    return None


def _wrongs(blows: Sequence[Blow], requests: Sequence[Request]) -> list[str]:
    found = [f"after {blow.name} not all replicas came up" for blow in blows if blow.restored_s is None]
    for request in requests:
        for one in request.tries:
            blow = next((blow for blow in reversed(blows) if blow.struck_s <= one.ended_s), None)
            if one.kind in BAD or (one.kind == "cut" and not (blow and blow.cuts)):
                found.append(f"{one.request_id} ({one.way}, at {blow.name if blow else 'the start'}): {_told(one)}")
        if request.last.kind not in ("right", *BAD):
            found.append(f"{request.last.request_id}: {len(request.tries)} tries were in vain, {_told(request.last)}")
    return found


def _slow_wrongs(ends: Sequence[int]) -> list[str]:
    """What comes too slowly is refused when its time is over, and not waited for."""
    return [
        f"a body that came a byte a second was answered by {status or 'nothing'}" for status in ends if status != 408
    ]


def _told(one: Try) -> str:
    return one.kind if one.kind == "right" else " ".join(str(part) for part in (one.kind, one.status, one.code) if part)


def markdown(report: Mapping[str, Any]) -> str:
    """A row for each fault."""
    lines = [
        "| fault | tries from then on | next good answer | full throughput | all replicas up | slowest answer |",
        "|---|---|---|---|---|---|",
    ]
    for blow in report["blows"]:
        ends = ", ".join(f"{count} {what}" for what, count in sorted(blow["ends"].items()))
        next_good, full, restored, slowest = (_seconds(blow[name]) for name in _TIMES)
        cells = [blow["name"], ends, next_good, full, restored if blow["kills"] else "", slowest]
        lines.append(f"| {' | '.join(cells)} |")
    wrongs, slow = report["wrongs"], report["slow_ends"]
    told = ", ".join(f"{count} times {status}" for status, count in slow.items())
    return "\n".join(
        [
            *lines,
            "",
            "All replicas up: from when the fault was made, and mended where that is done from outside; empty where no "
            "process is killed.",
            "",
            f"{report['requests']} requests; the most tries of one: {report['most_tries']}; "
            f"{report['beyond_official_retries']} needed more than the two retries of OpenAI's clients.",
            *(("", f"Requests whose bodies came a byte a second were answered {told}.") if slow else ()),
            "",
            f"{len(wrongs)} broken promises:" if wrongs else "Every request got its one right answer.",
            *(f"- {wrong}" for wrong in wrongs[:20]),
        ]
    )


def _seconds(value: float | None) -> str:
    return "not while it was watched" if value is None else f"{value:.1f} s"
