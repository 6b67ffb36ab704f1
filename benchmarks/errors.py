"""The errors of the harness: each message is one sentence for the person who asked."""


class BenchError(Exception):
    """A measurement cannot be made or read: what was asked for is at fault, or a file."""


class NoServer(BenchError):
    """Nothing answers at the address."""


class NoAnswer(BenchError):
    """The server refuses or fails what a measurement needs before it can begin."""
