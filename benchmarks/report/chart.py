"""Axes, lines and bands as SVG, in coordinates of the data; colours are classes `c0`, `c1`, … of the page's style."""

import math
from collections.abc import Sequence

from benchmarks.report.markup import Child, Html, join, tag

WIDTH, HEIGHT = 340, 210
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 26, 34

Points = Sequence[tuple[float, float]]


class Chart:
    """One pair of axes.

    Args:
        title: above it.
        x_title, y_title: names of the axes.
        x_ticks, y_ticks: places and their labels; the axes reach from the first to the last, and a little further.
        log: y is logarithmic.
    """

    def __init__(
        self,
        title: str,
        x_title: str,
        y_title: str,
        x_ticks: Sequence[tuple[float, str]],
        y_range: tuple[float, float],
        log: bool = False,
    ) -> None:
        self.title, self.x_title, self.y_title, self.x_ticks, self.log = title, x_title, y_title, x_ticks, log
        low, high = y_range
        self.y_ticks = log_ticks(low, high) if log else ticks(low, high)
        self.x_low, self.x_high = _widened(x_ticks[0][0], x_ticks[-1][0])
        self.y_low, self.y_high = (self._scaled(low), self._scaled(high))
        if self.y_high - self.y_low < 1e-12:
            self.y_low, self.y_high = self.y_low - 0.5, self.y_high + 0.5
        self.marks: list[Html] = []

    def _scaled(self, y: float) -> float:
        return math.log10(max(y, 1e-12)) if self.log else y

    def x(self, value: float) -> float:
        """Pixels from the left."""
        return LEFT + (value - self.x_low) / (self.x_high - self.x_low) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        """Pixels from the top."""
        share = (self._scaled(value) - self.y_low) / (self.y_high - self.y_low)
        return TOP + (1 - min(max(share, -0.05), 1.05)) * (HEIGHT - TOP - BOTTOM)

    def line(self, points: Points, style: str) -> None:
        """Join points."""
        self.marks.append(tag("polyline", points=self._path(points), class_=f"line {style}"))

    def band(self, lower: Points, upper: Points, style: str) -> None:
        """Fill what lies between two lines."""
        self.marks.append(tag("polygon", points=self._path([*lower, *reversed(upper)]), class_=f"band {style}"))

    def bars(self, edges: Sequence[float], heights: Sequence[float], style: str) -> None:
        """A histogram: heights between edges, filled from the axis."""
        sides = zip(edges[:-1], edges[1:], heights, strict=True)
        outline = [point for left, right, height in sides for point in ((left, height), (right, height))]
        floor = 10**self.y_low if self.log else self.y_low
        self.marks.append(
            tag("polygon", points=self._path([(edges[0], floor), *outline, (edges[-1], floor)]), class_=f"bars {style}")
        )

    def dot(self, point: tuple[float, float], style: str, *content: Child, **attributes: object) -> None:
        """A point; `content`, such as a title that appears below the pointer, goes inside."""
        place = {"cx": self.x(point[0]), "cy": self.y(point[1]), "r": 4}
        self.marks.append(tag("circle", *content, class_=f"dot {style}", **place, **attributes))

    def whisker(self, x: float, low: float, high: float, style: str) -> None:
        """A vertical line."""
        place = self.x(x)
        self.marks.append(tag("line", x1=place, x2=place, y1=self.y(low), y2=self.y(high), class_=f"line {style}"))

    def svg(self) -> Html:
        """The whole chart."""
        label = f"{self.title}: {self.y_title} against {self.x_title}"
        box = f"0 0 {WIDTH} {HEIGHT}"
        return tag("svg", self._axes(), self.marks, class_="chart", viewBox=box, role="img", aria_label=label)

    def _path(self, points: Points) -> str:
        return " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)

    def _axes(self) -> Html:
        bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
        parts = [tag("text", self.title, x=2, y=14, class_="title")]
        for value, label in self.y_ticks:
            y = self.y(value)
            parts.append(tag("line", x1=LEFT, x2=right, y1=y, y2=y, class_="rule"))
            parts.append(tag("text", label, x=LEFT - 6, y=y + 3.5, class_="tick end"))
        for value, label in self.x_ticks:
            parts.append(tag("text", label, x=self.x(value), y=bottom + 15, class_="tick middle"))
        parts.append(tag("text", self.x_title, x=(LEFT + right) / 2, y=HEIGHT - 4, class_="tick middle"))
        middle = (TOP + bottom) / 2
        turn = f"rotate(-90 11 {middle:.1f})"
        parts.append(tag("text", self.y_title, x=11, y=middle, transform=turn, class_="tick middle"))
        return join(parts)


def _widened(low: float, high: float) -> tuple[float, float]:
    margin = (high - low) * 0.04 or 0.5
    return low - margin, high + margin


def ticks(low: float, high: float, wanted: int = 5) -> list[tuple[float, str]]:
    """Round numbers within a range: multiples of 1, 2 or 5 times a power of ten."""
    span = high - low or abs(high) or 1.0
    raw = span / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    first = math.ceil(low / step - 1e-9)
    count = math.floor(high / step + 1e-9) - first + 1
    return [((first + i) * step, f"{(first + i) * step:.{decimals}f}") for i in range(count)]


def log_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Powers of ten within a range, with 2 and 5 times each where there are few."""
    low, high = max(low, 1e-12), max(high, 1e-12)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1,) if math.log10(high / low) > 3 else (1, 2, 5)
    found = [factor * 10.0**power for power in powers for factor in factors]
    return [(value, f"{value:g}") for value in found if low <= value <= high]
