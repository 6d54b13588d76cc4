"""Unsupervised object discovery: LOST, its sweep, TokenCut, and their shared protocol."""
