"""What a model costs on its device, measured before the first request: each size at each batch, within a time."""

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch

from serve.backends.base import Backend, DeviceMemory
from serve.engine.profile import Profile
from serve.engine.runner import Runner
from serve.errors import DeviceOutOfMemory, UnsupportedParameter
from serve.families.base import Family, Plan, Sample, Stage
from serve.types import EditJob, Size

Result = TypeVar("Result")

REPEATS = 3
"""Of each measurement, of which the quickest counts: the first one also warms up."""

JOB_STEPS = 28


def measure(family: Family, backend: Backend, profile: Profile, sizes: Sequence[Size], within_s: float) -> None:
    """Fill the profile. sizes: (width, height) that the model draws, in the order of their weight.

    One size at one batch is measured however long it takes. Sizes that the backend was not built for are passed over,
    unless that is all of them. Raises the EditError that the model fails with.
    """
    deadline_s = time.monotonic() + within_s
    measured, refused = 0, None
    with torch.inference_mode():
        for size in sizes:
            if measured and time.monotonic() >= deadline_s:
                break
            try:
                _Measurement(family, backend, profile, _job(size)).run(deadline_s)
                measured += 1
            except UnsupportedParameter as error:
                refused = error
    if refused is not None and not measured:
        raise refused
    backend.memory.release()
    backend.memory.reset_peak()


class _Measurement:
    """Of one size."""

    def __init__(self, family: Family, backend: Backend, profile: Profile, job: EditJob) -> None:
        self._family, self._memory, self._profile, self._job = family, backend.memory, profile, job
        self._runner = Runner(family, backend, profile.max_batch)
        self._plan: Plan = family.plan(job)

    def run(self, deadline_s: float) -> None:
        self._measured("encode", 1, lambda: self._samples(1))
        (sample,) = self._samples(1)
        self._profile.row_bytes.measured(self._plan.key, self._plan.tokens, 1, sample.nbytes)
        self._measured("decode", 1, lambda: self._run([self._family.decode(sample)]))
        for index, batch in enumerate(_batches(self._profile)):
            if index and time.monotonic() >= deadline_s:
                return
            try:
                samples = self._samples(batch)
                self._measured("step", batch, lambda: self._step(samples))  # noqa: B023
                self._profile.know(self._plan.key, self._plan.tokens)
            except DeviceOutOfMemory:
                if not index:
                    raise
                return

    def _samples(self, count: int) -> list[Sample]:
        texts = self._run([self._family.encode_text(prompt) for prompt in self._family.text_prompts(self._job)])
        images = self._run([self._family.encode_image(self._job.canvas)])
        return [self._family.begin(self._job, texts, images, seed) for seed in range(count)]

    def _step(self, samples: Sequence[Sample]) -> None:
        """Raises DeviceOutOfMemory where it ran in halves, which tell nothing of the whole."""
        before = self._runner.counters.out_of_memory
        self._run([self._family.step(sample) for sample in samples])
        if len(samples) > 1 and not self._profile.fixed and self._runner.counters.out_of_memory > before:
            raise DeviceOutOfMemory(f"{len(samples)} rows found no memory together")

    def _run(self, stages: Sequence[Stage[Result]]) -> list[Result]:
        results: list[Result] = []
        for result in self._runner.run(stages, range(len(stages))):
            if isinstance(result, Exception):
                raise result
            results.append(result)
        return results

    def _measured(self, stage: str, passes: int, work: Callable[[], object]) -> None:
        seconds, peak_bytes = _best(work, self._memory)
        curves = {
            "encode": (self._profile.encode_s, self._profile.encode_bytes),
            "step": (self._profile.seconds, self._profile.peak_bytes),
            "decode": (self._profile.decode_s, self._profile.decode_bytes),
        }
        for curve, value in zip(curves[stage], (seconds, peak_bytes), strict=True):
            curve.measured(self._plan.key, self._plan.tokens, passes, value)


def _best(work: Callable[[], object], memory: DeviceMemory) -> tuple[float, float]:
    """Seconds, and bytes above what was held before, of the quickest of `REPEATS`."""
    taken: list[tuple[float, float]] = []
    for _ in range(REPEATS):
        memory.reset_peak()
        before_bytes, started_s = memory.used_bytes(), time.monotonic()
        work()
        taken.append((time.monotonic() - started_s, max(0, memory.peak_bytes() - before_bytes)))
    return min(taken)[0], max(peak for _, peak in taken)


def _batches(profile: Profile) -> list[int]:
    """1, 2, 4 and so on up to the largest; only that one where every call is filled up to it."""
    if profile.fixed:
        return [profile.max_batch]
    powers = [2**power for power in range(profile.max_batch.bit_length())]
    return powers if powers[-1] == profile.max_batch else [*powers, profile.max_batch]


def _job(size: Size) -> EditJob:
    """A grey picture, with one pass a step."""
    width, height = size
    return EditJob(
        request_id="measure",
        prompt="measure",
        canvas=np.full((height, width, 3), 128, np.uint8),
        references=(),
        mask=None,
        seeds=(0,),
        steps=JOB_STEPS,
        strength=1.0,
        guidance=1.0,
    )
