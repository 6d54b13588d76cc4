"""Render, download or check data sets: `python -m benchmarks.data data=mini`."""
