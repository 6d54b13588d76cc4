"""Ranges of numeric settings, in the notation of intervals: `(0, 1]` excludes 0 and includes 1."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

INTERVAL = re.compile(r"([\[(])(\S+), (\S+)([\])])")


@dataclass(frozen=True)
class Range:
    """A finite interval that every number of a setting lies in; NaN and infinity are outside of every one.

    Args:
        text: the interval, such as `[1, 1e6]`, `(0, 1)` or `[0, 1)`.
        pair: the setting is a list of two numbers, the smaller one first.

    Raises:
        ValueError: `text` is no interval, is empty, or has an end that is not finite.
    """

    text: str
    pair: bool = False

    def __post_init__(self) -> None:
        least, most = self.ends
        if not (math.isfinite(least) and math.isfinite(most) and least < most):
            raise ValueError(f"{self.text} is not a finite interval")

    @property
    def ends(self) -> tuple[float, float]:
        """Lower and upper end."""
        match = INTERVAL.fullmatch(self.text)
        if match is None:
            raise ValueError(f"{self.text} is not an interval")
        return float(match[2]), float(match[3])

    def holds(self, number: float) -> bool:
        """Whether the number lies in the interval."""
        least, most = self.ends
        low = number > least if self.text[0] == "(" else number >= least
        return low and (number < most if self.text[-1] == ")" else number <= most)

    def check(self, value: Any) -> None:
        """Check a number, None, or all numbers of a list or a mapping.

        Raises:
            ValueError: a number lies outside, or a pair is not one; the message says what is expected.
        """
        numbers = list(_numbers(value))
        inside = all(map(self.holds, numbers))
        if self.pair and not (inside and len(numbers) == 2 and numbers[0] <= numbers[1]):
            raise ValueError(f"expected two numbers in {self.text}, the smaller one first")
        if not inside:
            each = "every number must lie" if isinstance(value, list | Mapping) else "must lie"
            raise ValueError(f"{each} in {self.text}")


def _numbers(value: Any) -> Iterator[float]:
    """Numbers of a value, of a list, or of the values of a mapping."""
    if isinstance(value, list | Mapping):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _numbers(item)
    elif value is not None:
        yield value
