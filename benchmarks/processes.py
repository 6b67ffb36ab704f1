"""What `benchmarks.suite` measures or runs in processes of their own, so that they share neither memory nor threads."""

import json
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

from benchmarks.errors import BenchError
from benchmarks.goals import ACCOUNTED, ACCOUNTED_SPEED
from benchmarks.server import free_port


def say(text: str) -> None:
    """To the person who waits; standard output is for the table."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def plain_server(weights: Path) -> Generator[str]:
    """The URL of diffusers behind FastAPI, for the time of the body. Raises BenchError."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.plain_diffusers", str(weights), "--port", str(port), "--threads", "2"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_for(f"{url}/healthz", process)
        yield url
    finally:
        process.terminate()
        process.wait()


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    give_up_s = time.monotonic() + 120
    while time.monotonic() < give_up_s and process.poll() is None:
        with suppress(httpx.TransportError):
            if httpx.get(url, trust_env=False).is_success:
                return
        time.sleep(0.5)
    raise BenchError(f"nothing answered at {url}")


def measured(figure: str, times: int, *more: str) -> list[float]:
    """So many times, by `benchmarks.engine_figures`. more: options of it."""
    command = [sys.executable, "-m", "benchmarks.engine_figures", figure, "--times", str(times), *more]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    found = [float(line) for line in done.stdout.split()]
    say(f"{figure}: {', '.join(f'{value:.3g}' for value in found)}")
    return found


def faults(report: Path) -> int:
    """What `benchmarks.accounting` found wrong with its requests."""
    options = {"--requests": ACCOUNTED, "--speed": ACCOUNTED_SPEED, "--distinct": 60, "--out": report}
    words = [str(word) for option in options.items() for word in option]
    command = [sys.executable, "-m", "benchmarks.accounting", *words]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    say(done.stdout)
    return len(json.loads(report.read_text(encoding="utf-8"))["faults"])
