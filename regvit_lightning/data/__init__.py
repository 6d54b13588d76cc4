"""Data: rendered scenes, and the loaders that read them and the real data sets alike."""
