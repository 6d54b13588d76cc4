"""Studies of what happens to norms during training: `python -m benchmarks.study study=emergence`."""
