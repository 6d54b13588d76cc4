"""Tests of the scores over a training."""
