"""`retouch bench`: measure a server over HTTP, compare two measurements, and draw a report of several.

What measures is the package `benchmarks`; it is loaded once a command runs, so that the others stay quick to start.
"""

import asyncio
import resource
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from serve.cli.console import EXIT_CODES, Exit, Failure, say, working
from serve.cli.remote import KeyOption, UrlOption

if TYPE_CHECKING:
    from benchmarks.arrivals import Arrivals
    from benchmarks.plan import Plan
    from benchmarks.run import Run

bench = typer.Typer(help="Measure a server that speaks POST /v1/images/edits.", no_args_is_help=True)


@bench.command(epilog=EXIT_CODES)
def run(
    workload: Annotated[
        str,
        typer.Argument(
            help="mixed, uniform, short-among-long, production or seed-sweep; or a YAML file like them; or a trace of "
            "Request(...) lines, whose requests are sent in its order."
        ),
    ],
    url: UrlOption = "http://127.0.0.1:8000",
    model: Annotated[str, typer.Option(show_default="the server's only one", help="An id that the server has.")] = "",
    rate: Annotated[float | None, typer.Option(min=1e-6, help="Open loop: Poisson arrivals, so many a second.")] = None,
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="Closed loop: so many workers, each with one request at a time.")
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option(
            help="Open loop: arrivals at the times in a file, the first at 0: seconds a line, or timestamps of a trace."
        ),
    ] = None,
    requests: Annotated[
        int | None, typer.Option(min=1, show_default="as many as fit --duration", help="Stop after so many.")
    ] = None,
    duration: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            show_default="60, or 600 with --requests, or to the end of --trace",
            help="Stop sending after so many seconds.",
        ),
    ] = None,
    grace: Annotated[
        float, typer.Option(min=0, help="Seconds for what is under way then; what still hangs counts as unfinished.")
    ] = 60.0,
    warmup: Annotated[int, typer.Option(min=0, help="Requests before the clock starts, left out of figures.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Of arrivals, mix, pictures and the requests' own seeds.")] = 0,
    solo_from: Annotated[
        Path | None,
        typer.Option(
            show_default="measured first",
            help="A run's JSON file, whose solo times set the deadlines here too: runs to be compared need the same.",
        ),
    ] = None,
    pictures: Annotated[
        Path | None, typer.Option(show_default="made ones", help="A folder of pictures to send, fitted in size.")
    ] = None,
    multipart: Annotated[
        bool, typer.Option("--multipart", help="Send OpenAI's multipart form, for servers without the JSON one.")
    ] = False,
    extra_fields: Annotated[
        str,
        typer.Option(
            help="With --multipart: the fields beyond OpenAI's own that the server knows, such as "
            "num_inference_steps,seed, or all. The others are not sent, and the report says so."
        ),
    ] = "",
    api_key: KeyOption = "",
    label: Annotated[str, typer.Option(show_default="model and workload", help="Groups runs in plots.")] = "",
    out: Annotated[
        Path | None, typer.Option(show_default="WORKLOAD-TIME.json", help="Where the run's JSON file goes.")
    ] = None,
) -> None:
    """Send a workload to the server at --url, write what came of each request, and print the figures.

    One of --rate, --concurrency and --trace says when requests are sent.

    Of a trace's fields are read: prompt (or text), width, height, num_inference_steps, seed, timestamp, slo_ms,
    image_path or image_paths, strength, guidance_scale and n. Others are named and left out.

    Ends with 1 where the figures are not to be trusted: the harness was late, or nothing was answered.
    """
    if extra_fields and not multipart:
        raise Failure("--extra-fields belongs to --multipart; the JSON form sends every field", Exit.USAGE)
    with bench_failures():
        from benchmarks.bodies import Shape  # noqa: PLC0415
        from benchmarks.drive import Bounds, Server, drive  # noqa: PLC0415
        from benchmarks.figures import figures  # noqa: PLC0415
        from benchmarks.report import save  # noqa: PLC0415
        from benchmarks.tables import table  # noqa: PLC0415

        plan = _plan(workload, seed, pictures)
        arrivals = _arrivals(rate, concurrency, trace)
        target = out or Path(f"{Path(plan.name).stem}-{time.strftime('%Y%m%d-%H%M%S')}.json")
        _check_folder(target)
        shape = Shape("multipart" if multipart else "json", model, _names(extra_fields))
        solo_s = _runs([str(solo_from)])[0].solo_s if solo_from else None
        bounds = Bounds(requests, duration_s(duration, requests, arrivals), grace, warmup)
        with working(f"Measuring {url} with {plan.name}"):
            _allow_many_connections()
            measured = asyncio.run(drive(Server(url, shape, api_key), plan, arrivals, bounds, label, solo_s=solo_s))
        save(measured, target)
        typer.echo(table([measured]))
        say(f"written to {target}")
        problems = figures(measured).problems
    if problems:
        raise Failure(f"not a good run: {'; '.join(problems)}", Exit.REFUSED)


