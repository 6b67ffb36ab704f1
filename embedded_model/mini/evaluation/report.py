"""The figures of an evaluation, from single outcomes to the table of the model card."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, median

from embedded_model.mini.edits import IDENTITY
from embedded_model.mini.evaluation.evaluate import Content, Outcome, Sweep

SHOWN_MISTAKES = 3
PARTS = ("objects", "two_images")
"""Groups whose edits are named by a verb and an object."""


@dataclass(frozen=True)
class Run:
    """What was evaluated."""

    model: str
    seed: int
    side_px: int
    photographs: int


@dataclass(frozen=True)
class Figures:
    """Of outcomes of one kind. Shares are of 1; chance: of a guess among target and alternatives."""

    rows: int
    right: float
    chance: float
    alternatives: tuple[int, int]
    psnr_db: float
    outside_db: float | None
    exact_outside: float | None
    mistaken_for: dict[str, int]


@dataclass(frozen=True)
class Setting:
    """One value of a swept field: the share of right edits, and the mean change, of 255."""

    value: float
    right: float
    change: float


@dataclass(frozen=True)
class Report:
    """right: mean of the groups. Figures in dB are mean and least; agreement_db is of 8 and 28 steps.

    placed: share, and of how many. rising: share of the edits that change more with each strength. seconds: median,
    least and most.
    """

    run: Run
    groups: dict[str, Figures]
    kinds: dict[str, dict[str, Figures]]
    right: float
    identity_db: tuple[float, float] | None
    placed: tuple[float, int] | None
    content: Content | None
    agreement_db: tuple[float, float] | None
    guidance: list[Setting]
    strength: list[Setting]
    rising: float | None
    round_trip_db: tuple[float, float] | None
    seconds: tuple[float, float, float]
    outcomes: list[Outcome]
    sweeps: list[Sweep]


def report_of(
    run: Run, outcomes: Sequence[Outcome], sweeps: Sequence[Sweep], round_trip_db: Sequence[float] | None
) -> Report:
    """round_trip_db: of each photograph through the autoencoder, where that was measured."""
    names = list(dict.fromkeys(o.group for o in outcomes))
    of_group = {name: [o for o in outcomes if o.group == name] for name in names}
    groups = {name: _figures(rows) for name, rows in of_group.items()}
    placed = [o.placed for o in outcomes if o.placed is not None]
    seconds = [o.seconds for o in outcomes]
    return Report(
        run=run,
        groups=groups,
        kinds={name: _figures_of_kinds(rows) for name, rows in of_group.items()},
        right=mean(figures.right for figures in groups.values()),
        identity_db=_mean_and_least([o.psnr_db for o in of_group.get(IDENTITY, [])]),
        placed=(mean(placed), len(placed)) if placed else None,
        content=_content([o.content for o in outcomes if o.content is not None]),
        agreement_db=_mean_and_least([s.agreement_db for s in sweeps if s.field == "num_inference_steps"]),
        guidance=_settings([s for s in sweeps if s.field == "guidance_scale"]),
        strength=_settings(changing := [s for s in sweeps if s.field == "strength" and s.group != IDENTITY]),
        rising=mean(_is_rising(s) for s in changing) if changing else None,
        round_trip_db=_mean_and_least(round_trip_db or []),
        seconds=(median(seconds), min(seconds), max(seconds)),
        outcomes=list(outcomes),
        sweeps=list(sweeps),
    )


def as_markdown(report: Report) -> str:
    """The part of the model card that holds figures."""
    run = report.run
    return "\n".join(
        [
            f"Model `{run.model}`, {run.side_px}x{run.side_px} px, {run.photographs} held-out photographs, "
            f"seed {run.seed}; {len(report.outcomes)} edits.",
            "",
            *_table(
                ("goal", "wanted", "measured"),
                _goals(report),
            ),
            "",
            *_table(
                ("group", "edits", "right", "by chance", "PSNR, dB", "outside, dB", "exact outside", "mistaken for"),
                [(name.replace("_", " "), *_cells(figures)) for name, figures in report.groups.items()],
            ),
            "",
            *_details(report),
            "",
        ]
    )


def _figures(rows: Sequence[Outcome]) -> Figures:
    outside = [o.outside_db for o in rows if o.outside_db is not None]
    exact = [o.exact_outside for o in rows if o.exact_outside is not None]
    alternatives = [o.alternatives for o in rows]
    return Figures(
        rows=len(rows),
        right=mean(o.right for o in rows),
        chance=mean(1 / (1 + count) for count in alternatives),
        alternatives=(min(alternatives), max(alternatives)),
        psnr_db=mean(o.psnr_db for o in rows),
        outside_db=mean(outside) if outside else None,
        exact_outside=mean(exact) if exact else None,
        mistaken_for=dict(Counter(_kind(o.group, o.nearest) for o in rows if not o.right).most_common()),
    )


def _figures_of_kinds(rows: Sequence[Outcome]) -> dict[str, Figures]:
    kinds = sorted({_kind(o.group, o.edit) for o in rows})
    return {kind: _figures([o for o in rows if _kind(o.group, o.edit) == kind]) for kind in kinds}


def _kind(group: str, edit: str) -> str:
    return edit.split(maxsplit=1)[0] if group in PARTS else edit


def _content(rows: Sequence[Content]) -> Content | None:
    if not rows:
        return None
    return Content(mean(c.output for c in rows), mean(c.target for c in rows), mean(c.other for c in rows))


def _settings(sweeps: Sequence[Sweep]) -> list[Setting]:
    values = sweeps[0].values if sweeps else ()
    return [
        Setting(value, mean(s.right[i] for s in sweeps), mean(s.changes[i] for s in sweeps))
        for i, value in enumerate(values)
    ]


def _is_rising(sweep: Sweep) -> bool:
    return all(a < b for a, b in zip(sweep.changes[:-1], sweep.changes[1:], strict=True))


def _mean_and_least(values: Sequence[float]) -> tuple[float, float] | None:
    return (mean(values), min(values)) if values else None


def _goals(report: Report) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    if "tones" in report.groups:
        rows.append(("right edit, tones and colours", "90 %", _percent(report.groups["tones"].right)))
    rows.append(("right edit, mean of the groups", "75 %", _percent(report.right)))
    rows.append(("identity, PSNR", "30 dB", _mean_and_least_text(report.identity_db)))
    rows.append(("autoencoder round trip, PSNR", "31 dB", _mean_and_least_text(report.round_trip_db)))
    rows.append(("8 steps beside 28, PSNR", "30 dB", _mean_and_least_text(report.agreement_db)))
    return rows


def _cells(figures: Figures) -> tuple[str, ...]:
    mistakes = [f"{name} ({count})" for name, count in list(figures.mistaken_for.items())[:SHOWN_MISTAKES]]
    return (
        str(figures.rows),
        _percent(figures.right),
        _percent(figures.chance),
        f"{figures.psnr_db:.1f}",
        "" if figures.outside_db is None else f"{figures.outside_db:.1f}",
        "" if figures.exact_outside is None else _percent(figures.exact_outside),
        ", ".join(mistakes),
    )


def _details(report: Report) -> list[str]:
    lines: list[str] = []
    if report.placed:
        share, count = report.placed
        lines.append(f"- Named places obeyed: {_percent(share)} of {count} objects that were added, moved or inserted.")
    if report.content:
        c = report.content
        lines.append(
            f"- Content in styles (cosine of EfficientNet-Lite0's features to the source's): output {c.output:.2f}, "
            f"target {c.target:.2f}, another photograph {c.other:.2f}."
        )
    if report.guidance:
        lines.append(f"- Guidance: {_settings_text(report.guidance)}.")
    if report.strength:
        rising = f"; rising in {_percent(report.rising)} of the edits" if report.rising is not None else ""
        lines.append(f"- Strength: {_settings_text(report.strength)}{rising}.")
    typical, least, most = report.seconds
    lines.append(f"- One edit over HTTP: {typical:.2f} s in the median ({least:.2f} to {most:.2f}).")
    return lines


def _settings_text(settings: Sequence[Setting]) -> str:
    told = [f"at {s.value:g} {_percent(s.right)} right, mean change {s.change:.1f} of 255" for s in settings]
    return "; ".join(told)


def _mean_and_least_text(values: tuple[float, float] | None) -> str:
    return "not measured" if values is None else f"{values[0]:.1f} dB, at least {values[1]:.1f}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]
