"""Requests that are the same one: one run, one answer, and nothing kept of what nobody comes back for."""

import asyncio
import gc
import weakref
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from starlette.datastructures import Headers

from serve.deployments import runbook
from serve.deployments.runbook import Claim, RunBook, Tell, claim_of, claims, idempotency_key
from serve.errors import BackendUnavailable, IdempotencyKeyReused, InvalidRequest
from tests.loop_clock import LoopClock

KEY = Claim("key", "same", joins=True, lasting=True)
FIRST = Claim("retry", "same", joins=False, lasting=False)
RETRY = Claim("retry", "same", joins=True, lasting=False)


class Work:
    """Runs that end when they are let go, each with an answer of its own."""

    def __init__(self) -> None:
        self.started = 0
        self.cancelled = 0
        self.go = asyncio.Event()

    async def __call__(self) -> bytes:
        self.started += 1
        name = b"answer %d" % self.started
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return name


class Story(Work):
    """One that tells each time how often it has been begun, and that it goes on."""

    async def tell(self, tell: Tell[str]) -> bytes:
        tell(f"begun {self.started + 1}")
        answer = await self()
        tell("gone on")
        return answer


def book(lifetime_s: float = 60.0, max_bytes: int = 1000) -> RunBook[bytes, str]:
    return RunBook(lifetime_s, max_bytes, len)


async def _heard(runs: RunBook[bytes, str], work: Story) -> list[tuple[str | bytes, bool]]:
    return [event async for event in runs.watch(KEY, work.tell)]


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not holds():  # noqa: ASYNC110 - of code that knows no event to wait for
            await asyncio.sleep(0.001)


async def test_requests_of_one_key_share_a_run_and_later_ones_its_answer():
    work, runs = Work(), book()
    both = [asyncio.create_task(runs.answer(KEY, work)) for _ in range(2)]
    await _until(lambda: work.started == 1)
    work.go.set()
    assert await asyncio.gather(*both) == [(b"answer 1", False), (b"answer 1", True)]
    assert await runs.answer(KEY, work) == (b"answer 1", True)
    assert work.started == 1


async def test_a_key_stands_for_one_request():
    work, runs = Work(), book()
    work.go.set()
    await runs.answer(KEY, work)
    other = Claim("key", "another", joins=True, lasting=True)
    with pytest.raises(IdempotencyKeyReused) as refused:
        await runs.answer(other, work)
    assert (refused.value.status, refused.value.code) == (409, "idempotency_key_reused")


