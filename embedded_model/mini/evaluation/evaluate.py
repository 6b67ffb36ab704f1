"""The evaluation: each case goes out as a request, and what comes back is measured."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch
from torch import Tensor

from embedded_model.mini.evaluation.candidates import Judgement, judged
from embedded_model.mini.evaluation.cases import Case
from embedded_model.mini.evaluation.editor import Editor
from embedded_model.mini.evaluation.features import similarity
from embedded_model.mini.evaluation.scores import is_at, mean_change, psnr_db, unchanged

LOG = logging.getLogger(__name__)
SWEEPS: Mapping[str, Sequence[float]] = MappingProxyType(
    {"num_inference_steps": (8, 28), "guidance_scale": (1.0, 2.5, 5.0, 8.0), "strength": (0.3, 0.6, 1.0)}
)
"""Fields of the API, and the values with which the same edit is made."""
SWEPT_ROWS: Mapping[str, int] = MappingProxyType({"num_inference_steps": 1, "guidance_scale": 2, "strength": 1})
"""Of each group."""

FeaturesOf = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Content:
    """How alike the source's features are to those of the output, of the target, and of another photograph."""

    output: float
    target: float
    other: float


@dataclass(frozen=True)
class Outcome:
    """How one edit came out.

    psnr_db: to the target, in the mask where there is one. outside_db: to the source where the target is the source,
    in edits of a part. exact_outside: whether what the mask keeps is the source, bit for bit. placed: whether the
    change is at the place that the instruction names.
    """

    group: str
    edit: str
    prompt: str
    nearest: str
    right: bool
    alternatives: int
    psnr_db: float
    outside_db: float | None
    exact_outside: bool | None
    placed: bool | None
    content: Content | None
    seconds: float


@dataclass(frozen=True)
class Sweep:
    """The same edit with several values of one field.

    changes: mean, of 255. agreement_db: PSNR of the outputs at the first value and at the last.
    """

    group: str
    edit: str
    field: str
    values: tuple[float, ...]
    right: tuple[bool, ...]
    changes: tuple[float, ...]
    agreement_db: float


@dataclass(frozen=True)
class Answer:
    """A case, what came back, and what was measured."""

    case: Case
    output: Tensor
    outcome: Outcome
    sweeps: tuple[Sweep, ...]


def answers(editor: Editor, cases: Sequence[Case], features: FeaturesOf | None) -> list[Answer]:
    """Of one group. features: of a picture (3, H, W), where content is to be compared."""
    return [_answer(editor, case, number, features) for number, case in enumerate(cases)]


def _answer(editor: Editor, case: Case, number: int, features: FeaturesOf | None) -> Answer:
    started = time.perf_counter()
    output = editor.edit(case.request)
    seconds = time.perf_counter() - started
    swept = {field: _swept(editor, case, field) for field in SWEEPS if number < SWEPT_ROWS[field]}
    (judgement, *others) = judged(case, [output, *(o for outputs in swept.values() for o in outputs)])
    outcome = _outcome(case, output, judgement, seconds, _content(case, output, features) if features else None)
    if not outcome.right:
        LOG.info("%s: %r (%s) came out as %s", case.group, case.request.prompt, case.edit, outcome.nearest)
    left = iter(others)
    sweeps = tuple(_sweep(case, field, outputs, [next(left) for _ in outputs]) for field, outputs in swept.items())
    return Answer(case, output, outcome, sweeps)


def _swept(editor: Editor, case: Case, field: str) -> list[Tensor]:
    return [editor.edit(replace(case.request, settings={field: value})) for value in SWEEPS[field]]


def _outcome(case: Case, output: Tensor, judgement: Judgement, seconds: float, content: Content | None) -> Outcome:
    source, kept = case.request.source, _kept(case)
    return Outcome(
        group=case.group,
        edit=case.edit,
        prompt=case.request.prompt,
        nearest=judgement.nearest,
        right=judgement.right,
        alternatives=judgement.alternatives,
        psnr_db=psnr_db(output, case.target, case.region),
        outside_db=None if kept is None else psnr_db(output, source, kept),
        exact_outside=None if case.region is None else _is_exact(output, source, 1 - case.region),
        placed=_is_placed(case, output),
        content=content,
        seconds=seconds,
    )


def _kept(case: Case) -> Tensor | None:
    """Where an edit of a part must change nothing, (1, H, W); None if the edit is of the whole picture."""
    if case.region is not None:
        return 1 - case.region
    is_of_a_part = case.scene is not None or case.placed is not None
    return unchanged(case.request.source, case.target) if is_of_a_part else None


def _is_exact(output: Tensor, source: Tensor, kept: Tensor) -> bool:
    return torch.equal(output * kept, source * kept)


def _is_placed(case: Case, output: Tensor) -> bool | None:
    if case.placed is None:
        return None
    return is_at(case.placed.place, case.request.source, case.target, output, case.left)


def _content(case: Case, output: Tensor, features: FeaturesOf) -> Content:
    source = features(case.request.source)
    others = [p for p in case.photographs if psnr_db(p, case.request.source) < 30]
    return Content(
        output=similarity(source, features(output)),
        target=similarity(source, features(case.target)),
        other=similarity(source, features(others[0])),
    )


def _sweep(case: Case, field: str, outputs: Sequence[Tensor], judgements: Sequence[Judgement]) -> Sweep:
    return Sweep(
        group=case.group,
        edit=case.edit,
        field=field,
        values=tuple(SWEEPS[field]),
        right=tuple(j.right for j in judgements),
        changes=tuple(mean_change(case.request.source, output) for output in outputs),
        agreement_db=psnr_db(outputs[0], outputs[-1], case.region),
    )
