"""Rates in words at every speed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.counter import rate_in_words


@pytest.mark.parametrize(
    ("per_second", "words"),
    [
        (12345.6, "12,346 img/s"),
        (10.0, "10 img/s"),
        (9.97, "10 img/s"),
        (9.9, "9.9 img/s"),
        (1.0, "1.0 img/s"),
        (0.99, "1.0 s/img"),
        (0.4, "2.5 s/img"),
        (0.025, "40 s/img"),
        (1 / 3600, "3,600 s/img"),
        (0.0, "? img/s"),
        (-1.0, "? img/s"),
    ],
)
def test_rates_by_hand(per_second, words):
    assert rate_in_words(per_second, "img") == words


@given(st.floats(1e-5, 1e6))
def test_no_rate_is_rounded_to_nothing(per_second):
    number, unit = rate_in_words(per_second, "img").split()
    value = float(number.replace(",", ""))
    assert value == pytest.approx(per_second if unit == "img/s" else 1 / per_second, rel=0.06)
