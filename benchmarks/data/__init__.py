"""Render, download or check data: `python -m benchmarks.data data=mini`."""
