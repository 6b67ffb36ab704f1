"""A supervised server in a process of its own, with real processes below it, ended by real signals."""

import os
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import IO, cast

import psutil
import pytest

SERVER = """
import os, signal, subprocess, sys, threading
from serve.cli.console import Exit, Failure
from serve.cli.supervise import supervise

CHILD = '''
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(os.getpid(), flush=True)
time.sleep(600)
'''
ORPHAN = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {CHILD!r}], start_new_session=True)"

def begin(code):
    "Begins a process that outlives a SIGTERM, and prints its id once it is up."
    begun = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    print(begun.stdout.readline(), end="", flush=True)

TOLD = os.dup(1)
"The standard output as it is now: the server leaves the terminal before it stops."

def come_to(moment):
    os.write(TOLD, (moment + "\\n").encode())
    if moment + " hangs" in sys.argv: threading.Event().wait(600)
    if moment + " aborts" in sys.argv: os.abort()
    if moment + " divides by zero" in sys.argv: 1 / 0
    if moment + " fails" in sys.argv: raise Failure("no weights", Exit.ADDRESS)

def start():
    begin(CHILD)
    begin(ORPHAN)
    come_to("start")

def ready():
    print("ready", os.getpid(), flush=True)

try: supervise(start, lambda: come_to("stop"), ready, "Starting", patience_s=0.2)
except Failure as failure: sys.exit(f"{failure.code}: {failure}")
"""


@contextmanager
def server(*behaviour: str) -> Generator[tuple[subprocess.Popen[str], IO[str], list[int]]]:
    """The supervisor, what it prints after `start`, and the ids of a process below the server and of an orphan."""
    command = [sys.executable, "-c", SERVER, *behaviour]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        printed = cast(IO[str], process.stdout)
        begun = [int(printed.readline()), int(printed.readline())]
        try:
            assert printed.readline() == "start\n"
            yield process, printed, begun
        finally:
            process.kill()
            for pid in alive(begun):
                os.kill(pid, signal.SIGKILL)


def alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if psutil.pid_exists(pid)]


def errors(process: subprocess.Popen[str]) -> str:
    return cast(IO[str], process.stderr).read()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_the_server_and_every_process_below_it(number: signal.Signals):
    with server() as (process, printed, begun):
        assert printed.readline() == f"ready {process.pid}\n"
        assert alive(begun) == begun
        process.send_signal(number)
        assert process.wait(60) == 0
        assert printed.read() == "stop\n"
        assert alive(begun) == []


def test_a_second_signal_ends_a_stop_that_hangs_with_every_process():
    with server("stop hangs") as (process, printed, begun):
        printed.readline()
        process.send_signal(signal.SIGINT)
        assert printed.readline() == "stop\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert alive(begun) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_server_starts_ends_it_with_every_process(number: signal.Signals):
    with server("start hangs") as (process, printed, begun):
        process.send_signal(number)
        assert process.wait(60) == 130
        assert printed.read() == ""
        assert alive(begun) == []


def test_a_start_that_fails_is_cleared_away_and_told_with_its_exit_code():
    with server("start fails") as (process, printed, begun):
        assert process.wait(60) == 1
        assert printed.read() == "stop\n"
        assert errors(process) == "Starting\n3: no weights\n"
        assert alive(begun) == []


def test_a_stop_that_fails_leaves_no_process_either():
    with server("stop fails") as (process, printed, begun):
        printed.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 1
        assert "3: no weights\n" in errors(process)
        assert alive(begun) == []


def test_an_error_that_nobody_foresaw_is_told_with_its_traceback():
    with server("start divides by zero") as (process, _, begun):
        assert process.wait(60) == 1
        told = errors(process)
        assert "1: the server failed:\nTraceback" in told
        assert "ZeroDivisionError" in told
        assert alive(begun) == []


def test_a_server_that_dies_while_it_starts_leaves_no_process():
    with server("start aborts") as (process, printed, begun):
        assert process.wait(60) == 1
        assert printed.read() == ""
        assert "1: the server was ended by SIGABRT" in errors(process)
        assert alive(begun) == []


def test_a_server_that_dies_while_it_runs_leaves_no_process():
    with server() as (process, printed, begun):
        printed.readline()
        below = psutil.Process(begun[0]).parent()
        assert below is not None
        below.kill()
        assert process.wait(60) == 1
        assert "1: the server was ended by SIGKILL" in errors(process)
        assert alive(begun) == []


def test_a_server_whose_supervisor_is_killed_stops_by_itself():
    with server() as (process, printed, _):
        printed.readline()
        process.kill()
        assert printed.read() == "stop\n"
