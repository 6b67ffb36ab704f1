"""How long an answer is given to those who send its request again: links must still work for them."""

from itertools import count

import numpy as np
import pytest

from serve.deployments import runs as runs_module
from serve.deployments.messages import Answer, Completed, Prepared, Ticket
from serve.deployments.runbook import REJOIN_S, Claim
from serve.deployments.runs import Runs
from serve.errors import EditError
from serve.prepare import Frame, Origin, PreparedEdit
from serve.settings import IdempotencySettings, Settings, StorageSettings
from serve.types import QueuePlace
from tests.fake_deployments import deployed
from tests.loop_clock import LoopClock

KEY = Claim("key", "same", joins=True, lasting=True)
RETRY = Claim("retry", "same", joins=True, lasting=False)
TICKET = Ticket("main", images=1, fingerprint="same", draws=False, streams=False, caller=(None, None))
Answered = tuple[Answer | Completed, bool] | EditError


@pytest.fixture(autouse=True)
def _the_process_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its log and its heap, which a replica has to itself."""
    monkeypatch.setattr(runs_module, "adopt_serve_logging", lambda level: None)
    monkeypatch.setattr(runs_module, "return_pictures_at_once", lambda: None)


def _runs(links_s: float, answers_s: float) -> Runs:
    """Each answer is a number of its own."""
    numbers = count(1)
    codec = deployed(finish=lambda *_: Answer(b"%d" % next(numbers), {}, QueuePlace(0, 0.0)))
    storage, idempotency = StorageSettings(lifetime_s=links_s), IdempotencySettings(lifetime_s=answers_s)
    return Runs(Settings(storage=storage, idempotency=idempotency), codec, {})


async def _answered(runs: Runs, claim: Claim, *, by_url: bool) -> tuple[bytes, bool]:
    frame = Frame(np.zeros((8, 8, 3), np.uint8), None, (7,), "png", 100, by_url)
    edit = PreparedEdit(Origin("a"), "main", None, frame, (), "same", stream=False, caller=(None, None))
    answered: Answered = await runs.answer(claim, Prepared(edit, decode_ms=0.0), TICKET, "http://a.example", 60.0)
    assert isinstance(answered, tuple)
    answer, replayed = answered
    assert isinstance(answer, Answer)
    return answer.body, replayed


async def test_links_are_given_to_others_for_half_of_their_life(monkeypatch: pytest.MonkeyPatch):
    clock, runs = LoopClock(monkeypatch), _runs(links_s=3600.0, answers_s=3600.0)
    assert await _answered(runs, KEY, by_url=True) == (b"1", False)
    await clock.skip(1790)
    assert await _answered(runs, KEY, by_url=True) == (b"1", True)
    await clock.skip(20)
    assert await _answered(runs, KEY, by_url=True) == (b"2", False)


@pytest.mark.parametrize(("links_s", "by_url"), [(3600.0, False), (86400.0, True)])
async def test_answers_that_stay_good_are_given_for_as_long_as_is_configured(
    monkeypatch: pytest.MonkeyPatch, links_s: float, by_url: bool
):
    clock, runs = LoopClock(monkeypatch), _runs(links_s, answers_s=3600.0)
    await _answered(runs, KEY, by_url=by_url)
    await clock.skip(3590)
    assert await _answered(runs, KEY, by_url=by_url) == (b"1", True)
    await clock.skip(20)
    assert await _answered(runs, KEY, by_url=by_url) == (b"2", False)


async def test_a_retry_gets_no_links_that_are_about_to_end(monkeypatch: pytest.MonkeyPatch):
    clock, runs = LoopClock(monkeypatch), _runs(links_s=REJOIN_S, answers_s=3600.0)
    await _answered(runs, RETRY, by_url=True)
    await clock.skip(REJOIN_S / 2 - 5)
    assert await _answered(runs, RETRY, by_url=True) == (b"1", True)
    await clock.skip(10)
    assert await _answered(runs, RETRY, by_url=True) == (b"2", False)
