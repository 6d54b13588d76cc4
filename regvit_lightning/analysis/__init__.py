"""Analysis of the registers paper: high-norm tokens of a model, their positions and their cost."""
