"""Run a grid of cells, models × tasks × seeds: `python -m benchmarks.grid grid=demo`."""
