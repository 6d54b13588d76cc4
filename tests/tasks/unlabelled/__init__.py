"""Tests of the scores without labels."""
