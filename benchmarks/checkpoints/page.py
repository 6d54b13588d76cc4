"""Text of the scores over a training: how ranks agree, a table of all checkpoints, and the same as CSV."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.checkpoints.measured import LABELLED, LEAST, PARTS, UNLABELLED, Row
from benchmarks.tables import markdown

NAMES = {**UNLABELLED, **LABELLED}
FORMS = {
    "rankme": "{:.1f}",
    "alpha_req": "{:.2f}",
    "lidar": "{:.1f}",
    "dse": "{:.3f}",
    "knn": "{:.1f}",
    "miou": "{:.1f}",
}
CLAIM = (
    "The claim (Dai et al. 2025, arXiv 2510.17299): over a training RankMe, alpha-ReQ and LiDAR fall as dense quality "
    "rises, DSE rises with it. Checkpoints of one training are no independent samples, so that no p-value is given: "
    "with few of them, and where a score moves one way all the time, Spearman's ρ is near ±1 whatever the reason."
)


@dataclass(frozen=True)
class Agreement:
    """How the ranks of a score without labels and of one with labels agree over checkpoints.

    Attributes:
        score, quality: keys of `UNLABELLED` and `LABELLED`.
        every: Spearman's ρ of all checkpoints, NaN where one of both does not change.
        later: that of the second half of the training.
    """

    score: str
    quality: str
    every: float
    later: float


def agreements(rows: Sequence[Row]) -> list[Agreement]:
    """Every score against every quality; the second half is that of the steps, with the checkpoint in the middle."""
    half = [row for row in rows if row.step >= rows[-1].step / 2]
    later = half if len(half) >= LEAST else []
    return [
        Agreement(score, quality, _rho(rows, score, quality), _rho(later, score, quality))
        for quality in LABELLED
        for score in UNLABELLED
    ]


def _rho(rows: Sequence[Row], score: str, quality: str) -> float:
    from scipy.stats import rankdata

    first, second = (rankdata([row.values[name] for row in rows]) for name in (score, quality))
    if len(rows) < LEAST or not (first.std() and second.std()):
        return float("nan")
    centred = first - first.mean(), second - second.mean()
    return float((centred[0] * centred[1]).mean() / first.std() / second.std())


def text(model: str, data: str, rows: Sequence[Row]) -> str:
    """Heading, the claim, the agreement of ranks, and a table of all checkpoints, as Markdown."""
    steps = f"{len(rows)} checkpoints of {model} on {data}, steps {rows[0].step:,} to {rows[-1].step:,}"
    return "\n\n".join([f"# Scores over a training\n\n{steps}.", CLAIM, _agreement_table(rows), _table(rows)]) + "\n"


def _agreement_table(rows: Sequence[Row]) -> str:
    found = {(one.score, one.quality): one for one in agreements(rows)}
    heading = [
        "Spearman's ρ with",
        *(f"{name}, {when}" for name in LABELLED.values() for when in ("all", "second half")),
    ]
    lines = [heading]
    for score, name in UNLABELLED.items():
        own = [found[score, quality] for quality in LABELLED]
        lines.append([name, *(_signed(value) for one in own for value in (one.every, one.later))])
    return markdown.table(lines)


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−") if value == value else "–"


def _table(rows: Sequence[Row]) -> str:
    lines = [["step", *NAMES.values()]]
    lines += [[f"{row.step:,}", *(FORMS[name].format(row.values[name]) for name in NAMES)] for row in rows]
    return markdown.table(lines)


def in_words(row: Row) -> str:
    """The values of one checkpoint on a line."""
    return ", ".join(f"{title} {FORMS[name].format(row.values[name])}" for name, title in NAMES.items())


def curves(rows: Sequence[Row]) -> dict[str, list[float]]:
    """Values over the checkpoints by title, those with labels first."""
    return {title: [row.values[name] for row in rows] for name, title in {**LABELLED, **UNLABELLED}.items()}


def csv_text(rows: Sequence[Row]) -> str:
    """A line for each checkpoint with every value."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    columns = [*NAMES, *PARTS]
    writer.writerow(["step", *columns])
    for row in rows:
        writer.writerow([row.step, *(f"{row.values[name]:.6g}" for name in columns)])
    return file.getvalue()
