"""One score as text and as an error bar, the same in Markdown, LaTeX, figures and on the page."""

from dataclasses import dataclass

from benchmarks.tables.columns import Column, Score
from benchmarks.tables.verdicts import sign
from regvit_lightning.statistics import Comparison

MOST_DIGITS = 4  # of an end of an interval after the decimal point; metrics are recorded with as many

OF_CHANGE = "u"  # the mark that belongs to the change, not to the value


@dataclass(frozen=True)
class Shown:
    """One score as text.

    Attributes:
        mean: mean over seeds.
        spread: `± 0.4` over seeds, or `[53.5, 60.2]` over the images of a single seed; empty if unknown.
        spread_meaning: description of `spread`.
        change: difference to the same model without registers, such as `+1.3`; empty if there is no such model.
        interval: 95 % interval of the change, such as `[0.2, 2.4]`; empty if unknown.
        sign: sign of the verdict on the change, see `verdicts.SIGNS`.
        marks: keys of `columns.MARKS` that apply to the score and to its change.
    """

    mean: str
    spread: str
    spread_meaning: str
    change: str
    interval: str
    sign: str
    marks: str

    @property
    def number(self) -> str:
        """The mean and its spread."""
        return " ".join(filter(None, [self.mean, self.spread]))

    @property
    def difference(self) -> str:
        """The change, its interval and its sign: `+1.3 [0.2, 2.4] ▲`; empty without a change."""
        return " ".join(filter(None, [self.change, self.interval, self.sign]))


def shown(score: Score, column: Column) -> Shown:
    """Format a score of a column."""
    spread, meaning = _spread(score, column)
    change, interval = change_parts(score.change, column.decimals) if score.change else ("", "")
    return Shown(
        mean=f"{score.mean:.{column.decimals}f}",
        spread=spread,
        spread_meaning=meaning,
        change=change,
        interval=interval,
        sign=sign(score.change, column.better) if score.change else "",
        marks=marks_of(score),
    )


def _spread(score: Score, column: Column) -> tuple[str, str]:
    if score.interval:
        return interval_shown(score.interval, column.decimals), "95 % interval over test images"
    if score.deviation is not None and (column.compared or score.deviation):
        return f"± {score.deviation:.{column.decimals}f}", f"standard deviation over {len(score.values)} seeds"
    return "", ""


def interval_shown(interval: tuple[float, float], decimals: int) -> str:
    """Format an interval: `[0.2, 2.4]`."""
    return "[{:z.{d}f}, {:z.{d}f}]".format(*interval, d=decimals)


def change_parts(change: Comparison, decimals: int) -> tuple[str, str]:
    """Format a difference, `+1.3`, and its interval, `[0.2, 2.4]` or empty.

    An interval that excludes 0 is never shown as one that ends there: that end then has more digits, `[-0.8, -0.02]`.
    One without width, of sides that are equal on every image, is not shown: it says nothing about other images. What
    rounds to 0 has no sign.
    """
    value = f"{change.value:+.{decimals}f}"
    value = value if round(change.value, decimals) else value[1:]
    if change.interval is None or change.interval[0] == change.interval[1]:
        return value, ""
    return value, f"[{', '.join(_end(end, decimals, change.beyond_noise) for end in change.interval)}]"


def _end(end: float, decimals: int, never_zero: bool) -> str:
    while never_zero and decimals < MOST_DIGITS and not round(end, decimals):
        decimals += 1
    return f"{end:z.{decimals}f}"


def marks_of(score: Score) -> str:
    """Keys of `columns.MARKS` that apply to a score and to its change."""
    unpaired = score.change is not None and score.change.interval is not None and not score.change.paired
    return score.marks + (OF_CHANGE if unpaired else "")


def axis(column: Column) -> str:
    """Unit and direction of a metric for the axis of a chart: `m, lower is better`."""
    direction = {1: "higher is better", 0: "", -1: "lower is better"}[column.better]
    return ", ".join(filter(None, [column.unit, direction]))


def error_bar(score: Score) -> tuple[float, float]:
    """Ends of an error bar: one standard deviation over seeds, or the 95 % interval over images of a single seed."""
    if score.deviation is not None:
        return score.mean - score.deviation, score.mean + score.deviation
    return score.interval or (score.mean, score.mean)
