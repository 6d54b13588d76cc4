"""Figures drawn from arrays; this package loads no data."""