async def test_a_run_of_a_key_goes_on_when_nobody_waits(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(runbook, "RETRY_GRACE_S", 0.0)
    work, runs = Work(), book()
    task = asyncio.create_task(runs.answer(KEY, work))
    await _until(lambda: work.started == 1)
    task.cancel()
    await asyncio.sleep(0.05)
    work.go.set()
    assert await runs.answer(KEY, work) == (b"answer 1", True)
    assert (work.started, work.cancelled) == (1, 0)


async def test_a_retry_joins_the_run_in_progress_and_a_first_attempt_does_not():
    work, runs = Work(), book()
    tasks = [asyncio.create_task(runs.answer(claim, work)) for claim in (FIRST, RETRY)]
    await _until(lambda: work.started == 1)
    tasks.append(asyncio.create_task(runs.answer(FIRST, work)))
    await _until(lambda: work.started == 2)
    work.go.set()
    assert [await task for task in tasks] == [(b"answer 1", False), (b"answer 1", True), (b"answer 2", False)]


async def test_a_retry_that_comes_soon_finds_the_run_of_a_first_attempt_that_left():
    work, runs = Work(), book()
    task = asyncio.create_task(runs.answer(FIRST, work))
    await _until(lambda: work.started == 1)
    task.cancel()
    await asyncio.sleep(0.01)
    retry = asyncio.create_task(runs.answer(RETRY, work))
    await asyncio.sleep(0.01)
    work.go.set()
    assert await retry == (b"answer 1", True)


async def test_a_run_that_no_retry_comes_for_is_cancelled(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(runbook, "RETRY_GRACE_S", 0.02)
    work, runs = Work(), book()
    task = asyncio.create_task(runs.answer(FIRST, work))
    await _until(lambda: work.started == 1)
    task.cancel()
    await _until(lambda: work.cancelled == 1)
    work.go.set()
    assert await runs.answer(RETRY, work) == (b"answer 2", False)


async def test_a_retry_that_leaves_has_a_grace_of_its_own(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(runbook, "RETRY_GRACE_S", 30.0)
    clock, work, runs = LoopClock(monkeypatch), Work(), book()

    async def come_and_leave(claim: Claim) -> None:
        task = asyncio.create_task(runs.answer(claim, work))
        await clock.skip(0)
        task.cancel()
        await clock.skip(0)

    await come_and_leave(FIRST)
    await clock.skip(20)
    await come_and_leave(RETRY)
    await clock.skip(20)
    assert (work.started, work.cancelled) == (1, 0)
    await clock.skip(20)
    assert (work.started, work.cancelled) == (1, 1)


async def test_a_run_is_not_stopped_while_a_retry_waits_for_it(monkeypatch: pytest.MonkeyPatch):
    clock, work, runs = LoopClock(monkeypatch), Work(), book()
    first = asyncio.create_task(runs.answer(FIRST, work))
    await clock.skip(0)
    first.cancel()
    await clock.skip(0)
    retry = asyncio.create_task(runs.answer(RETRY, work))
    await clock.skip(2 * runbook.RETRY_GRACE_S)
    work.go.set()
    assert await retry == (b"answer 1", True)


async def test_the_answer_of_a_first_attempt_waits_a_while_for_its_retry(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(runbook, "REJOIN_S", 0.1)
    work, runs = Work(), book()
    work.go.set()
    await runs.answer(FIRST, work)
    assert await runs.answer(RETRY, work) == (b"answer 1", True)
    await asyncio.sleep(0.15)
    assert await runs.answer(RETRY, work) == (b"answer 2", False)


async def test_who_joins_a_run_hears_how_it_began_and_all_that_is_told_from_then_on():
    work, runs = Story(), book()
    tasks = [asyncio.create_task(_heard(runs, work))]
    await _until(lambda: work.started == 1)
    tasks.append(asyncio.create_task(_heard(runs, work)))
    await asyncio.sleep(0.01)
    work.go.set()
    first, second = await asyncio.gather(*tasks)
    assert first == [("begun 1", False), ("gone on", False), (b"answer 1", False)]
    assert second == [("begun 1", True), ("gone on", True), (b"answer 1", True)]
    assert await _heard(runs, work) == [("begun 1", True), (b"answer 1", True)]


async def test_a_run_that_is_watched_goes_on_when_nobody_does():
    work, runs = Story(), book()
    task = asyncio.create_task(_heard(runs, work))
    await _until(lambda: work.started == 1)
    task.cancel()
    await asyncio.sleep(0.01)
    work.go.set()
    assert await _heard(runs, work) == [("begun 1", True), ("gone on", True), (b"answer 1", True)]
    assert (work.started, work.cancelled) == (1, 0)


async def test_an_error_reaches_all_who_watch():
    runs, go = book(), asyncio.Event()

    async def fails(tell: Tell[str]) -> bytes:
        tell("begun")
        await go.wait()
        raise BackendUnavailable("gone")

    async def watch() -> None:
        async for event, _ in runs.watch(KEY, fails):
            assert event == "begun"

    both = [asyncio.create_task(watch()) for _ in range(2)]
    await asyncio.sleep(0.01)
    go.set()
    assert [type(end) for end in await asyncio.gather(*both, return_exceptions=True)] == [BackendUnavailable] * 2


async def test_an_error_reaches_all_who_wait_and_the_next_runs_again():
    runs, go, tries = book(), asyncio.Event(), list[int]()

    async def fails() -> bytes:
        tries.append(1)
        await go.wait()
        raise BackendUnavailable("gone")

    both = [asyncio.create_task(runs.answer(KEY, fails)) for _ in range(2)]
    await _until(lambda: len(tries) == 1)
    go.set()
    assert [type(end) for end in await asyncio.gather(*both, return_exceptions=True)] == [BackendUnavailable] * 2
    work = Work()
    work.go.set()
    assert await runs.answer(KEY, work) == (b"answer 1", False)


async def test_answers_are_kept_for_their_lifetime_and_under_the_bound():
    work, runs = Work(), book(lifetime_s=0.1, max_bytes=20)
    work.go.set()
    for number in range(3):
        await runs.answer(Claim(f"key {number}", "same", joins=True, lasting=True), work)
    assert await runs.answer(Claim("key 2", "same", joins=True, lasting=True), work) == (b"answer 3", True)
    assert await runs.answer(Claim("key 0", "same", joins=True, lasting=True), work) == (b"answer 4", False)
    await asyncio.sleep(0.15)
    assert await runs.answer(Claim("key 2", "same", joins=True, lasting=True), work) == (b"answer 5", False)


async def test_an_answer_is_kept_no_longer_than_it_is_useful(monkeypatch: pytest.MonkeyPatch):
    clock, work, runs = LoopClock(monkeypatch), Work(), book(lifetime_s=60.0)
    work.go.set()
    assert await runs.answer(KEY, work, useful_s=30.0) == (b"answer 1", False)
    await clock.skip(20)
    assert await runs.answer(KEY, work, useful_s=30.0) == (b"answer 1", True)
    await clock.skip(20)
    assert await runs.answer(KEY, work, useful_s=100.0) == (b"answer 2", False)
    await clock.skip(70)
    assert await runs.answer(KEY, work) == (b"answer 3", False)


@dataclass(eq=False)
class Picture:
    """An answer of which the memory can be watched."""

    bytes: int


async def test_an_answer_beyond_the_bound_leaves_the_memory():
    runs: RunBook[Picture, str] = RunBook(3600.0, 20, lambda picture: picture.bytes)
    drawn: list[weakref.ref[Picture]] = []

    async def draw() -> Picture:
        picture = Picture(bytes=10)
        drawn.append(weakref.ref(picture))
        return picture

    for number in range(5):
        await runs.answer(Claim(f"key {number}", "same", joins=True, lasting=True), draw)
    gc.collect()
    assert [picture() is not None for picture in drawn] == [False, False, False, True, True]


def test_a_request_claims_by_its_key_before_its_retries():
    key = claim_of(Headers({"idempotency-key": "k", "x-stainless-retry-count": "0"}), "ada", "f")
    first, retry = (claim_of(Headers({"x-stainless-retry-count": count}), "ada", "f") for count in ("0", "2"))
    assert (key.joins, key.lasting) == (True, True)
    assert (first.joins, retry.joins, first.lasting) == (False, True, False)
    assert first.name == retry.name != key.name
    assert claim_of(Headers({"idempotency-key": "k"}), "bob", "f").name != key.name
    assert not claims(Headers({}))
    assert not claims(Headers({"x-stainless-retry-count": "many"}))


@pytest.mark.parametrize("key", ["", "x" * 256, "é", "a\nb"])
def test_a_key_that_is_none_is_refused(key: str):
    with pytest.raises(InvalidRequest, match="the header idempotency-key must be"):
        idempotency_key(Headers(raw=[(b"idempotency-key", key.encode("latin-1"))]))
