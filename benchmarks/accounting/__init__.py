"""Every request accounted for, whatever clients and processes do: `python -m benchmarks.accounting`."""
