"""The summary table as Markdown, CSV and LaTeX, with its notes; the page and the terminal show the same texts."""

import csv as csv_module
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.tables import latex, model_names
from benchmarks.tables.columns import MARKS, Table
from benchmarks.tables.escapes import in_markdown
from benchmarks.tables.formats import RAISED, Origin, plain_lines
from benchmarks.tables.markdown import table as aligned
from benchmarks.tables.markdown import without_repeats
from benchmarks.tables.shown import change_parts
from benchmarks.tables.summary import COMPARED, UNCLEAR, Answer, answers, headline

NAME = "summary"
MOST_FAMILIES = 4  # side by side
TITLE = "Do registers help?"
HEADS = ("task and metric", "models", "n", "seeds", "without", "with", "difference [95 %]", "registers")


@dataclass(frozen=True)
class Texts:
    """One row of the summary as text.

    Attributes:
        task, family, images, seeds, without, with_registers: as in `summary.Answer`.
        difference: with its interval, `+1.3 [0.2, 2.4]`.
        verdict: `help`, `hurt` or `unclear`.
        because: what stands behind it: the corrected p-value, or the sign of the difference with one seed.
        marks: superscript letters.
    """

    task: str
    family: str
    images: str
    seeds: str
    without: str
    with_registers: str
    difference: str
    verdict: str
    because: str
    marks: str

    def cells(self) -> list[str]:
        """Cells under `HEADS`, the verdict last."""
        first = [self.task, self.family, self.images, self.seeds, self.without, self.with_registers]
        return [*first, self.difference + self.marks, " ".join(filter(None, [self.verdict, self.because]))]


def texts(row: Answer) -> Texts:
    """Format a row."""
    decimals = row.column.decimals
    number = "" if row.registers == COMPARED else f" ({row.registers} register{'s' * (row.registers != 1)})"
    because = row.sign if row.p is None else f"(p {row.p:.3f})" if row.p >= 0.001 else "(p < 0.001)"
    return Texts(
        task=f"{row.task} {row.metric}",
        family=row.family,
        images=f"{row.images:,}",
        seeds=row.seeds,
        without=f"{row.without.mean:.{decimals}f}",
        with_registers=f"{row.with_registers.mean:.{decimals}f}{number}",
        difference=" ".join(filter(None, change_parts(row.change, decimals))),
        verdict=row.verdict,
        because=" ".join(filter(None, [because, "†" * row.below_floor])),
        marks="".join(RAISED[mark] for mark in row.marks),
    )


def notes(rows: Sequence[Answer]) -> list[str]:
    """What is compared, when a verdict is given, and the meaning of the signs that occur."""
    return list(_notes(rows))


def _notes(rows: Sequence[Answer]) -> Iterator[str]:
    numbers = sorted({row.registers for row in rows})
    nearest = "" if numbers in ([], [COMPARED]) else ", or of the nearest number that was trained where it is named"
    yield (
        f"with: the model of {COMPARED} registers{nearest}; without: the same model without registers; main metric of "
        "each task, means over seeds; n: test images; for outliers fewer is better"
    )
    for added in sorted({model_names.added(row.family) for row in rows} - {""}):
        yield f"{added} in the name of a family: with is the model with {added}, without the same weights without it"
    if tested := sum(row.p is not None for row in rows):
        yield (
            "help, hurt: the difference is beyond the noise of images and seeds, with a chance of 5 % of any false one "
            f"in the whole table (Holm's correction over the {tested} of {len(rows)} rows with several seeds a side); "
            "else unclear"
        )
    if any(not row.change.over_seeds for row in rows):
        yield (
            "with one seed on a side a difference may be luck of the training: always unclear, whatever the images say"
        )
    yield (
        "difference: its 95 % interval is that of the row by itself, not corrected: over test images, and over seeds "
        "where both sides have several"
    )
    signs = {row.sign for row in rows if row.p is None}
    if signs & set("△▽"):
        yield "△ better, ▽ worse by more than the noise of images alone"
    if "≈" in signs:
        yield "≈ within the noise of images alone"
    if any(row.below_floor for row in rows):
        yield (
            "†: both models have † in the tables of their task: neither beats every floor by more than noise, so "
            "whatever registers do is unclear"
        )
    marks = {mark for row in rows for mark in row.marks}
    yield from (f"{RAISED[mark]}: {words}" for mark, words in MARKS.items() if mark in marks)


