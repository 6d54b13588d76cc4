"""Unsupervised object discovery: LOST, its sweep, TokenCut, and what they share."""
