"""How long a request may take: what its caller and the configuration allow, and what is left of it."""

import asyncio
import math
import re
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from starlette.datastructures import Headers

from serve.errors import InvalidRequest, RequestTimeout

TIME_LIMIT_HEADERS = ("x-request-timeout-seconds", "x-stainless-read-timeout")
"""The first is Ray Serve's own, which the proxy acts on as well; the second is how long OpenAI's clients wait."""

SHOWN_CHARACTERS = 40
"""Of a header that is refused."""

_NUMBER = re.compile(r"[0-9]{1,400}(\.[0-9]{1,400})?([eE][+-]?[0-9]{1,3})?")


class Deadline:
    """Of one request, from now on. Others are told what is left, since clocks of two machines cannot be compared."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._ends_s = time.monotonic() + limit_s

    def left_s(self) -> float:
        """Seconds; 0 once it has passed."""
        return max(0.0, self._ends_s - time.monotonic())

    @asynccontextmanager
    async def kept(self) -> AsyncGenerator[None]:
        """What runs in the context is cancelled at the deadline, which raises RequestTimeout."""
        try:
            async with asyncio.timeout(self.left_s()):
                yield
        except TimeoutError:
            raise RequestTimeout(f"the edit did not finish within {self._limit_s:g} s") from None


def time_limit_s(headers: Headers, most_s: float) -> float:
    """The shortest of the caller's limits and `most_s`. Raises InvalidRequest, naming the header that holds no time."""
    asked = (_seconds(name, value) for name in TIME_LIMIT_HEADERS for value in headers.getlist(name))
    return min(most_s, *asked, math.inf)


def _seconds(name: str, value: str) -> float:
    seconds = float(value) if _NUMBER.fullmatch(value) else 0.0
    if not 0 < seconds < math.inf:
        raise InvalidRequest(f"the header {name} is {value[:SHOWN_CHARACTERS]!r}; it must be seconds, above 0")
    return seconds
