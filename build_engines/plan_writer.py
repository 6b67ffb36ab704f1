"""The builder at work: its progress told, and the plan written as it is made.

The library's bindings print what a callback raises, and go on. So the first fault is kept, the builder told to stop,
and the fault raised once it has: a full disk is an OSError, and Ctrl-C a KeyboardInterrupt.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, BinaryIO, TypeVar

Result = TypeVar("Result")
Progress = Callable[[str, float], None]
"""Is told the phase and how much of it is done, 0 to 1. What it raises ends the build."""


def write_plan(trt: Any, builder: Any, network: Any, config: Any, file: BinaryIO, progress: Progress) -> bool:
    """Whether TensorRT has compiled the network. Raises what `progress` and the file do.

    TensorRT before 10.13 has no streams for Python: there the whole plan is held in memory.
    """
    faults = _Faults()
    config.progress_monitor = monitor = _monitor(trt, progress, faults)
    if hasattr(builder, "build_serialized_network_to_stream"):
        done = builder.build_serialized_network_to_stream(network, config, _writer(trt, file, faults))
    else:
        plan = builder.build_serialized_network(network, config)
        done = plan is not None
        file.write(plan if done else b"")
    del monitor  # it must outlive the build
    if faults.first is not None:
        raise faults.first
    return done


@dataclass
class _Faults:
    first: BaseException | None = None

    def kept(self, call: Callable[[], Result], otherwise: Result) -> Result:
        """What the call answers. Where it raises, now or before: `otherwise`."""
        if self.first is not None:
            return otherwise
        try:
            return call()
        except BaseException as error:  # noqa: BLE001  # It is raised when the builder has stopped.
            self.first = error
            return otherwise


@dataclass
class _Phase:
    parent: str | None
    steps: int
    done: int = 0


@dataclass
class _Phases:
    """What the builder works on. Phases nest; the share of the outermost is told."""

    progress: Progress
    phases: dict[str, _Phase] = field(default_factory=dict[str, _Phase])

    def start(self, name: str, parent: str | None, steps: int) -> None:
        self.phases[name] = _Phase(parent, steps)
        self._tell(name)

    def step(self, name: str, step: int) -> bool:
        """Whether to go on."""
        self.phases[name].done = step + 1
        self._tell(name)
        return True

    def finish(self, name: str) -> None:
        self.phases.pop(name, None)

    def _tell(self, name: str) -> None:
        while (parent := self.phases[name].parent) is not None and parent in self.phases:
            name = parent
        phase = self.phases[name]
        self.progress(name, phase.done / max(1, phase.steps))


def _monitor(trt: Any, progress: Progress, faults: _Faults) -> Any:
    phases = _Phases(progress)

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            faults.kept(lambda: phases.start(phase_name, parent_phase, num_steps), None)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return faults.kept(lambda: phases.step(phase_name, step), otherwise=False)

        def phase_finish(self, phase_name: str) -> None:
            phases.finish(phase_name)

    return Monitor()


def _writer(trt: Any, file: BinaryIO, faults: _Faults) -> Any:
    class Writer(trt.IStreamWriter):
        def __init__(self) -> None:
            trt.IStreamWriter.__init__(self)

        def write(self, data: bytes) -> int:
            return faults.kept(lambda: file.write(data), 0)

    return Writer()
