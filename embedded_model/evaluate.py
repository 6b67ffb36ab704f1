"""Is the output nearest to the right target? On photographs and sentences that training never saw.

An edit is *right* when, of all the edits' targets for that photograph, the right one is nearest to the output (mean
squared error). An instruction the model was not taught should return the source.
"""

import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from embedded_model.editors import Editor
from embedded_model.edits import EDITS, IDENTITY, Picture, apply
from embedded_model.grid import contact_sheet
from embedded_model.phrases import HELD_OUT_UNKNOWN
from embedded_model.wordings import held_out_prompts

LOG = logging.getLogger(__name__)
UNKNOWN = "unknown"
EMPTY = "empty"
STRENGTHS = (0.3, 0.6, 1.0)
STRENGTH_EDITS = ("black_and_white", "invert", "darker", "warmer", "tint_blue", "blur")
STRENGTH_PHOTOGRAPHS = 3
SHEET_PHOTOGRAPHS = 4
SHEET_CELL_PX = 128
MAX_PSNR_DB = 100.0


@dataclass(frozen=True)
class Case:
    """One edit of one photograph; `edit` is a key of EDITS, "unknown" or "empty"."""

    edit: str
    photograph: str
    prompt: str
    seed: int

    @property
    def expected(self) -> str:
        return IDENTITY if self.edit in (UNKNOWN, EMPTY) else self.edit


@dataclass(frozen=True)
class Outcome:
    """`nearest`: the edit whose target is nearest to the output; `psnr_db`: of the output to the right target."""

    case: Case
    nearest: str
    psnr_db: float
    seconds: float

    @property
    def right(self) -> bool:
        return self.nearest == self.case.expected


@dataclass(frozen=True)
class StrengthRow:
    """Mean absolute change of the pixels (0 to 255) at each of STRENGTHS."""

    edit: str
    photograph: str
    changes: tuple[float, ...]

    @property
    def rising(self) -> bool:
        return all(a < b for a, b in zip(self.changes[:-1], self.changes[1:], strict=True))


def evaluate(editor: Editor, photographs: Mapping[str, Image.Image], wordings: int, out: Path) -> None:
    """Prints the tables and writes `report.json` and `sheet.png`; `wordings`: sentences a photograph and edit."""
    outputs: dict[tuple[str, str], Image.Image] = {}
    outcomes: list[Outcome] = []
    planned = [c for c in cases(list(photographs), wordings) if c.prompt or editor.takes_empty_prompt]
    for name, photograph in photographs.items():
        targets = all_targets(photograph)
        for case in (c for c in planned if c.photograph == name):
            outcome, output = _run(editor, case, photograph, targets)
            outcomes.append(outcome)
            outputs.setdefault((case.edit, name), output)
    strengths = strength_rows(editor, photographs)
    report = summarise(outcomes, strengths)
    print(as_table(report))
    out.mkdir(parents=True, exist_ok=True)
    details = {
        "summary": report,
        "outcomes": [asdict(o) for o in outcomes],
        "strengths": [asdict(s) for s in strengths],
    }
    (out / "report.json").write_text(json.dumps(details, indent=1) + "\n")
    _sheet(photographs, outputs).save(out / "sheet.png")


def cases(photographs: Sequence[str], wordings: int) -> list[Case]:
    """Every edit on every photograph; each photograph meets other sentences, so many of them are tried."""
    prompts = {edit: held_out_prompts(edit) for edit in EDITS} | {UNKNOWN: HELD_OUT_UNKNOWN, EMPTY: ("",)}
    return [
        Case(edit, photograph, sentences[(i * wordings + k) % len(sentences)], seed=i * wordings + k)
        for edit, sentences in prompts.items()
        for i, photograph in enumerate(photographs)
        for k in range(1 if edit == EMPTY else wordings)
    ]


def strength_rows(editor: Editor, photographs: Mapping[str, Image.Image]) -> list[StrengthRow]:
    rows: list[StrengthRow] = []
    for name, picture in list(photographs.items())[:STRENGTH_PHOTOGRAPHS]:
        source = _as_floats(picture)
        for edit in STRENGTH_EDITS:
            prompt = held_out_prompts(edit)[0]
            outputs = [_as_floats(editor.edit(picture, prompt, 0, strength)) for strength in STRENGTHS]
            rows.append(StrengthRow(edit, name, tuple(float(np.abs(o - source).mean() * 255) for o in outputs)))
    return rows


