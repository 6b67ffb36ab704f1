"""What whoever watches a job is told while it runs, and at which of its steps it is shown."""

from collections.abc import Callable

from serve.types import Preview, Progress, QueuePlace

Event = QueuePlace | Progress | Preview
"""First the place, when the job was taken; then what its rows come to."""

Watch = Callable[[Event], None]
"""Called on the engine's threads, and must not keep them waiting."""


def preview_steps(steps: int, previews: int) -> tuple[int, ...]:
    """After which of a row's steps it is shown: evenly over the run, at most so often, and not after the last one."""
    return tuple(sorted({i * steps // (previews + 1) for i in range(1, previews + 1)} - {0}))
