"""What HTTP adds to an edit: the time of a request over the time of the same edit in the engine, in one run.

`python -m benchmarks.http_overhead` starts the server with the embedded model, then takes turns: one request over
HTTP, one call of an engine in this process, with the same picture, size, seed and threads. It prints the ratio of each
pair, and the memory of all the server's processes while it serves (proportional set size, so shared pages count once).
"""

import argparse
import base64
import os
import platform
import statistics
import time
from pathlib import Path

import httpx

from benchmarks.server import serving
from serve.engine.engine import Engine
from serve.engine.load import load_engine
from serve.families import facts_of
from serve.prepare import Origin, prepare, read
from serve.settings import Settings, embedded_model

PROMPT = "make it black and white"
EXAMPLES = Path(__file__).parent.parent / "examples"


def main() -> None:
    arguments = _arguments()
    body = _body(arguments.picture, arguments.size)
    with serving() as server, httpx.Client(base_url=server.url, timeout=120, trust_env=False) as client:
        engine = load_engine(embedded_model(), server.folder / "cache")
        engine.start()
        pairs = _take_turns(client, engine, Settings(), body, arguments.runs)
        engine.drain(5)
        _report(pairs, arguments, server.memory_mib())


def _take_turns(
    client: httpx.Client, engine: Engine, settings: Settings, body: dict[str, object], runs: int
) -> list[tuple[float, float]]:
    """Seconds of (request, engine call), `runs` times after a turn that warms both up."""
    pairs = [(_over_http(client, body, run), _in_process(engine, settings, body, run)) for run in range(runs + 1)]
    return pairs[1:]


def _over_http(client: httpx.Client, body: dict[str, object], seed: int) -> float:
    started = time.perf_counter()
    client.post("/v1/images/edits", json={**body, "seed": seed}).raise_for_status()
    return time.perf_counter() - started


def _in_process(engine: Engine, settings: Settings, body: dict[str, object], seed: int) -> float:
    """The engine call alone: the body is decoded before the clock starts."""
    content = httpx.Request("POST", "http://engine", json={**body, "seed": seed}).content
    facts = {model.id: facts_of(model) for model in settings.models}
    job = prepare(read(content), Origin(f"run-{seed}"), settings, facts).job
    assert job is not None
    started = time.perf_counter()
    engine.submit(job).result()
    return time.perf_counter() - started


def _body(picture: Path, size: str) -> dict[str, object]:
    image = base64.b64encode(picture.read_bytes()).decode()
    return {"images": [image], "prompt": PROMPT, "size": size, "response_format": "b64_json"}


def _report(pairs: list[tuple[float, float]], arguments: argparse.Namespace, memory_mib: float) -> None:
    ratios = [http / engine for http, engine in pairs]
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {len(pairs)} pairs of one")
    print(f"{arguments.size} edit of {arguments.picture.name}, embedded model, its default steps, one at a time")
    print("| | min | median | max |\n|---|---|---|---|")
    for name, values in (
        ("request, s", [a for a, _ in pairs]),
        ("engine, s", [b for _, b in pairs]),
        ("ratio", ratios),
    ):
        print(f"| {name} | {min(values):.3f} | {statistics.median(values):.3f} | {max(values):.3f} |")
    print(f"memory of all the server's processes: {memory_mib:.0f} MiB")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picture", type=Path, default=next(iter(sorted(EXAMPLES.glob("*.png"))), None))
    parser.add_argument("--size", default="512x512")
    parser.add_argument("--runs", type=int, default=10)
    return parser.parse_args()


if __name__ == "__main__":
    main()
