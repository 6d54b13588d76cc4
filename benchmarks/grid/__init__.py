"""Run a grid of models × tasks × seeds: `python -m benchmarks.grid grid=demo`."""
