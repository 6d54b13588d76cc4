"""The rendered data set: scenes, and what is written to disk in the formats of the real data sets."""
