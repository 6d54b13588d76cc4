"""The table of the three questions as Markdown, CSV and LaTeX."""

import csv as csv_module
import io
from collections.abc import Sequence
from itertools import groupby
from statistics import fmean, stdev

from benchmarks.tables import latex
from benchmarks.tables.escapes import in_markdown
from benchmarks.tables.formats import Origin, plain_lines, row_name
from benchmarks.tables.markdown import table as aligned
from benchmarks.tables.questions import EFFECTS, QUESTIONS, Effect, Row, in_digits, notes, several_seeds

NAME = "questions"
TITLE = "Artifacts: three questions"


def formats(rows: Sequence[Row], origin: Origin) -> dict[str, str]:
    """Format the table: its texts by suffix of the file."""
    return {"md": markdown(rows, origin), "csv": csv(rows), "tex": as_latex(rows, origin)}


def by_question() -> list[tuple[str, list[Effect]]]:
    """Each question with its effect sizes."""
    groups = groupby(EFFECTS, lambda effect: effect.question)
    return [(QUESTIONS[index], list(effects)) for index, effects in groups]


def cells_of(row: Row) -> list[list[str]]:
    """Cells of each question: the answer, then its effect sizes."""
    shown = dict(zip(EFFECTS, row.shown, strict=True))
    effects = [effects for _, effects in by_question()]
    return [[answer, *(shown[one] for one in of)] for answer, of in zip(row.answers, effects, strict=True)]


def markdown(rows: Sequence[Row], origin: Origin) -> str:
    """Format the table as Markdown; answers are bold."""
    heads = ["model", "n", "seeds"]
    for question, effects in by_question():
        heads += [question, *(effect.heading for effect in effects)]
    lines = [heads]
    for row in rows:
        cells = [in_markdown(row_name(row.row)), row.images, str(len(row.cells))]
        for answer, *sizes in cells_of(row):
            cells += [f"**{in_markdown(answer)}**", *sizes]
        lines.append(cells)
    text = [TITLE, "", origin.line(in_markdown), "", aligned(lines), "", *plain_lines(notes_of(rows))]
    return "\n".join(text) + "\n"


def notes_of(rows: Sequence[Row]) -> list[str]:
    """`questions.notes`, and what the deviations are."""
    return [*notes(rows), *["mean ± standard deviation over seeds"] * several_seeds(rows)]


def csv(rows: Sequence[Row]) -> str:
    """Format plain numbers as CSV: answers, means and standard deviations over seeds; missing values are empty."""
    heads = ["model", "images", "seeds"]
    for question, effects in by_question():
        heads += [question, *(f"{effect.heading}{part}" for effect in effects for part in ("", " std"))]
    lines = [heads]
    for row in rows:
        numbers = {effect: _numbers(values) for effect, values in zip(EFFECTS, row.values, strict=True)}
        lines.append([row_name(row.row), row.images.replace(",", ""), str(len(row.cells))])
        for answer, (_, effects) in zip(row.answers, by_question(), strict=True):
            lines[-1] += [answer, *(number for effect in effects for number in numbers[effect])]
    text = io.StringIO()
    csv_module.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def lines(rows: Sequence[Row]) -> list[str]:
    """A line for each model, for the terminal: `high norms? no (largest 2.98 × median); …`."""
    return [f"{row_name(row.row)}: {line(row)}" for row in rows]


def line(row: Row) -> str:
    """The answers about one model with their effect sizes in one line."""
    parts = []
    for (question, effects), (answer, *shown) in zip(by_question(), cells_of(row), strict=True):
        sizes = [effect.words.format(text) for effect, text in zip(effects, shown, strict=True) if text != "–"]
        parts.append(f"{question} {answer}" + (f" ({', '.join(sizes)})" if sizes else ""))
    return "; ".join(parts)


def _numbers(values: Sequence[float]) -> list[str]:
    numbers = [fmean(values) if values else None, stdev(values) if len(values) > 1 else None]
    return ["" if number is None else f"{number:.4f}" for number in numbers]


def as_latex(rows: Sequence[Row], origin: Origin) -> str:
    """Format the table as a LaTeX float: the questions above their answers and effect sizes."""
    groups = by_question()
    first = ["", *(latex.words(question) for question, _ in groups)]
    spans = [(question, 1 + len(effects)) for question, (_, effects) in zip(first[1:], groups, strict=True)]
    second = ["model", "seeds"]
    for _, effects in groups:
        second += ["", *(latex.words(SHORT.get(effect.heading, effect.heading)) for effect in effects)]
    cells = [_in_latex(row) for row in rows]
    spec = ["l", "r"] + [kind for _, effects in groups for kind in ("l", *"r" * len(effects))]
    heads = [*latex.spanning(["", ""], spans), " & ".join(second) + r" \\"]
    caption = f"{latex.words(f'{TITLE}; data: {origin.data}')}."
    characters = latex.extent(list(zip(second, *cells, strict=True)))
    said = [latex.words(note) for note in notes(rows)]
    said += ["means over seeds; their deviations are in the CSV"] * several_seeds(rows)
    grid = latex.Grid(spec, heads, cells, caption, NAME, said, characters)
    return latex.document([grid], [f"needs {latex.PACKAGES}", origin.line()])


def _in_latex(row: Row) -> list[str]:
    """Cells of a row: means alone, and the answers of seeds that differ below each other, as a line is short."""
    numbers = {effect: in_digits(effect, values) for effect, values in zip(EFFECTS, row.values, strict=True)}
    cells = [latex.words(row_name(row.row)), str(len(row.cells))]
    for answer, (_, effects) in zip(row.answers, by_question(), strict=True):
        parts = [latex.words(part) for part in answer.split(", ")]
        cells.append(parts[0] if len(parts) == 1 else rf"\shortstack[l]{{{STACK.join(parts)}}}")
        cells += [latex.numbers(numbers[effect]) for effect in effects]
    return cells


STACK = r" \\ "
SHORT = {  # headings in print, where a line is short
    "largest ÷ median": "largest",
    "NOP per image": "NOP",
    "broadcast per image": "broadcast",
    "other per image": "other",
    "own variance %": "own %",
    "cosine to image mean": "cos",
}
