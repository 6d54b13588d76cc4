"""Rendered data set: scenes, written to disk in the formats of the real data sets."""
