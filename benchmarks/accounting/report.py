"""What became of all requests: counted, judged, and told as JSON and as a table."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from benchmarks.accounting.ends import KINDS, End
from benchmarks.accounting.faults import Kill

BAD = ("wrong", "unclean", "lost", "hung")
SHOWN_FAULTS = 20


@dataclass(frozen=True, slots=True)
class Solo:
    """Requests sent one after the other when all is quiet. pictures: the digest of each, by the request's number.

    row_steps: that the engines ran for them; owed: that they asked for.
    """

    pictures: Mapping[int, str]
    row_steps: float
    owed: int
    wasted: float


@dataclass(frozen=True, slots=True)
class Storm:
    """The run itself. sent: how many requests. last: what each replica told when all had ended. settled: whether no row
    was left in time.
    """

    ends: Sequence[End]
    kills: Sequence[Kill]
    took_s: float
    settled: bool
    last: Mapping[str, Mapping[str, float]]
    row_steps: float
    wasted: float
    sent: int


@dataclass(frozen=True, slots=True)
class Account:
    """kinds: of ends, `right` and `wrong` for the answered ones. faults: one sentence for each thing that is wrong."""

    kinds: Mapping[str, int]
    codes: Mapping[str, int]
    faults: Sequence[str]
    different_pictures: int


def accounted(storm: Storm, solo: Solo, logged: Mapping[str, Counter[str]]) -> Account:
    """logged: ends that the server's log tells, by request id."""
    kinds = Counter(_kind(end, solo) for end in storm.ends)
    codes = Counter(f"{end.status} {end.detail}".strip() for end in storm.ends if end.status and end.status != 200)
    bad = [end for end in storm.ends if _kind(end, solo) in BAD]
    faults = [f"{end.request_id} ({end.ask.way}): {_kind(end, solo)}, {end.detail}" for end in bad]
    ended = {end.ask.index for end in storm.ends}
    if len(ended) < storm.sent:
        faults.append(f"{storm.sent - len(ended)} of {storm.sent} requests have no end")
    faults += _twice(storm.ends, logged)
    if not storm.settled:
        faults.append("rows were left in the engines, or a replica was missing, when all clients had gone")
    if (solo.row_steps, solo.wasted) != (solo.owed, 0):
        told = f"ran {solo.row_steps:g} row-steps, {solo.wasted:g} in vain"
        faults.append(f"for requests of {solo.owed} row-steps, sent alone, the engines {told}")
    faults += [
        f"the killed {kill.deployment} was not replaced" for kill in storm.kills if kill.replaced_after_s is None
    ]
    return Account(kinds, codes, faults, len(set(solo.pictures.values())))


def _kind(end: End, solo: Solo) -> str:
    if end.kind != "answered":
        return end.kind
    return "right" if solo.pictures.get(end.ask.number) == end.pictures else "wrong"


def _twice(ends: Sequence[End], logged: Mapping[str, Counter[str]]) -> list[str]:
    """The log must tell one end of each answered request, and never two of any."""
    found: list[str] = []
    for end in ends:
        told = logged.get(end.request_id, Counter())
        if told.total() > 1:
            found.append(f"{end.request_id}: the server ended it {told.total()} times ({dict(told)})")
        elif end.kind == "answered" and told["200"] != 1:
            found.append(f"{end.request_id}: answered, but the log tells {dict(told)}")
    return found


def reported(storm: Storm, solo: Solo, account: Account) -> dict[str, Any]:
    """JSON values. Latencies are of right answers."""
    took_s = [end.ended_s - end.began_s for end in storm.ends if _kind(end, solo) == "right"]
    return {
        "requests": len(storm.ends),
        "took_s": storm.took_s,
        "ends": {kind: account.kinds.get(kind, 0) for kind in ("right", "wrong", *KINDS[1:])},
        "codes": dict(sorted(account.codes.items())),
        "different_requests": len(solo.pictures),
        "different_pictures": account.different_pictures,
        "latency_s": {f"p{part}": float(np.percentile(took_s, part)) for part in (50, 95, 99)} if took_s else {},
        "kills": [_killed(kill, until_s, storm.ends) for kill, until_s in _spans(storm)],
        "replicas": storm.last,
        "row_steps": {
            "run": storm.row_steps,
            "wasted": storm.wasted,
            "of_right_answers": sum(end.ask.row_steps for end in storm.ends if _kind(end, solo) == "right"),
        },
        "alone": {"row_steps": solo.row_steps, "owed": solo.owed, "wasted": solo.wasted},
        "faults": list(account.faults),
    }


def _spans(storm: Storm) -> list[tuple[Kill, float]]:
    """Each kill with the time of the next."""
    return [
        (kill, later.at_s if later else float("inf"))
        for kill, later in zip(storm.kills, [*storm.kills[1:], None], strict=True)
    ]


def _killed(kill: Kill, until_s: float, ends: Sequence[End]) -> dict[str, Any]:
    """The kill, and the retryable answers from it to the next."""
    asked_to_retry = [end.ended_s for end in ends if end.kind == "retryable" and kill.at_s <= end.ended_s < until_s]
    last_s = max(asked_to_retry) - kill.at_s if asked_to_retry else None
    return {**asdict(kill), "retryable": len(asked_to_retry), "last_retryable_after_s": last_s}


def markdown(report: Mapping[str, Any]) -> str:
    """The report as a table, and its faults."""
    alone, pictures = report["alone"], f"{report['different_pictures']} of {report['different_requests']}"
    rows: list[tuple[str, object]] = [
        *((f"ended as {kind}", count) for kind, count in report["ends"].items()),
        *((f"answered {code}", count) for code, count in report["codes"].items()),
        ("different pictures, of as many different requests", pictures),
        *((f"latency of right answers, {part}", f"{value:.2f} s") for part, value in report["latency_s"].items()),
        *(row for kill in report["kills"] for row in _kill_rows(kill)),
        *((f"rows {state} at the end, by replica", _by_replica(report, state)) for state in ("waiting", "running")),
        *((f"row-steps {what.replace('_', ' ')}", f"{value:g}") for what, value in report["row_steps"].items()),
        ("row-steps run for requests alone, and owed", f"{alone['row_steps']:g}, {alone['owed']}"),
    ]
    lines = [f"| {report['requests']} requests in {report['took_s']:.0f} s | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in rows]
    faults = report["faults"]
    lines += ["", f"{len(faults)} faults:" if faults else "Every request is accounted for."]
    return "\n".join([*lines, *(f"- {fault}" for fault in faults[:SHOWN_FAULTS])])


def _kill_rows(kill: Mapping[str, Any]) -> list[tuple[str, str]]:
    told = f"{kill['retryable']}, {_seconds(kill['last_retryable_after_s'])}"
    return [
        (f"killed {kill['deployment']}: all replicas again after", _seconds(kill["replaced_after_s"])),
        ("retryable answers from then on, and when the last came", told),
    ]


def _by_replica(report: Mapping[str, Any], state: str) -> str:
    return ", ".join(f"{told[f'{state}_rows']:g}" for told in report["replicas"].values())


def _seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:.1f} s"
