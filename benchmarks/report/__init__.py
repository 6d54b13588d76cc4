"""One HTML page of all results: `python -m benchmarks.report data=mini`."""
