"""Where a model is better on the page: a card for each pair of models and task, with a whisker for each group."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.tables import where_formats
from benchmarks.tables.where import BETTER_THERE, WORSE_THERE, Line, Pair, Part
from benchmarks.tables.where_formats import Texts

WIDTH, HEIGHT = 220, 14  # of a whisker, in view box units
EDGE = 4  # units left free at either end


@dataclass(frozen=True)
class Whisker:
    """A difference and its interval, in view box units.

    Attributes:
        at: of the difference.
        low, high: ends of the interval, cut at those of the chart.
        zero: of no difference.
        style: class in the page's style sheet: better, worse or unclear.
    """

    at: float
    low: float
    high: float
    zero: float
    style: str


@dataclass(frozen=True)
class Card:
    """A task of a pair of models.

    Attributes:
        title: task and metric.
        task: id of the task, for the page's filter.
        models: ids of both models, for the page's filter.
        whole: the two on all images, in a line.
        open: whether it is shown at once.
        count: how many differences it has, in words.
        rows: texts and whisker of each group; the kind is empty where it is that of the row above.
        left_out: classes that are not shown, in words, or empty.
        reach: difference at either end of the whiskers.
    """

    title: str
    task: str
    models: str
    whole: str
    open: bool
    count: str
    rows: list[tuple[str, Texts, Whisker]]
    left_out: str
    reach: str


@dataclass(frozen=True)
class Section:
    """A pair of models: what is compared, how many differences there are, names of the two sides, and its tasks."""

    title: str
    headline: str
    sides: tuple[str, str]
    cards: list[Card]


def sections(pairs: Sequence[Pair]) -> list[Section]:
    """A section for each pair of models."""
    return [Section(pair.name, where_formats.headline(pair), pair.sides, list(_cards(pair))) for pair in pairs]


def _cards(pair: Pair) -> Iterator[Card]:
    for index, part in enumerate(pair.parts):
        counts = [sum(line.verdict in those for line in part.lines) for those in (BETTER_THERE, WORSE_THERE)]
        models = dict.fromkeys(cell.record.model for side in part.cells for cell in side)
        yield Card(
            title=part.title,
            task=part.column.task,
            models=" ".join(models),
            whole=where_formats.whole(part),
            open=any(counts) or index == 0,
            count=f"better on {counts[0]}, worse on {counts[1]}" if any(counts) else "no difference beyond noise",
            rows=list(_rows(part)),
            left_out=where_formats.left_out(part),
            reach=f"{where_formats.reach(part):.{part.column.decimals}f} {part.column.unit}",
        )


def _rows(part: Part) -> Iterator[tuple[str, Texts, Whisker]]:
    above, end = "", where_formats.reach(part)
    for line in where_formats.chosen(part):
        text = where_formats.texts(line, part)
        yield "" if text.kind == above else text.kind, text, whisker(line, end)
        above = text.kind


def whisker(line: Line, end: float) -> Whisker:
    """Whisker of a line on a chart that reaches from `-end` to `end`."""
    value = line.change.value
    low, high = line.change.interval or (value, value)
    style = "better" if line.verdict in BETTER_THERE else "worse" if line.verdict in WORSE_THERE else "unclear"
    at, left, right, zero = (_place(one, end) for one in (value, low, high, 0.0))
    return Whisker(at, left, right, zero, style)


def _place(value: float, end: float) -> float:
    share = min(max(value / end, -1.0), 1.0)
    return round(WIDTH / 2 + share * (WIDTH / 2 - EDGE), 1)
