"""Tests of position bias."""
