"""Durations: what people write, against datetime."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regvit_lightning.values.durations import hours


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1:30", 1.5),
        ("90m", 1.5),
        ("1.5", 1.5),
        (".5", 0.5),
        ("24", 24),
        ("010", 10),
        ("0:45", 0.75),
        ("1-12:00:00", 36),
        ("1-12", 36),
        ("2-0:30", 48.5),
        ("1h30m", 1.5),
        ("1 hour 30 minutes", 1.5),
        ("90 min", 1.5),
        ("2d", 48),
        ("2 Days", 48),
        ("1d12h", 36),
        ("1.5h", 1.5),
        ("5400s", 1.5),
        ("100:00", 100),
    ],
)
def test_what_people_write(text, expected):
    assert hours(text) == expected


@pytest.mark.parametrize(
    "text", ["", "1:75", "1:5:99", "-1", "1h 30", "an hour", "1y", "1:30m", "1:", "inf", "1e3", "1_0", "5-"]
)
def test_what_is_no_duration(text):
    with pytest.raises(ValueError, match=r"expected hours such as 1\.5 or 1:30"):
        hours(text)


@given(st.timedeltas(timedelta(0), timedelta(days=400)).map(lambda t: t - timedelta(microseconds=t.microseconds)))
def test_every_notation_is_the_same_time(time):
    whole, rest = divmod(time.seconds, 3600)
    minutes, seconds = divmod(rest, 60)
    expected = pytest.approx(time / timedelta(hours=1), rel=1e-12)
    assert hours(f"{time.days}-{whole:02}:{minutes:02}:{seconds:02}") == expected
    assert hours(f"{time.days * 24 + whole}:{minutes:02}:{seconds:02}") == expected
    assert hours(f"{time.days}d {whole}h {minutes}m {seconds}s") == expected
    assert hours(repr(time / timedelta(seconds=1)) + " seconds") == expected
