"""What the deployments hand each other.

`Prepared`, and the editor's `EditResult`, hold pixels. Each is the whole result of a call, and the ingress passes that
call's response on without awaiting it, so that it owns the object and never holds its bytes. References *inside* a
result would not do: a handle's calls are streaming generators, and Ray may free what their items refer to before the
receiver has seen them (ray-project/ray#58080).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from serve.metrics import EngineFigures
from serve.prepare import PreparedEdit
from serve.types import Progress, QueuePlace


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request past validation, from the codec."""

    edit: PreparedEdit
    decode_ms: float


@dataclass(frozen=True, slots=True)
class Ticket:
    """What the ingress needs to know of a `Prepared`.

    images: that are asked for. fingerprint: of all that was asked for, where that was wanted. draws: whether anything
    is left for the model to do. streams: whether it is answered by events. caller: the request's `user` and
    `safety_identifier`.
    """

    model: str
    images: int
    fingerprint: str
    draws: bool
    streams: bool
    caller: tuple[str | None, str | None]


@dataclass(frozen=True, slots=True)
class Begun:
    """What a stream knows first. replayed: whether it is that of an earlier request."""

    place: QueuePlace
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class Shown:
    """body: the JSON of a `PartialImageEvent`."""

    body: str


Happening = Begun | Progress | Shown
"""On the way to an edit's end."""


@dataclass(frozen=True, slots=True)
class Completed:
    """bodies: the JSON of a `CompletedEvent` for each image. timings_ms: as an `Answer`'s."""

    bodies: Sequence[str]
    timings_ms: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Answer:
    """body: the JSON of an `EditResponse`, ready to send. timings_ms: of every stage that ran, by its name.

    place: where the edit stood in the model's queue.
    """

    body: bytes
    timings_ms: Mapping[str, float]
    place: QueuePlace


@dataclass(frozen=True, slots=True)
class EditorState:
    """What a replica with an engine says of itself. ready: whether edits would not fail now."""

    figures: EngineFigures
    ready: bool
