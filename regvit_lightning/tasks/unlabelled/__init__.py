"""Scores of features without labels: of one vector per image, and of the patches."""
