"""A server in the foreground: it runs until the first Ctrl-C, and leaves no process behind, however it ends.

Ray takes over signals in its process (a SIGTERM while it starts ends in `abort`) and starts a tree of processes, some
of which outlive their parents. So it runs in a child, in a session that the terminal's Ctrl-C does not reach, while
this process keeps the signals. On Linux it also adopts the orphans of its tree (prctl(2), PR_SET_CHILD_SUBREAPER), and
ends whatever is left of the tree before it ends itself. When this process is killed, the child stops by itself.
"""

import ctypes
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from types import FrameType
from typing import NoReturn

import psutil

from serve.cli.console import Exit, Failure, working

PR_SET_CHILD_SUBREAPER = 36
STARTED = b"!"
PATIENCE_S = 5.0
"""For processes that were asked to stop and are on their way out."""


def supervise(
    start: Callable[[], None],
    stop: Callable[[], None],
    ready: Callable[[], None],
    starting: str,
    patience_s: float = PATIENCE_S,
) -> None:
    """Run `start` in a child, then `ready` here; wait for SIGINT, SIGTERM or SIGHUP, and run `stop` in the child.

    starting: what the terminal shows until then. A signal while `start` or `stop` runs ends the whole tree at once.
    Raises the Failure that `start` or `stop` raised, and one with the traceback for any other exception of theirs.
    """
    _adopt_orphans()
    signals = _Signals()
    _on_signal(_end_now)
    child = _Child(start, stop, signals)
    with working(starting):
        started = child.wait_until_started()
    if started:
        _on_signal(_take_note)
        ready()
        child.wait_until_ended_or_signal()
        _on_signal(_end_now)
    with working("Stopping; Ctrl-C again stops at once") if started else nullcontext():
        failure, code = child.stop()
        _on_signal(signal.SIG_IGN)
        end_descendants(patience_s)
    if code < 0:
        raise Failure(f"the server was ended by {signal.Signals(-code).name}", Exit.REFUSED)
    if failure:
        raise Failure(failure, Exit(code))


def end_descendants(patience_s: float) -> None:
    """Wait so long for every process below this one to end, then kill what is left."""
    psutil.wait_procs(_descendants(), timeout=patience_s)
    while left := _descendants():
        for process in left:
            _kill(process)
        psutil.wait_procs(left)


class _Signals:
    """Tells of signals through a pipe that the interpreter's own handler writes to, so that none is missed by a call
    that blocks just after it came: handlers in Python run once that call has returned."""

    def __init__(self) -> None:
        self._came, self._told = os.pipe()
        os.set_blocking(self._told, False)
        signal.set_wakeup_fd(self._told, warn_on_full_buffer=False)

    def or_readable(self, descriptor: int) -> bool:
        """Wait for a signal or until there is something to read; whether there is."""
        readable, _, _ = select.select([descriptor, self._came], [], [])
        if self._came in readable:
            os.read(self._came, select.PIPE_BUF)
        return descriptor in readable


class _Child:
    """The process that runs the server. Closing `_lifeline` tells it to stop.

    It writes `STARTED` to `_status`, or nothing; then, past another byte, why it failed; its end closes the pipe. A
    message of its own on the terminal would be lost under what this process shows there.
    """

    def __init__(self, start: Callable[[], None], stop: Callable[[], None], signals: _Signals) -> None:
        self._signals = signals
        self._status, status = os.pipe()
        lifeline, self._lifeline = os.pipe()
        sys.stdout.flush()
        self._pid = os.fork()
        if self._pid == 0:
            os.setsid()
            os.close(self._lifeline)
            signal.set_wakeup_fd(-1)
            _on_signal(signal.SIG_DFL)
            _run(start, stop, status, lifeline)
        os.close(status)
        os.close(lifeline)

    def wait_until_started(self) -> bool:
        """False when it failed or ended instead."""
        return self._read(1) == STARTED

    def wait_until_ended_or_signal(self) -> None:
        self._signals.or_readable(self._status)

    def stop(self) -> tuple[str, int]:
        """Why it failed, empty where it did not, and its exit code, negative where a signal ended it."""
        os.close(self._lifeline)
        failure = b"".join(iter(self._read, b"")).decode()
        return failure.strip(), os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])

    def _read(self, most_bytes: int = select.PIPE_BUF) -> bytes:
        """Of its status; signals are handled meanwhile. Nothing once it has ended."""
        while not self._signals.or_readable(self._status):
            pass
        return os.read(self._status, most_bytes)


def _run(start: Callable[[], None], stop: Callable[[], None], status: int, lifeline: int) -> NoReturn:
    """The child's life. It ends past Ray's exit hooks: `stop` has done their work."""
    code = int(Exit.REFUSED)
    try:
        try:
            start()
            os.write(status, STARTED)
            os.read(lifeline, 1)
        finally:
            _leave_the_terminal()
            stop()
        code = 0
    except Failure as failure:
        os.write(status, f"\n{failure}".encode())
        code = failure.code
    except Exception:  # noqa: BLE001  # The parent tells it.
        os.write(status, f"\nthe server failed:\n{traceback.format_exc()}".encode())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _leave_the_terminal() -> None:
    """Ray tells of its own actors' end as if it were a failure; what really fails goes through the status pipe."""
    with open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), sys.stdout.fileno())
        os.dup2(nothing.fileno(), sys.stderr.fileno())


def _on_signal(handler: "Callable[[int, FrameType | None], object] | signal.Handlers") -> None:
    """nohup's ignored SIGHUP stays ignored."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, handler)


def _take_note(_number: int, _frame: FrameType | None) -> None:
    """The wait for signals ends by itself."""


def _end_now(_number: int, _frame: FrameType | None) -> NoReturn:
    _on_signal(signal.SIG_IGN)
    end_descendants(0.0)
    sys.stderr.write("\x1b[?25h\n" if sys.stderr.isatty() else "")
    sys.stderr.flush()
    os._exit(Exit.INTERRUPTED)


def _adopt_orphans() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _descendants() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def _kill(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return
