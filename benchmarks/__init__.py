"""The programs: `python -m benchmarks.<name> key=value …`."""
