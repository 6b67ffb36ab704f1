"""Stages run by plain loops, without the engine: what its results are compared with."""

from collections.abc import Sequence
from typing import TypeVar

import torch

from serve.families.base import Call, Inputs, Stage

Result = TypeVar("Result")


def run_alone(stage: Stage[Result], copies: int = 1) -> Result:
    """The stage's result when each of its calls is a batch by itself, of so many copies of it."""
    try:
        calls = next(stage)
        while True:
            calls = stage.send([_alone(call, copies) for call in calls])
    except StopIteration as end:
        return end.value


def run_as_one_batch(stages: Sequence[Stage[None]]) -> None:
    """Stages that each make one call of the same component: all in one batch, in this order."""
    calls = [call for stage in stages for call in next(stage)]
    component = calls[0].component
    assert len(calls) == len(stages)
    assert all(call.component is component for call in calls)
    outputs = component(_joined([call.inputs for call in calls]))
    for index, stage in enumerate(stages):
        answer = _row(outputs, index)
        try:
            stage.send([answer])
        except StopIteration:
            continue
        raise AssertionError("a stage asked for a second call")


def _alone(call: Call, copies: int) -> Inputs:
    return _row(call.component(_joined([call.inputs] * copies)), 0)


def _joined(rows: Sequence[Inputs]) -> Inputs:
    return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}


def _row(outputs: Inputs, index: int) -> Inputs:
    """A copy, which lies as aligned as any other tensor."""
    return {name: output[index : index + 1].clone() for name, output in outputs.items()}
