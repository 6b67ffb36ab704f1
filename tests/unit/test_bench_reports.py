"""The run's file, tables, comparisons, plots, and the commands that write them."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks import run as run_file
from benchmarks import steplog
from benchmarks.arrivals import Given, Poisson, times_s
from benchmarks.drive import load_of
from benchmarks.errors import BenchError
from benchmarks.report import save, write
from benchmarks.run import Load, Run
from benchmarks.tables import comparison, rows, shown, table
from serve.cli import main
from serve.cli.bench import duration_s
from tests.unit.bench_peer import Peer, Way, serving
from tests.unit.test_bench_figures import MACHINE, record, run_of

WORKLOAD = "name: small\nkinds: [{name: a, size: 16x16, steps: 4, sources: 2}]\n"


def run_at(latency_s: float, rate: float = 1.0, **more: object) -> Run:
    return run_of([record(i, float(i), i + latency_s) for i in range(4)], Load("poisson", rate=rate), **more)


def cells(markdown: str, name: str) -> list[str]:
    """What a table says in the line of that name."""
    line = next(line for line in markdown.splitlines() if line.startswith(f"| {name} |"))
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_a_run_is_read_as_it_was_saved(tmp_path: Path):
    run = run_at(0.5, solo_s={"a": 0.25})
    save(run, tmp_path / "run.json")
    assert run_file.load(tmp_path / "run.json") == run


def test_the_file_holds_the_schema_the_records_and_the_figures(tmp_path: Path):
    save(run_at(0.5), tmp_path / "run.json")
    saved = json.loads((tmp_path / "run.json").read_text())
    assert saved["schema"] == "retouch-bench/1"
    assert len(saved["records"]) == 4
    assert saved["figures"]["latency"]["p50"] == 0.5


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "is no run"), ("{}", "schema None"), ('{"schema": "retouch-bench/1"}', "is no run: label")],
)
def test_a_file_that_is_no_run_is_refused_by_its_name(tmp_path: Path, text: str, message: str):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(BenchError, match=rf"x\.json .*{message}"):
        run_file.load(tmp_path / "x.json")


def test_fields_of_a_later_version_are_passed_over(tmp_path: Path):
    save(run_at(0.5), tmp_path / "run.json")
    saved = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps({**saved, "weather": "fine"}))
    assert run_file.load(tmp_path / "run.json") == run_at(0.5)


def test_a_comparison_is_b_over_a():
    markdown = comparison([run_at(0.5)], [run_at(0.25)])
    assert cells(markdown, "latency p50, s") == ["0.500", "0.250", "0.500"]
    assert cells(markdown, "images/s") == ["1.143", "1.231", "1.077"]


def test_a_comparison_of_several_runs_is_that_of_their_medians_with_the_spread():
    markdown = comparison([run_at(0.5)], [run_at(s) for s in (2.0, 1.0, 4.0)])
    assert cells(markdown, "latency mean, s") == ["0.500", "1 / 2 / 4", "4"]
    assert "B, 3 runs: min / median / max" in markdown


def test_what_one_side_does_not_know_has_no_ratio():
    markdown = comparison([run_at(0.5)], [run_at(0.5, engine=run_file.Engine(steps=10, row_steps=25))])
    assert cells(markdown, "mean rows a step") == ["n/a", "2.500", "n/a"]
    assert cells(markdown, "failed, requests") == ["0", "0", "n/a"]


def test_an_error_that_one_side_did_not_have_came_0_times_there():
    refused = run_of([record(0, 0.0, 1.0), record(1, 0.0, 1.0, "refused", code="server_overloaded")])
    assert cells(comparison([refused], [run_at(0.5)]), "error server_overloaded, requests") == ["1", "0", "0"]


def test_a_table_tells_what_a_run_was_made_with_and_what_speaks_against_it():
    late = replace(run_at(0.5), loop_lag=run_file.Lag(0.2, 0.5, 0.9))
    markdown = table([late])
    assert "Poisson arrivals, 1 requests/s" in markdown
    assert "**NOT GOOD**: the harness's event loop was 500 ms late" in markdown
    assert "a processor, 2 cores, 8 GiB" in markdown


def test_a_simulated_backend_is_told_by_every_table():
    simulated = run_at(0.5, facts={"id": "tiny", "backend": "simulated"})
    assert "**Simulated**" in table([simulated])
    assert "**Simulated**" in comparison([run_at(0.5)], [simulated])
    assert "imulated" not in table([run_at(0.5)])


def test_a_simulated_device_is_told_by_its_table_and_speed():
    facts = {"id": "tiny", "backend": "simulated", "simulated": {"timings": "linear", "speed": 2}}
    assert "(simulated linear x2)" in table([run_at(0.5, facts=facts)])


def test_sides_that_did_the_same_work_are_compared_without_remarks():
    assert comparison([run_at(0.5)], [run_at(0.25)]).startswith("- **A**")


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ({"plan": {"kinds": ["b"]}}, "- the plan: test against {'kinds': ['b']}"),
        ({"seed": 3}, "- the seed: 0 against 3"),
        ({"withheld": ["seed", "strength"]}, "- fields that were not sent: none against seed, strength"),
        ({"rate": 2.0}, "- how requests come: Poisson arrivals, 1 requests/s against Poisson arrivals, 2 requests/s"),
    ],
)
def test_sides_that_did_not_do_the_same_work_are_not_comparable(more: dict[str, Any], line: str):
    markdown = comparison([run_at(0.5)], [run_at(0.5, **more)])
    assert markdown.startswith("**NOT COMPARABLE**")
    assert line in markdown.splitlines()


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ({"solo_s": {"a": 0.5}}, "- solo times, which set the deadlines: {} against {'a': 0.5}"),
        (
            {"machine": replace(MACHINE, cpu="another")},
            "- the harness's processor: a processor, 2 cores against another, 2 cores",
        ),
        (
            {"facts": {"backend": "simulated", "simulated": {"timings": "linear", "speed": 4}}},
            "- the simulated device: none against simulated linear x4",
        ),
    ],
)
def test_sides_with_another_yardstick_are_told(more: dict[str, Any], line: str):
    markdown = comparison([run_at(0.5)], [run_at(0.5, **more)])
    assert markdown.startswith("**The sides differ**")
    assert line in markdown.splitlines()


def test_a_kind_has_lines_of_its_own():
    values = rows(run_of([record(0, 0.0, 1.0), record(1, 0.0, 3.0, kind="b", deadline_s=5.0)]))
    assert (values["[a] latency p50, s"], values["[b] latency p50, s"]) == (1.0, 3.0)
    assert (values["[a] latency p99, s"], values["[a] latency, samples"]) == (None, 1)
    assert (values["[a] within deadline"], values["[b] within deadline"]) == (None, 1.0)


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "n/a"), (3.0, "3"), (0.12345, "0.123"), (12.345, "12.35"), (123.45, "123.5"), (12345.6, "12346")],
)
def test_numbers_are_shown_as_far_as_they_can_be_trusted(value: float | None, text: str):
    assert shown(value) == text


def drawn(path: Path) -> bool:
    """Whether a picture has colours on a white ground."""
    with Image.open(path) as picture:
        colours = picture.convert("RGB").getcolors(2**24) or []
        return picture.convert("RGB").getpixel((0, 0)) == (255, 255, 255) and len(colours) > 50


def test_a_report_draws_latency_and_throughput_over_several_loads(tmp_path: Path):
    runs = [run_at(0.5 * rate, rate) for rate in (1.0, 2.0, 4.0)]
    files = write(runs, tmp_path / "new" / "report")
    assert [path.name for path in files] == ["report.md", "latency-open-loop.png", "throughput-open-loop.png"]
    assert all(drawn(path) for path in files[1:])
    assert "](latency-open-loop.png)" in files[0].read_text()


def test_one_load_is_a_table_without_plots(tmp_path: Path):
    assert [path.name for path in write([run_at(0.5)], tmp_path)] == ["report.md"]


def logged(tmp_path: Path, *lines: object) -> Path:
    path = tmp_path / "steps.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


def step(at: float) -> dict[str, object]:
    told = {"at": at, "seconds": 0.5, "key": "512x512", "rows": 3, "passes": 4, "filler": 1, "waiting": 2}
    return {**told, "decodes": 1, "encodes": 0, "further": True}


def test_a_timeline_shows_the_steps_within_the_runs_time(tmp_path: Path):
    run = run_at(0.5)
    log = logged(tmp_path, *(step(run.started_at + at) for at in (-5.0, 0.5, 0.0, 1.0, 900.0)))
    with log.open("a") as file:
        file.write('{"at": 17')
    assert [s.at - run.started_at for s in steplog.read(log)] == [-5.0, 0.0, 0.5, 1.0, 900.0]
    files = write([run], tmp_path / "out", log)
    assert files[-1].name == "timeline.png"
    assert drawn(files[-1])


def test_a_log_without_a_step_of_the_runs_is_refused(tmp_path: Path):
    with pytest.raises(BenchError, match="no step within the time"):
        write([run_at(0.5)], tmp_path, logged(tmp_path, step(5.0)))


def test_a_line_that_is_no_step_is_told(tmp_path: Path):
    with pytest.raises(BenchError, match=r"steps\.jsonl:1 is no step: seconds"):
        steplog.read(logged(tmp_path, {"at": 1.0, "rows": 1}))


def command(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int | str | None, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["bench", *(str(argument) for argument in arguments)])
    printed = capsys.readouterr()
    return ended.value.code, printed.out, printed.err


@pytest.fixture
def workload(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(WORKLOAD)
    return path


def test_the_commands_measure_compare_and_report(tmp_path: Path, workload: Path, capsys: pytest.CaptureFixture[str]):
    paths = [tmp_path / f"{name}.json" for name in "ab"]
    with serving(Peer()) as peer:
        for path, workers in zip(paths, (1, 2), strict=True):
            options = "--concurrency", workers, "--requests", 8, "--warmup", 1, "--out", path
            code, out, _ = command(capsys, "run", workload, "--url", peer.url, *options)
            assert (code, cells(out, "answered, requests")) == (0, ["8"])
    code, out, _ = command(capsys, "compare", paths[0], f"{paths[0]},{paths[1]}")
    assert (code, cells(out, "sent, requests")) == (0, ["8", "8 / 8 / 8", "1"])
    code, out, _ = command(capsys, "report", f"{tmp_path}/?.json", "--out", tmp_path / "report")
    assert code == 0
    assert out.split() == [
        str(tmp_path / "report" / name)
        for name in ("report.md", "latency-closed-loop.png", "throughput-closed-loop.png")
    ]


def test_deadlines_can_be_those_of_another_run(tmp_path: Path, workload: Path, capsys: pytest.CaptureFixture[str]):
    workload.write_text(WORKLOAD.replace("steps: 4", "steps: 4, slo_scale: 2.0"))
    save(run_at(0.5, solo_s={"a": 7.0}), tmp_path / "other.json")
    with serving(Peer()) as peer:
        options = "--url", peer.url, "--concurrency", 1, "--requests", 3, "--solo-from", tmp_path / "other.json"
        assert command(capsys, "run", workload, *options, "--out", tmp_path / "run.json")[0] == 0
    assert {record.deadline_s for record in run_file.load(tmp_path / "run.json").records} == {14.0}


def test_arrivals_can_come_from_a_file(tmp_path: Path, workload: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "times").write_text("100\n100.01\n100.02\n")
    with serving(Peer()) as peer:
        options = "--url", peer.url, "--trace", tmp_path / "times", "--out", tmp_path / "run.json"
        assert command(capsys, "run", workload, *options)[0] == 0
    run = run_file.load(tmp_path / "run.json")
    assert [record.planned_s for record in run.records] == pytest.approx([0.0, 0.01, 0.02])
    assert run.load.process == "trace"


@pytest.mark.parametrize(
    ("duration", "requests", "expected_s"),
    [(None, None, 900.0), (None, 5, 900.0), (30.0, None, 30.0)],
)
def test_a_trace_is_sent_to_its_end_unless_a_duration_is_given(
    duration: float | None, requests: int | None, expected_s: float
):
    assert duration_s(duration, requests, Given((0.0, 900.0))) == expected_s
    assert duration_s(None, None, Poisson(1.0)) == 60.0


def test_the_rate_of_a_trace_is_that_of_what_was_scheduled():
    """A minute of one a second, then ten a second; only the first half minute is sent."""
    arrivals = Given((*map(float, range(60)), *(60 + number / 10 for number in range(600))))
    schedule = times_s(arrivals, 0, None, 30.0)
    assert load_of(arrivals, schedule).rate == 1.0


@pytest.mark.parametrize(("options", "sent"), [((), "Bearer of-all"), (("--api-key", "own"), "Bearer own")])
def test_the_key_is_that_of_the_other_commands(
    tmp_path: Path,
    workload: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    sent: str,
):
    monkeypatch.setenv("RETOUCH_API_KEY", "of-all")
    bounds = "--concurrency", 1, "--requests", 1, "--out", tmp_path / "run.json"
    with serving(Peer()) as peer:
        assert command(capsys, "run", workload, "--url", peer.url, *bounds, *options)[0] == 0
    assert [asked.headers["Authorization"] for asked in peer.asked] == [sent]


def test_a_run_that_nobody_answers_ends_with_1_and_is_written(
    tmp_path: Path, workload: Path, capsys: pytest.CaptureFixture[str]
):
    with serving(Peer(lambda _: Way(429, "server_overloaded"))) as peer:
        options = "--url", peer.url, "--rate", 100, "--requests", 2, "--out", tmp_path / "run.json"
        code, out, err = command(capsys, "run", workload, *options)
    assert code == 1
    assert "not a good run: no request was answered" in err
    assert cells(out, "error server_overloaded, requests") == ["2"]
    assert len(run_file.load(tmp_path / "run.json").records) == 2


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["run", "mixed"], 2, "give one of --rate, --concurrency and --trace"),
        (["run", "mixed", "--rate", "1", "--concurrency", "2"], 2, "give one of"),
        (["run", "mixt", "--rate", "1"], 2, "neither a file nor one of"),
        (["run", "mixed", "--rate", "1", "--extra-fields", "seed"], 2, "belongs to --multipart"),
        (["run", "mixed", "--rate", "1", "--out", "/nowhere/run.json"], 2, "the folder of --out"),
        (["run", "mixed", "--rate", "1", "--url", "http://127.0.0.1:1"], 3, "no server answers"),
        (["compare", "none.json", "none*.json"], 2, "no run is at none.json"),
    ],
)
def test_wrong_usage_is_one_sentence(capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str):
    ended, _, err = command(capsys, *arguments)
    assert ended == code
    assert message in " ".join(err.split())


def test_the_other_commands_do_not_load_what_measures():
    script = "import sys, serve.cli; print([m for m in sys.modules if m.split('.')[0] in ('benchmarks', 'matplotlib')])"
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"
