"""Calls that wait for a replica, while Ray Serve's list of deployments changes."""

import asyncio
import threading
from collections.abc import Collection
from types import SimpleNamespace
from typing import Any, cast

import pytest

from serve.deployments import editors as editors_module
from serve.deployments.calls import Call
from serve.deployments.editors import Editors
from serve.errors import BackendUnavailable

HANDLE = cast("Any", SimpleNamespace(app_name="retouch", deployment_name="editor-main"))


class Waiting:
    """A call that a replica takes once it is `given`."""

    def __init__(self) -> None:
        self.given = asyncio.Event()
        self.cancelled = False

    async def _fetch_future_result_async(self) -> object:
        await self.given.wait()
        return object()

    def cancel(self) -> None:
        self.cancelled = True


class Lists:
    """What Ray Serve says it has, look by look; the last again and again."""

    def __init__(self, *lists: Collection[str]) -> None:
        self._lists = list(lists)
        self.exhausted = threading.Event()

    def __call__(self, application: str) -> Collection[str]:
        assert application == "retouch"
        if len(self._lists) > 1:
            return self._lists.pop(0)
        self.exhausted.set()
        return self._lists[0]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(editors_module, "LOOK_EVERY_S", 0.01)


def _waiting(lists: Lists) -> "tuple[asyncio.Task[None], Waiting]":
    call = Waiting()
    return asyncio.create_task(Editors({"main": HANDLE}, lists).taken("main", cast("Call", call))), call


async def test_an_edit_waits_on_while_the_application_is_built_anew_and_where_that_has_failed() -> None:
    lists = Lists(("editor-main",), (), (), ())
    taken, call = _waiting(lists)
    assert await asyncio.to_thread(lists.exhausted.wait, 10)
    assert not taken.done()
    call.given.set()
    await taken
    assert not call.cancelled


async def test_an_edit_whose_model_is_no_longer_served_is_refused() -> None:
    taken, call = _waiting(Lists(("editor-main",), (), ("editor-other",)))
    with pytest.raises(BackendUnavailable, match="the model main is being added or removed"):
        await taken
    assert call.cancelled


async def test_a_model_that_is_not_known_yet_is_refused() -> None:
    with pytest.raises(BackendUnavailable):
        Editors({"main": HANDLE}, Lists(())).of("other")
