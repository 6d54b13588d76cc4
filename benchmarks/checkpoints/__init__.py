"""Scores over a training, of the backbones that it kept: `python -m benchmarks.checkpoints model=deit3-vitn_reg0`."""
