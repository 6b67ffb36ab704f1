"""The command: findings as lines for people, or as JSON for machines."""

import json
import logging
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from serve.cli.console import Exit, Failure
from serve.cli.doctor.findings import Finding, Verdict

COLOURS = {Verdict.OK: typer.colors.GREEN, Verdict.WARNING: typer.colors.YELLOW, Verdict.WRONG: typer.colors.RED}


def doctor(
    config: Annotated[Path | None, typer.Option(show_default="the model that comes along", help="A YAML file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")] = False,
) -> None:
    """Check what a server needs, before it starts or beside it; starts and changes nothing."""
    from serve.cli.doctor.examine import examine  # noqa: PLC0415  # For the commands that do without.

    logging.getLogger("serve").addHandler(logging.NullHandler())  # what they would log is in the findings
    findings: list[Finding] = []
    for finding in examine(config):
        findings.append(finding)
        if not as_json:
            typer.echo(line(finding))
    if as_json:
        typer.echo(json.dumps({"verdict": worst(findings), "findings": [asdict(one) for one in findings]}, indent=2))
    count = sum(one.verdict is Verdict.WRONG for one in findings)
    if count:
        raise Failure(f"{count} of {len(findings)} findings {'is' if count == 1 else 'are'} wrong", Exit.REFUSED)


def line(finding: Finding) -> str:
    verdict = typer.style(f"{finding.verdict:<8}", fg=COLOURS[finding.verdict])
    advice = f"; {finding.advice}" if finding.advice else ""
    return f"{verdict} {finding.check}: {finding.found}{advice}"


def worst(findings: Iterable[Finding]) -> Verdict:
    order = list(Verdict)
    return max((one.verdict for one in findings), key=order.index, default=Verdict.OK)
