"""The three questions of the artifact report, for every model: high norms? sinks, of which kind? are patches local?

Each has an answer in a word or two and effect sizes, see `regvit_lightning/analysis/questions.py`. The answer of a
model is that of every seed; where seeds differ, each answer with the share of the seeds that give it.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from benchmarks.tables.columns import TableRow, row_of
from benchmarks.tables.paper_tables import reports
from benchmarks.tables.scored_records import ScoredRecord

QUESTIONS = ("high norms?", "attention sinks?", "patches local?")  # in the order of the records


@dataclass(frozen=True)
class Effect:
    """An effect size, a column of the table.

    Attributes:
        question: index of its question.
        name: its name in the record.
        heading: its heading below that of the question.
        words: what it is in a line, with {} for the value.
        decimals: digits after the decimal point.
        scale: what its value is multiplied by.
    """

    question: int
    name: str
    heading: str
    words: str
    decimals: int = 2
    scale: float = 1.0


EFFECTS = (
    Effect(0, "max_over_median", "largest ÷ median", "largest {} × median"),
    Effect(1, "nop_sinks", "NOP per image", "NOP {}"),
    Effect(1, "broadcast_sinks", "broadcast per image", "broadcast {}"),
    Effect(1, "other_sinks", "other per image", "other {} per image"),
    Effect(2, "patch_share", "own variance %", "{} % of their variance is their own", 0, 100.0),
    Effect(2, "mean_cosine", "cosine to image mean", "cosine to the image mean {}"),
)


@dataclass(frozen=True)
class Row:
    """The answers about one model.

    Attributes:
        row: the model.
        cells: its artifact reports, by ascending seed.
        answers: the answer to each of `QUESTIONS`: `no`, or `none 2/3, few 1/3` where seeds differ.
        values: values of each of `EFFECTS`, one a seed; none where it is not measured.
        words: the answers of the first seed, each a sentence.
    """

    row: TableRow
    cells: list[ScoredRecord]
    answers: list[str]
    values: list[list[float]]
    words: list[str]

    @property
    def shown(self) -> list[str]:
        """Each of `EFFECTS` as text: `0.14`, `0.14 ± 0.02` over seeds, `0` where all are 0; a dash without any."""
        return [_shown(effect, values) for effect, values in zip(EFFECTS, self.values, strict=True)]

    @property
    def images(self) -> str:
        """Number of test images: `320`; of different seeds, if they differ: `320, 1,000`."""
        return ", ".join(dict.fromkeys(f"{cell.record.images:,}" for cell in self.cells))


def rows(cells: Sequence[ScoredRecord]) -> list[Row]:
    """A row for each model with an artifact report that answers the questions, in the order of the overview.

    Args:
        cells: all records of one data set.
    """
    models: dict[TableRow, list[ScoredRecord]] = {}
    for cell in sorted(reports(cells), key=lambda cell: (row_of(cell.record).order(), cell.record.seed)):
        if len(cell.record.protocol.get("questions", ())) == len(QUESTIONS):
            models.setdefault(row_of(cell.record), []).append(cell)
    return [_row(row, of_model) for row, of_model in models.items()]


def _row(row: TableRow, cells: list[ScoredRecord]) -> Row:
    asked: list[list[dict[str, Any]]] = [cell.record.protocol["questions"] for cell in cells]
    answers = [_together([_answer(one[index]) for one in asked]) for index in range(len(QUESTIONS))]
    values = [list(_values(effect, asked)) for effect in EFFECTS]
    return Row(row, cells, answers, values, [one["words"] for one in asked[0]])


def _answer(one: dict[str, Any]) -> str:
    """Answer to a question. Records from before the answer `few` say `none` where too few images have a sink."""
    return "few" if one["answer"] == "none" and one["effect"].get("sinks", 0) > 0 else one["answer"]


def _together(answers: Sequence[str]) -> str:
    """One answer, or each with its share of the seeds, the most frequent first."""
    counts = Counter(answers).most_common()
    if len(counts) == 1:
        return answers[0]
    return ", ".join(f"{answer} {count}/{len(answers)}" for answer, count in counts)


def _values(effect: Effect, asked: Sequence[Sequence[dict[str, Any]]]) -> Iterator[float]:
    for one in asked:
        value = one[effect.question]["effect"].get(effect.name)
        if value is not None:
            yield effect.scale * float(value)


def _shown(effect: Effect, values: Sequence[float]) -> str:
    spread = f" ± {stdev(values):.{effect.decimals}f}" if len(values) > 1 and any(values) else ""
    return in_digits(effect, values) + spread


def in_digits(effect: Effect, values: Sequence[float]) -> str:
    """Mean over seeds as text, `0` where all are 0; a dash without any value."""
    if not any(values):
        return "0" if values else "–"
    return f"{fmean(values):.{effect.decimals}f}"


def notes(made: Sequence[Row]) -> list[str]:
    """What the answers and the effect sizes mean, one line for each question."""
    return list(_notes(made))


def several_seeds(made: Sequence[Row]) -> bool:
    """Whether any row has a deviation over seeds."""
    return any(len(row.cells) > 1 for row in made)


def _notes(made: Sequence[Row]) -> Iterator[str]:
    yield (
        "high norms?: whether patches have norms apart from the others after some block, high or low; largest ÷ "
        "median: in the block where it is largest, without patches of high norm right after the patch embedding"
    )
    counts = " or ".join(f"{count:,}" for count in sorted({_some(cell) for row in made for cell in row.cells}))
    yield (
        "attention sinks?: the kinds of which 10 % of the images or more have one; few: there are some, but of no kind "
        f"in that many; numbers are sums over all blocks and heads, mean of {counts} images; NOP: the head writes next "
        "to nothing; broadcast: one vector to all tokens; other: neither"
    )
    yield (
        "patches local?: yes, if 50 % or more of the variance of the patches after the final norm is their own, and "
        "not that of their image or position; patches without any training can be local, too"
    )
    if any("/" in answer for row in made for answer in row.answers):
        yield "2/3: the answer of 2 of 3 seeds"


def _some(cell: ScoredRecord) -> int:
    """Number of images of which sinks are measured."""
    images = cell.record.protocol.get("sinks", {}).get("images", cell.record.images)
    return int(images)