@bench.command(epilog=EXIT_CODES)
def compare(
    a: Annotated[str, typer.Argument(help="A run's JSON file; or several, as a glob or with commas between.")],
    b: Annotated[str, typer.Argument(help="The same for the other side.")],
) -> None:
    """Print the ratio B/A of every figure as a Markdown table; with several runs a side, of their medians.

    What the sides differ in beside their results comes first: NOT COMPARABLE where they did not send the same work.
    """
    with bench_failures():
        from benchmarks.tables import comparison  # noqa: PLC0415

        typer.echo(comparison(_runs([a]), _runs([b])))


@bench.command(epilog=EXIT_CODES)
def report(
    runs: Annotated[list[str], typer.Argument(metavar="RUN.json...", help="Runs' JSON files, or globs.")],
    out: Annotated[Path, typer.Option(help="The folder, made where it is not there.")],
    step_log: Annotated[
        Path | None, typer.Option(help="What a server with `step_log` set wrote during the runs: draws a timeline.")
    ] = None,
) -> None:
    """Write a Markdown table of runs and their plots.

    Latency and throughput over load need at least two runs of one label and different --rate or --concurrency.
    """
    with bench_failures():
        from benchmarks.report import write  # noqa: PLC0415

        for path in write(_runs(runs), out, step_log):
            typer.echo(str(path))


@contextmanager
def bench_failures() -> Generator[None]:
    """The harness's errors, as the command's."""
    from benchmarks.errors import BenchError, NoAnswer, NoServer  # noqa: PLC0415

    try:
        yield
    except NoServer as error:
        raise Failure(str(error), Exit.ADDRESS) from None
    except NoAnswer as error:
        raise Failure(str(error), Exit.REFUSED) from None
    except BenchError as error:
        raise Failure(str(error), Exit.USAGE) from None


def _plan(workload: str, seed: int, folder: Path | None) -> "Plan":
    from benchmarks.pictures import Pictures  # noqa: PLC0415
    from benchmarks.plan import MixedPlan  # noqa: PLC0415
    from benchmarks.trace import ignored, is_trace, read_plan  # noqa: PLC0415
    from benchmarks.workload import load, shipped  # noqa: PLC0415

    pictures = Pictures.of_folder(folder) if folder else Pictures(seed)
    path = Path(workload)
    if workload in shipped() or not is_trace(path):
        return MixedPlan(load(workload), seed, pictures)
    if left := ignored(path):
        say(f"of the trace's fields these are not read: {', '.join(left)}")
    return read_plan(path, seed, pictures)


def _arrivals(rate: float | None, concurrency: int | None, trace: Path | None) -> "Arrivals":
    from benchmarks.arrivals import Closed, Given, Poisson  # noqa: PLC0415
    from benchmarks.trace import read_times  # noqa: PLC0415

    given = [value for value in (rate, concurrency, trace) if value is not None]
    if len(given) != 1:
        raise Failure("give one of --rate, --concurrency and --trace", Exit.USAGE)
    if rate is not None:
        return Poisson(rate)
    return Closed(concurrency) if concurrency else Given(read_times(trace or Path()), str(trace))


def duration_s(duration: float | None, requests: int | None, arrivals: "Arrivals") -> float:
    """Arrivals at times of their own end with the last of them, unless they are to end before."""
    from benchmarks.arrivals import Given  # noqa: PLC0415

    if duration is not None:
        return duration
    if isinstance(arrivals, Given):
        return arrivals.times_s[-1]
    return 60.0 if requests is None else 600.0


def _names(text: str) -> frozenset[str]:
    return frozenset(name.strip() for name in text.split(",") if name.strip())


def _allow_many_connections() -> None:
    """As many as the system lets: a limit of this process must not look like a failure of the server."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _check_folder(target: Path) -> None:
    """What would fail only after the measurement fails before it."""
    if not target.parent.is_dir():
        raise Failure(f"the folder of --out {target} is not there", Exit.USAGE)


def _runs(named: Sequence[str]) -> "list[Run]":
    """Every file of the globs and comma lists, in their order. Raises Failure where a glob names none."""
    from benchmarks.run import load  # noqa: PLC0415

    paths: list[Path] = []
    for pattern in (part.strip() for text in named for part in text.split(",")):
        found = [pattern] if Path(pattern).is_file() else sorted(glob(pattern))
        if not found:
            raise Failure(f"no run is at {pattern}", Exit.USAGE)
        paths += map(Path, found)
    return [load(path) for path in paths]
