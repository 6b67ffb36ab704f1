"""What a check finds: a verdict, what is so, and what to do about it."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from serve.errors import ConfigurationError


class Verdict(StrEnum):
    """WARNING: a server starts, and somebody will be surprised. WRONG: it does not start, or nobody can use it."""

    OK = "ok"
    WARNING = "warning"
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Finding:
    """check: its name, with the model or component that it is about. advice: empty where nothing is to be done."""

    check: str
    verdict: Verdict
    found: str
    advice: str = ""


def ok(check: str, found: str) -> Finding:
    return Finding(check, Verdict.OK, found)


def warning(check: str, found: str, advice: str) -> Finding:
    return Finding(check, Verdict.WARNING, found, advice)


def wrong(check: str, found: str, advice: str) -> Finding:
    return Finding(check, Verdict.WRONG, found, advice)


def refused(check: str, error: ConfigurationError, advice: str = "correct it in the configuration") -> Finding:
    """What a start would be refused with. The sentence mostly ends with what to do; advice is for where it does not."""
    found, _, told = str(error).partition("; ")
    return wrong(check, found, told or advice)


def guarded(name: str, check: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """What the check finds, up to where it fails."""
    try:
        yield from check()
    except Exception as error:  # noqa: BLE001  # Whatever is broken here is what the operator looks for.
        reason = next(iter(str(error).splitlines()), "")
        found = f"the check itself failed: {type(error).__name__}: {reason}".rstrip(": ")
        advice = "mend what it names; if that is nothing of this machine's, report it as a bug of Retouch"
        yield wrong(name, found, advice)


def gib(count: float) -> str:
    return f"{count / 2**30:.1f} GiB"
