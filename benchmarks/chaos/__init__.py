"""What becomes of requests while parts of a cluster die: `python -m benchmarks.chaos`."""
