"""Runs the stages of many rows side by side: their calls become batches, the batches' answers go back to their rows."""

import math
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar, cast

import torch

from serve.backends.base import Backend, Component, device_faults
from serve.engine.faults import contained
from serve.engine.slots import Slots
from serve.errors import ConfigurationError, DeviceOutOfMemory
from serve.families.base import Call, Family, Inputs, Stage

Result = TypeVar("Result")
KEPT_SLOTS = 4
"""Sets of inputs kept on the device, of the keys that ran last: those that take turns."""


class NotFinite(Exception):
    """A component answered a number that is not finite for a row."""


@dataclass(slots=True)
class RunnerCounters:
    """passes: rows of the denoiser's calls, of which filler_passes are nobody's. out_of_memory: calls that found
    no room and were repeated, in halves where that is allowed."""

    passes: int = 0
    filler_passes: int = 0
    out_of_memory: int = 0


@dataclass(frozen=True, slots=True)
class _Pass:
    """stage and place: which stage's which call this is. row: what the call's inputs may be kept for."""

    stage: int
    place: int
    row: Hashable
    call: Call


class Runner:
    """max_batch: passes of one denoiser call.

    Where the backend is batch-invariant, other components take as many rows at a time as are there. Where it is not,
    a row's bytes would change with their number: the denoiser is always called with exactly `max_batch` passes, filled
    up with others, and every other component with one. A call of another component that found no memory teaches: none
    of its shapes will be that large again. How large those of the denoiser may be, its caller decides.

    Raises ConfigurationError: the denoiser does not take that many.
    """

    def __init__(self, family: Family, backend: Backend, max_batch: int) -> None:
        self._denoiser = family.denoiser
        self._max_batch = max_batch
        self._invariant = backend.batch_invariant
        self._release = backend.memory.release
        self._slots: dict[Hashable, Slots] = {}
        self._fitting: dict[Hashable, int] = {}
        self.counters = RunnerCounters()
        most = _most_rows(self._denoiser, max_batch)
        if max_batch > most and not self._invariant:
            raise ConfigurationError(
                f"max_batch is {max_batch}; {backend.name} runs {most} rows of the denoiser at most"
            )

    @property
    def together(self) -> int:
        """Rows that are worth encoding or decoding in one run."""
        return self._max_batch if self._invariant else 1

    @torch.inference_mode()
    def run(
        self, stages: Sequence[Stage[Result]], rows: Sequence[Hashable] = (), most: float = math.inf
    ) -> list[Result | Exception]:
        """Run the stages to their end. Answers for each its result, or why it failed, which leaves the others alone.

        rows: names of the stages' rows, for inputs that stay the same from run to run to be copied once. most: rows of
        a call.

        Raises BackendLost: the executor is gone, and nothing after it can succeed.
        """
        names = rows or range(len(stages))
        run = _Run(stages)
        while run.asked:
            passes = [
                _Pass(stage, place, (names[stage], place) if rows else None, call)
                for stage, calls in run.asked.items()
                for place, call in enumerate(calls)
            ]
            for alike in _alike(passes):
                for chunk in _chunks(alike, int(min(most, self._largest(alike[0].call)))):
                    self._call(chunk, run)
            run.resume()
        return run.ended()

    def vacate(self) -> None:
        """Let go of the rows whose inputs were kept for the next run."""
        for slots in self._slots.values():
            slots.vacate()

    def _largest(self, call: Call) -> int:
        declared = _most_rows(call.component, self._max_batch)
        if call.component is self._denoiser:
            return min(self._max_batch, declared)
        return min(declared, self._fitting.get(_kind(call), declared)) if self._invariant else 1

    def _call(self, chunk: Sequence[_Pass], run: "_Run[Result]", *, again: bool = True) -> None:
        """again: the chunk may be tried again, should there be no memory for it."""

        def fail(error: Exception) -> None:
            for one in chunk:
                run.fail(one.stage, error)

        with contained(fail):
            answered = self._answered(chunk, again=again)
            if answered is None:
                self._call_again(chunk, run)
            else:
                self._hand_out(chunk, *answered, run)

    def _answered(self, chunk: Sequence[_Pass], *, again: bool) -> tuple[Sequence[int], Inputs] | None:
        """Seats and outputs. None: there was no memory. An error that is being handled keeps the tensors of the call
        that failed alive, so whatever is tried next is tried outside."""
        component = chunk[0].call.component
        try:
            with device_faults(component.spec.name):
                inputs, seats = self._assembled(chunk)
                return seats, component(inputs)
        except DeviceOutOfMemory:
            if component is not self._denoiser:
                self._fitting[_kind(chunk[0].call)] = _half(len(chunk))
            if not again:
                raise
            return None

    def _call_again(self, chunk: Sequence[_Pass], run: "_Run[Result]") -> None:
        """In halves, and those in halves: a row fails where there is no memory for it alone, and for no neighbour.

        A filled batch is no smaller in halves, and its rows would come out different: it gets a second try as it is,
        with the memory that was kept for later given back."""
        self.counters.out_of_memory += 1
        self._slots.clear()
        self._release()
        for part in _chunks(chunk, _half(len(chunk)) if self._invariant else len(chunk)):
            self._call(part, run, again=self._invariant and len(part) > 1)

    def _assembled(self, chunk: Sequence[_Pass]) -> tuple[Inputs, Sequence[int]]:
        """The inputs of a batch, and where in it each pass is."""
        inputs = chunk[0].call.inputs
        if chunk[0].call.component is not self._denoiser:
            if len(chunk) > 1:
                inputs = {name: torch.cat([one.call.inputs[name] for one in chunk]) for name in inputs}
            return inputs, range(len(chunk))
        called = len(chunk) if self._invariant else self._max_batch
        self.counters.passes += called
        self.counters.filler_passes += called - len(chunk)
        return self._slots_of(inputs).fill([(one.row, one.call.inputs) for one in chunk], called)

    def _slots_of(self, inputs: Inputs) -> Slots:
        """The slots last used with inputs of these shapes; those used longest ago make room."""
        shapes = _shapes(inputs)
        slots = self._slots.pop(shapes, None) or Slots(inputs, self._max_batch)
        self._slots[shapes] = slots
        if len(self._slots) > KEPT_SLOTS:
            del self._slots[next(iter(self._slots))]
        return slots

    def _hand_out(self, chunk: Sequence[_Pass], seats: Sequence[int], outputs: Inputs, run: "_Run[Result]") -> None:
        finite = _finite_rows(outputs)
        for seat, one in zip(seats, chunk, strict=True):
            if finite[seat]:
                # A copy starts as aligned as any other, at every index, and does not keep the whole batch in memory.
                run.answer(one, {name: output[seat : seat + 1].clone() for name, output in outputs.items()})
            else:
                name = one.call.component.spec.name
                run.fail(one.stage, NotFinite(f"the {name} answered numbers that are not finite"))


