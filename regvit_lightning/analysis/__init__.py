"""What high-norm tokens a model has, where they sit and what they cost: the analysis of the registers paper."""