def summarise(outcomes: Sequence[Outcome], strengths: Sequence[StrengthRow]) -> dict[str, Any]:
    """The figures of the model card."""
    by_edit = {edit: [o for o in outcomes if o.case.edit == edit] for edit in (*EDITS, UNKNOWN, EMPTY)}
    taught = [o for o in outcomes if o.case.edit in EDITS]
    seconds = sorted(o.seconds for o in outcomes)
    return {
        "right_percent": _percent_right(taught),
        "identity_psnr_db": float(np.mean([o.psnr_db for o in by_edit[IDENTITY]])),
        "identity_psnr_min_db": min(o.psnr_db for o in by_edit[IDENTITY]),
        "seconds_median": seconds[len(seconds) // 2],
        "seconds_min": seconds[0],
        "seconds_max": seconds[-1],
        "strength_rising_percent": 100 * float(np.mean([s.rising for s in strengths])),
        "strength_mean_changes": [float(m) for m in np.mean([s.changes for s in strengths], axis=0)],
        "edits": {
            edit: {
                "cases": len(rows),
                "right_percent": _percent_right(rows),
                "psnr_db": float(np.mean([o.psnr_db for o in rows])),
                "mistaken_for": sorted({o.nearest for o in rows if not o.right}),
            }
            for edit, rows in by_edit.items()
            if rows
        },
    }


def as_table(report: Mapping[str, Any]) -> str:
    edits = report["edits"]
    lines = [f"{'edit':<18}{'cases':>6}{'right %':>9}{'PSNR dB':>9}  mistaken for"]
    for edit, row in edits.items():
        mistaken = ", ".join(row["mistaken_for"])
        lines.append(f"{edit:<18}{row['cases']:>6}{row['right_percent']:>9.1f}{row['psnr_db']:>9.2f}  {mistaken}")
    changes = ", ".join(f"{s}: {c:.1f}" for s, c in zip(STRENGTHS, report["strength_mean_changes"], strict=True))
    lines += [
        f"right over the taught edits: {report['right_percent']:.1f} %",
        f"identity PSNR: {report['identity_psnr_db']:.2f} dB, lowest {report['identity_psnr_min_db']:.2f} dB",
        f"strength, mean change of 255: {changes}; rising in {report['strength_rising_percent']:.0f} % of the rows",
        f"seconds an edit: median {report['seconds_median']:.2f}, "
        f"{report['seconds_min']:.2f} to {report['seconds_max']:.2f}",
    ]
    return "\n".join(lines)


def psnr_db(a: Picture, b: Picture) -> float:
    """Peak signal to noise ratio of pictures in [0, 1], at most MAX_PSNR_DB."""
    error = float(np.mean((a - b) ** 2))
    return MAX_PSNR_DB if error == 0 else min(MAX_PSNR_DB, -10 * math.log10(error))


def all_targets(photograph: Image.Image) -> dict[str, Picture]:
    source = _as_floats(photograph)
    return {edit: apply(source, [edit]) for edit in EDITS}


def nearest_edit(output: Image.Image, targets: Mapping[str, Picture]) -> str:
    errors = {edit: float(np.mean((_as_floats(output) - target) ** 2)) for edit, target in targets.items()}
    return min(errors, key=errors.__getitem__)


def _run(
    editor: Editor, case: Case, photograph: Image.Image, targets: Mapping[str, Picture]
) -> tuple[Outcome, Image.Image]:
    started = time.perf_counter()
    picture = editor.edit(photograph, case.prompt, case.seed)
    seconds = time.perf_counter() - started
    psnr = psnr_db(_as_floats(picture), targets[case.expected])
    outcome = Outcome(case, nearest_edit(picture, targets), psnr, seconds)
    if not outcome.right:
        LOG.info("%s on %s: %r came out as %s", case.edit, case.photograph, case.prompt, outcome.nearest)
    return outcome, picture


def _sheet(photographs: Mapping[str, Image.Image], outputs: Mapping[tuple[str, str], Image.Image]) -> Image.Image:
    """One row an edit; for each photograph the target, then the output."""
    shown = list(photographs)[:SHEET_PHOTOGRAPHS]
    edits = [edit for edit in (*EDITS, UNKNOWN, EMPTY) if (edit, shown[0]) in outputs]
    rows = [[p for name in shown for p in (_target(photographs[name], edit), outputs[edit, name])] for edit in edits]
    columns = [label for name in shown for label in (f"{name}: target", "output")]
    return contact_sheet(rows, edits, columns, SHEET_CELL_PX)


def _target(photograph: Image.Image, edit: str) -> Image.Image:
    target = apply(_as_floats(photograph), [edit] if edit in EDITS else [])
    return Image.fromarray((target * 255).round().astype(np.uint8))


def _percent_right(outcomes: Sequence[Outcome]) -> float:
    return 100 * float(np.mean([o.right for o in outcomes]))


def _as_floats(picture: Image.Image) -> Picture:
    return np.asarray(picture.convert("RGB"), np.float32) / np.float32(255)
