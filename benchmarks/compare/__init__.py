"""Compare results with another version of them: `python -m benchmarks.compare base=origin/main data=mini`."""