class _Run(Generic[Result]):
    """The stages of one run: what each waits for, and how those that have ended did. asked: calls by stage."""

    def __init__(self, stages: Sequence[Stage[Result]]) -> None:
        self._stages = stages
        self._ends: dict[int, Result | Exception] = {}
        self._answers: dict[int, dict[int, Inputs]] = {}
        self.asked: dict[int, Sequence[Call]] = {}
        for stage in range(len(stages)):
            self._resume(stage, None)

    def answer(self, one: _Pass, outputs: Inputs) -> None:
        self._answers[one.stage][one.place] = outputs

    def fail(self, stage: int, error: Exception) -> None:
        self._stages[stage].close()
        self._ends[stage] = error

    def resume(self) -> None:
        """Send every stage its answers; those that failed are gone."""
        asked, self.asked = self.asked, {}
        for stage, calls in asked.items():
            if stage not in self._ends:
                answers = self._answers.pop(stage)
                self._resume(stage, [answers[place] for place in range(len(calls))])

    def ended(self) -> list[Result | Exception]:
        return [self._ends[stage] for stage in range(len(self._stages))]

    def _resume(self, stage: int, answers: Sequence[Inputs] | None) -> None:
        with contained(partial(self.fail, stage)):
            try:
                calls = self._stages[stage].send(cast(Sequence[Inputs], answers))
                while not calls:
                    calls = self._stages[stage].send(())
                self.asked[stage] = calls
                self._answers[stage] = {}
            except StopIteration as end:
                self._ends[stage] = end.value


def _most_rows(component: Component, otherwise: int) -> int:
    """That the component declares for a batch."""
    return next((axis.max for axis in component.spec.axes if axis.name == "batch"), otherwise)


def _alike(passes: Iterable[_Pass]) -> Iterable[Sequence[_Pass]]:
    """By component and shapes of inputs: what can be one call."""
    groups: dict[Hashable, list[_Pass]] = {}
    for one in passes:
        groups.setdefault(_kind(one.call), []).append(one)
    return groups.values()


def _kind(call: Call) -> Hashable:
    return id(call.component), _shapes(call.inputs)


def _half(rows: int) -> int:
    return -(-rows // 2)


def _shapes(inputs: Inputs) -> Hashable:
    return tuple((name, tensor.shape, tensor.dtype) for name, tensor in inputs.items())


def _finite_rows(outputs: Inputs) -> list[bool]:
    """For each row whether all its numbers are finite: a sum is not once one of them is not, and quicker than asking
    for each. Taken in float32, where a sum of finite halves cannot overflow."""
    sums = [
        output.flatten(1).sum(dim=1, dtype=torch.float32) for output in outputs.values() if output.is_floating_point()
    ]
    return torch.stack(sums).isfinite().all(dim=0).tolist()


def _chunks(passes: Sequence[_Pass], size: int) -> Iterator[Sequence[_Pass]]:
    for start in range(0, len(passes), size):
        yield passes[start : start + size]
