"""What the scheduler is told of the device: seconds from the profile, batch sizes from the knee and the memory."""

from collections.abc import Hashable

from serve.engine.memory import Room
from serve.engine.profile import Profile


class DeviceCosts:
    """Read off once between two steps, since a scheduler asks for the same figures many times."""

    def __init__(self, profile: Profile, room: Room) -> None:
        self._profile = profile
        self._room = room
        self._limits: dict[Hashable, int] = {}
        self._seconds: dict[tuple[Hashable, int], float] = {}

    def refresh(self) -> None:
        """A step was measured, or rows came or went."""
        self._limits.clear()
        self._seconds.clear()

    def limit(self, key: Hashable) -> int:
        if key not in self._limits:
            self._limits[key] = self._room.limit(key)
        return self._limits[key]

    def step_s(self, key: Hashable, passes: int) -> float:
        if (key, passes) not in self._seconds:
            self._seconds[key, passes] = self._profile.step_s(key, passes)
        return self._seconds[key, passes]
