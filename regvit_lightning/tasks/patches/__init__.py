"""Evaluations that label the patches of an image without training: by nearest patches, and by clusters."""