def formats(overview: Table, origin: Origin) -> dict[str, str]:
    """Format the summary of an overview: its texts by suffix of the file."""
    rows = answers(overview)
    return {"md": markdown(rows, origin), "csv": csv(rows), "tex": as_latex(rows, origin)}


def markdown(rows: Sequence[Answer], origin: Origin) -> str:
    """Format the summary as Markdown: the verdicts at a glance, then the numbers behind them."""
    body = [[in_markdown(cell) for cell in texts(row).cells()] for row in rows]
    for row, cells in zip(rows, body, strict=True):
        cells[-1] = _bold(row, cells[-1])
    lines = [TITLE, "", origin.line(in_markdown), "", glance(rows), "", aligned([[*HEADS], *without_repeats(body)]), ""]
    return "\n".join([*lines, *plain_lines(notes(rows))]) + "\n"


def glance(rows: Sequence[Answer]) -> str:
    """Count of the verdicts, and a table of them: tasks × families, each with the difference and its interval.

    More than four families are too wide for it; then the count stands alone.
    """
    families = list(dict.fromkeys(row.family for row in rows))
    if len(families) > MOST_FAMILIES:
        return headline(rows)
    table = [["registers help, hurt or unclear", *families]]
    for task in dict.fromkeys(texts(row).task for row in rows):
        of_family = {row.family: row for row in rows if texts(row).task == task}
        cells = (_at_a_glance(of_family[name]) if name in of_family else "–" for name in families)
        table.append([task, *cells])
    return f"{headline(rows)}\n\n{aligned([[in_markdown(cell) for cell in line] for line in table])}"


def _at_a_glance(row: Answer) -> str:
    text = texts(row)
    sign = row.sign if row.p is None else ""
    return " ".join(filter(None, [_bold(row, row.verdict), text.difference, sign, "†" * row.below_floor]))


def _bold(row: Answer, text: str) -> str:
    return text if row.verdict == UNCLEAR else text.replace(row.verdict, f"**{row.verdict}**", 1)


def csv(rows: Sequence[Answer]) -> str:
    """Format plain numbers as CSV, one line for each row; missing values are empty."""
    heads = ["task", "metric", "unit", "better", "family", "registers", "images", "seeds without", "seeds with"]
    heads += ["without", "with", "difference", "low", "high", "p", "p corrected", "verdict", "sign", "below floor"]
    lines = [heads]
    for row in rows:
        low, high = row.change.interval or (None, None)
        lines.append([row.task, row.column.metric, row.column.unit, "higher" if row.column.better > 0 else "lower"])
        sides = row.without, row.with_registers
        lines[-1] += [row.family, str(row.registers), str(row.images), *(str(len(side.values)) for side in sides)]
        numbers = [*(side.mean for side in sides), row.change.value, low, high]
        lines[-1] += ["" if number is None else f"{number:.4f}" for number in numbers]
        lines[-1] += ["", ""] if row.p is None else [f"{row.change.p:.4g}", f"{row.p:.4g}"]
        lines[-1] += [row.verdict, row.sign, "yes" if row.below_floor else "no"]
    text = io.StringIO()
    csv_module.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def as_latex(rows: Sequence[Answer], origin: Origin) -> str:
    """Format the summary as a LaTeX table."""
    cells = []
    for row, (task, family, *rest, verdict) in zip(
        rows, without_repeats([texts(row).cells() for row in rows]), strict=True
    ):
        bold = _bold(row, verdict)
        shown = verdict if bold == verdict else bold.replace(f"**{row.verdict}**", "")
        named = "" if bold == verdict else rf"\textbf{{{row.verdict}}}"
        cells.append([*map(latex.words, (task, family)), *map(latex.numbers, rest), named + latex.numbers(shown)])
    heads = " & ".join(latex.words(head) for head in HEADS[1:]) + r" \\"
    caption = f"{latex.words(f'{TITLE} {headline(rows)} Data: {origin.data}')}."
    said = [latex.words(note) for note in notes(rows)]
    characters = latex.extent(list(zip(HEADS, *cells, strict=True))[1:])
    grid = latex.Grid([*"lrrrrrl"], [heads], latex.under_titles(cells), caption, NAME, said, characters)
    return latex.document([grid], [f"needs {latex.PACKAGES}", origin.line()])
