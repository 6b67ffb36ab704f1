"""Streams whose processes die: what is lost is made again or left out, and what is left ends them."""

from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any, cast

import numpy as np
import pytest
from ray.exceptions import ActorDiedError

from serve.deployments.calls import ReplicaLost
from serve.deployments.deadline import Deadline
from serve.deployments.editors import Editors
from serve.deployments.messages import Begun, Completed, Happening, Prepared, Shown, Ticket
from serve.deployments.watched import Watching
from serve.types import EditResult, Preview, Progress, QueuePlace, Usage
from tests.fake_deployments import deployed

TICKET = Ticket("main", images=1, fingerprint="", draws=True, streams=True, caller=(None, None))
PIXELS = np.zeros((1, 1, 3), np.uint8)
RESULT = EditResult((PIXELS,), Usage(0, 0, 0), {}, None)
DRAWN = (QueuePlace(0, 1.0), Preview(0, 0, PIXELS), Progress(0, 1, 2), Preview(0, 1, PIXELS), RESULT)
COMPLETED = Completed(("the result",), {})


class Codec:
    """lost: by the name of the method, numbers of its calls whose replica dies."""

    def __init__(self, **lost: Sequence[int]) -> None:
        self._lost = lost
        self.calls: list[str] = []

    def preview(self, prepared: object, preview: Preview) -> object:
        return self._answer("preview", f"preview {preview.index}")

    def completed(self, prepared: object, edited: EditResult | None) -> object:
        assert edited is RESULT
        return self._answer("completed", COMPLETED)

    def _answer(self, method: str, answer: object) -> object:
        self.calls.append(method)
        return ActorDiedError() if self.calls.count(method) in self._lost.get(method, ()) else answer


async def _drawn(*_: object) -> AsyncGenerator[Any]:
    for event in DRAWN:
        yield event


async def _watched(codec: Codec, watch: Callable[..., object] = _drawn) -> list[Happening | Completed]:
    watching = Watching(
        deployed(preview=codec.preview, completed=codec.completed),
        Editors({"main": deployed(watch=watch)}, lambda _: ()),
    )
    prepared = cast("Prepared", object())
    return [event async for event in watching.watch(prepared, TICKET, Deadline(60))]


async def test_a_preview_whose_codec_dies_is_left_out():
    assert await _watched(Codec(preview=[1])) == [
        Begun(QueuePlace(0, 1.0)),
        Progress(0, 1, 2),
        Shown("preview 1"),
        COMPLETED,
    ]


async def test_results_whose_codec_dies_are_finished_by_another_and_not_drawn_again():
    runs: list[object] = []

    def watch(*args: object) -> object:
        runs.append(args)
        return _drawn()

    codec = Codec(completed=[1])
    assert (await _watched(codec, watch))[-1] == COMPLETED
    assert (len(runs), codec.calls.count("completed")) == (1, 2)


async def test_a_stream_whose_codecs_keep_dying_fails():
    codec = Codec(completed=[1, 2])
    with pytest.raises(ReplicaLost):
        await _watched(codec)
    assert codec.calls.count("completed") == 2


async def test_an_edit_whose_editor_dies_is_drawn_again_and_shown_once():
    runs: list[object] = []

    async def dies_at_first(*args: object) -> AsyncGenerator[Any]:
        runs.append(args)
        for event in DRAWN[: None if len(runs) > 1 else 2]:
            yield event
        if len(runs) == 1:
            raise ActorDiedError

    happened = await _watched(Codec(), dies_at_first)
    assert [event for event in happened if isinstance(event, Shown)] == [Shown("preview 0"), Shown("preview 1")]
    assert (happened[-1], len(runs)) == (COMPLETED, 2)
