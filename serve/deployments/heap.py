"""The C library's heap in a process through which pictures pass."""

import ctypes
import sys

ARENAS = "2"
"""For MALLOC_ARENA_MAX of processes to be started: each of Ray's some thirty threads would get a heap of its own."""
M_MMAP_THRESHOLD = -3
"""Of mallopt(3)."""
PICTURE_BYTES = 128 * 2**10
"""The C library's own threshold at a process' start."""


def return_pictures_at_once() -> None:
    """From now on every buffer of a picture's size gets pages of its own, which go back to the system as it is freed.

    glibc raises the size from which it does so to that of the largest buffer it has seen freed, and takes all others
    from heaps, which grow for hours under buffers of mixed sizes from many threads though nothing is kept. A process
    that computes is better off with its heaps: new pages cost time. Other C libraries stay as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, PICTURE_BYTES)
