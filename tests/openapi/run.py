"""Runs Schemathesis against a server, and reads what it did."""

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONFIG = Path(__file__).parent / "schemathesis.toml"
ROOT = CONFIG.parent.parent.parent
TIMEOUT_S = 300


@dataclass(frozen=True, slots=True)
class Case:
    """What one request was, and how it was answered. mode: `positive` is valid by the document."""

    phase: str
    operation: str
    mode: str
    sent: str
    status: int
    answered: str


@dataclass(frozen=True, slots=True)
class Run:
    """cases: how many of each. checks: how often each check was made. output: as the terminal shows it."""

    exit_code: int
    output: str
    cases: Counter[Case]
    checks: Counter[str]

    def count(self, **facts: object) -> int:
        """Cases of which all of these facts are true."""
        return sum(
            count for case, count in self.cases.items() if all(getattr(case, name) == facts[name] for name in facts)
        )


def schemathesis(url: str, folder: Path, *options: str, key: str = "") -> Run:
    """A run over the document that the server at `url` tells of itself. folder: for its report. key: to come in."""
    report, config = folder / "events.ndjson", folder / "schemathesis.toml"
    config.write_text(CONFIG.read_text() + (f'\n[auth.openapi.key]\nbearer = "{key}"\n' if key else ""))
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run", f"{url}/openapi.json"]
    command += ["--no-color", "--report-ndjson-path", str(report), *options]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    ended = subprocess.run(
        command, check=False, capture_output=True, cwd=folder, env=environment, timeout=TIMEOUT_S, errors="replace"
    )
    cases, checks = _read(report) if report.exists() else (Counter[Case](), Counter[str]())
    return Run(ended.returncode, ended.stdout + ended.stderr, cases, checks)


def _read(report: Path) -> tuple[Counter[Case], Counter[str]]:
    cases, checks = Counter[Case](), Counter[str]()
    with report.open(encoding="utf-8") as lines:
        for line in lines:
            scenario = json.loads(line).get("ScenarioFinished")
            if scenario is None:
                continue
            recorder = scenario["recorder"]
            for identifier, interaction in recorder.get("interactions", {}).items():
                if interaction.get("response") and identifier in recorder["cases"]:
                    case = recorder["cases"][identifier]["value"]
                    cases[_case(scenario["phase"], case, interaction["response"])] += 1
            checks.update(check["name"] for made in recorder.get("checks", {}).values() for check in made)
    return cases, checks


def _case(phase: str, case: dict[str, Any], response: dict[str, Any]) -> Case:
    (answered,) = response["headers"].get("content-type", [""])
    return Case(
        phase=phase,
        operation=f"{case['method']} {case['path']}",
        mode=case.get("meta", {}).get("generation", {}).get("mode", ""),
        sent=case.get("media_type", ""),
        status=response["status_code"],
        answered=answered.partition(";")[0],
    )
