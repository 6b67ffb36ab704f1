"""One step of a batch: rows flattened to passes, passes to denoiser calls, answers back to their rows."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from serve.engine.faults import contained
from serve.families.base import Family, Inputs, Sample


class NotFinite(Exception):
    """The denoiser answered a number that is not finite for a row."""


@dataclass(frozen=True, slots=True)
class _Pass:
    """row: index in the batch of the row that this pass belongs to. inputs: of batch one."""

    row: int
    inputs: Inputs


class Runner:
    """Runs batches of one key. max_batch: passes of one denoiser call.

    Where the denoiser is not batch-invariant every call has exactly `max_batch` passes, filled up with a repeated one,
    so that a row's bytes depend neither on its neighbours nor on how many there are.
    """

    def __init__(self, family: Family, *, max_batch: int, batch_invariant: bool) -> None:
        self._family = family
        self._max_batch = max_batch
        self._batch_invariant = batch_invariant
        (output,) = family.denoiser.spec.outputs
        self._output = output.name

    @torch.inference_mode()
    def step(self, samples: Sequence[Sample]) -> list[Exception | None]:
        """Move each sample one step on. Answers for each row None, or why it failed, which leaves the others alone.

        Raises BackendLost: the executor is gone, and nothing after it can succeed.
        """
        failures: list[Exception | None] = [None] * len(samples)
        answers: list[list[torch.Tensor]] = [[] for _ in samples]
        passes: list[_Pass] = []
        for row, sample in enumerate(samples):
            with contained(partial(failures.__setitem__, row)):
                passes += [_Pass(row, inputs) for inputs in self._family.step_inputs(sample)]
        for chunk in _chunks(passes, self._max_batch):
            self._denoise(chunk, answers, failures)
        for row, sample in enumerate(samples):
            if failures[row] is None:
                with contained(partial(failures.__setitem__, row)):
                    self._family.advance(sample, answers[row])
        return failures

    def _denoise(
        self, chunk: Sequence[_Pass], answers: list[list[torch.Tensor]], failures: list[Exception | None]
    ) -> None:
        def fail(error: Exception) -> None:
            for one in chunk:
                failures[one.row] = error

        with contained(fail):
            output = self._family.denoiser(self._inputs(chunk))[self._output][: len(chunk)]
            finite: list[bool] = output.isfinite().flatten(1).all(dim=1).tolist()
            for index, one in enumerate(chunk):
                # A copy starts as aligned as any other, at every index, and does not keep the whole batch in memory.
                answers[one.row].append(output[index : index + 1].clone())
                if not finite[index]:
                    failures[one.row] = NotFinite("the denoiser answered numbers that are not finite")

    def _inputs(self, chunk: Sequence[_Pass]) -> dict[str, torch.Tensor]:
        """The chunk's inputs with their batch axes concatenated, filled up to the fixed size where there is one."""
        filler = 0 if self._batch_invariant else self._max_batch - len(chunk)
        rows = [one.inputs for one in chunk] + [chunk[-1].inputs] * filler
        return {name: torch.cat([inputs[name] for inputs in rows]) for name in rows[0]}


def _chunks(passes: Sequence[_Pass], size: int) -> Iterator[Sequence[_Pass]]:
    for start in range(0, len(passes), size):
        yield passes[start : start + size]
