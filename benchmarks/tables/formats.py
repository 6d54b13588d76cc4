"""Output of tables as Markdown and CSV, with the same numbers in the same order; LaTeX is in `latex`."""

import csv as csv_module
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.tables import by_task, verdicts
from benchmarks.tables.by_task import metric_name
from benchmarks.tables.columns import MARKS, Column, Score, Table, TableRow
from benchmarks.tables.escapes import in_line, in_markdown
from benchmarks.tables.markdown import table as aligned
from benchmarks.tables.scored_records import ScoredRecords
from benchmarks.tables.shown import OF_CHANGE, marks_of, shown

RAISED = {"d": "ᵈ", "s": "ˢ", "v": "ᵛ", "f": "†", "u": "ᵘ"}
INTERVAL = (
    "[its 95 % interval] over test images, and over seeds where both sides have several; each by itself, not corrected "
    "for their number"
)
COMMITS_SHOWN = 3


@dataclass(frozen=True)
class Origin:
    """Provenance of a table's numbers, shown in its header.

    Attributes:
        data: name of the data.
        records: all its records.
        command: command that makes the table.
    """

    data: str
    records: ScoredRecords
    command: str

    def line(self, escape: Callable[[str], str] = in_line) -> str:
        """Header line: data, date of the newest record, commits, command; the texts of others escaped by `escape`."""
        command = in_line(self.command).replace("`", "'")
        return f"Data: {escape(self.data)}. {escape(made(self.records))}. Made by `{command}`."


def made(records: ScoredRecords) -> str:
    """Date of the newest record, and the commits of all records, newest first."""
    if not records.cells:
        return "No record"
    provenance = [cell.record.provenance for cell in records.cells]
    newest = sorted(((p.get("date", ""), p.get("commit", "")) for p in provenance), reverse=True)
    commits = list(dict.fromkeys(commit[:10] for _, commit in newest if commit))
    more = f" and {len(commits) - COMMITS_SHOWN} more" if len(commits) > COMMITS_SHOWN else ""
    named = ", ".join(commits[:COMMITS_SHOWN]) + more
    return f"Newest record: {newest[0][0] or 'unknown'}. Commit{'s' * (len(commits) > 1)}: {named or 'unknown'}"


# -------------------------------------------------------------------------------------------------------------- cells


def _in_markdown(score: Score | None, column: Column) -> str:
    """Format a score and its change with their marks: `56.7 ± 0.4ᵈ (+1.3 [0.2, 2.4] ▲)ᵘ`; a dash if there is none."""
    if score is None:
        return "–"
    text = shown(score, column)
    number = f"**{text.number}**" if score.best else text.number
    of_value = "".join(RAISED[mark] for mark in text.marks if mark != OF_CHANGE)
    change = f" ({text.difference})" if text.change else ""
    return number + of_value + change + RAISED[OF_CHANGE] * (OF_CHANGE in text.marks)


def published_text(score: Score | None, column: Column, sources: Sequence[str]) -> str:
    """Format a published value, the measured value minus it, and the number of its source: `84.8 (-0.3) [1]`."""
    if score is None or score.published is None:
        return ""
    entry = score.published
    number = sources.index(source_of(score)) + 1
    return f"{entry.value:g} ({score.mean - entry.value:+.{column.decimals}f}) [{number}]"


def source_of(score: Score) -> str:
    """Source and protocol of the published value, and what differs here."""
    assert score.published is not None, "nothing is published"
    entry = score.published
    differs = f"; differs: {entry.protocol.differs}" if entry.protocol.differs else ""
    return f"{entry.source}: {entry.protocol.words}{differs}"


def sources_of(table: Table) -> list[str]:
    """Sources of all published values of a table, in the order of their numbers in brackets."""
    return sorted({source_of(score) for score in table.scores.values() if score.published})


def row_name(row: TableRow) -> str:
    """Display name of a row: the model, or the kind of floor."""
    return f"{row.model} (floor)" if row.floor else row.model


def labels_of(table: Table, row: TableRow) -> list[str]:
    """Cells that identify a row."""
    return [row_name(row), row.part][: len(table.labels)]


def plain_lines(lines: Sequence[str]) -> list[str]:
    """Items of a Markdown list whose text comes from records or names of files."""
    texts = (in_markdown(line).strip() for line in lines)
    return [rf"- \{text}" if text.startswith(("#", ">", "-", "+")) else f"- {text}" for text in texts]


# ------------------------------------------------------------------------------------------------------------ formats


def markdown(table: Table, origin: Origin) -> str:
    """Format the header, the table and its notes as Markdown; the overview as one table a task, see `by_task.split`."""
    sources = sources_of(table)
    heading = [table.title, ""] if table.title else []
    lines = [*heading, origin.line(in_markdown), ""]
    for part in by_task.split(table) if table.by_task else [table]:
        lines += [f"**{in_markdown(part.title)}**", ""] if table.by_task else []
        lines += [_aligned(part, sources), ""]
    skipped = [f"skipped: {line}" for line in origin.records.skipped]
    lines += plain_lines([*notes(table), *table.footnotes, *skipped])
    lines += [f"- [{number}] {source}" for number, source in enumerate(sources, 1)]
    return "\n".join(lines) + "\n"


def _aligned(table: Table, sources: Sequence[str]) -> str:
    """Format headings and rows as an aligned Markdown table, with the number of seeds of each row."""
    heads, *rows = _grid(table, _in_markdown, sources)
    labels = len(table.labels)
    safe = [[*map(in_markdown, [*heads[:labels], "seeds", *heads[labels:]])]]
    for row, cells in zip(table.rows, rows, strict=True):
        safe.append([*map(in_markdown, cells[:labels]), str(table.seeds[row]), *cells[labels:]])
    return aligned(safe)


def _grid(table: Table, cell: Callable[[Score | None, Column], str], sources: Sequence[str]) -> list[list[str]]:
    """Headings and rows, with a column of published values after each column that has any."""
    heads = [*table.labels]
    for column, title in zip(table.columns, table.titles(), strict=True):
        heads += [title + (" ↓" if column.better < 0 else "")] + [f"{title} published"] * table.has_published(column)
    rows = [heads]
    for row in table.rows:
        cells = labels_of(table, row)
        for column in table.columns:
            score = table.scores.get((row, column))
            cells.append(cell(score, column))
            cells += [published_text(score, column, sources)] * table.has_published(column)
        rows.append(cells)
    return rows


def notes(table: Table) -> list[str]:
    """Notes on units, and on the meaning of brackets, bold and marks in a table."""
    return [*filter(None, [_units(table)]), *meanings(table)]


def meanings(table: Table) -> list[str]:
    """Meaning of brackets, bold and marks in a table, one line for each kind that occurs."""
    scores: list[Score] = list(table.scores.values())
    lines: list[str] = []
    if any(score.deviation is not None for score in scores):
        lines.append("mean ± standard deviation over seeds")
    if any(score.interval for score in scores):
        lines.append("value of one seed [its 95 % interval over test images]")
    if any(score.change for score in scores):
        lines.append(f"(in brackets): the change against {table.against}")
    if any(score.change and score.change.interval for score in scores):
        lines[-1] += f", and {INTERVAL}"
    lines += verdicts.meanings(_signs_in(table))
    if any(score.best for score in scores):
        lines.append("bold: better than every other model by more than the noise of images and seeds")
    if any(score.published for score in scores):
        lines.append("published: the value, (what is measured here less that value), [its source]")
    return lines + [f"{RAISED[mark]}: {words}" for mark, words in _marks_in(table).items()]


def _signs_in(table: Table) -> str:
    """Signs of all verdicts in a table."""
    return "".join(shown(score, column).sign for (_, column), score in table.scores.items())


def _marks_in(table: Table) -> dict[str, str]:
    """Marks that occur in a table, with their meaning."""
    marks = {mark for score in table.scores.values() for mark in marks_of(score)}
    return {mark: words for mark, words in MARKS.items() if mark in marks}


def _units(table: Table) -> str:
    """Units and directions of the metrics: `top1 in %; rmse in m, lower is better (↓)`; by task the headings say it."""
    if table.by_task:
        return "↓: lower is better" if any(column.better < 0 for column in table.columns) else ""
    kinds: dict[tuple[str, int], list[str]] = {}
    for column, title in zip(table.columns, table.titles(), strict=True):
        metrics = kinds.setdefault((column.unit, column.better), [])
        shown = title if column.name else metric_name(column.metric)
        if shown not in metrics:
            metrics.append(shown)
    less = {1: "", 0: "", -1: ", lower is better (↓)"}
    named = (
        f"{', '.join(metrics)}{f' in {unit}' if unit else ': no unit'}{less[better]}"
        for (unit, better), metrics in kinds.items()
    )
    return "; ".join(named)


PARTS = ["", " std", " low", " high", " change", " change low", " change high", " verdict", " marks", " images"]


def csv(table: Table) -> str:
    """Format plain numbers as CSV; missing values are empty.

    Each column gives mean, standard deviation over seeds, ends of the interval over images of a single seed, change,
    ends of its interval, its verdict, marks, the number of test images and, if any row has one, the published value and
    its source.
    """
    heads = [*table.labels, "seeds"]
    for column, title in zip(table.columns, table.titles(), strict=True):
        heads += [f"{title}{part}" for part in PARTS]
        heads += [f"{title} published", f"{title} published source"] * table.has_published(column)
    rows = [heads]
    for row in table.rows:
        cells = [*labels_of(table, row), str(table.seeds[row])]
        for column in table.columns:
            cells += _plain(table.scores.get((row, column)), column, table.has_published(column))
        rows.append(cells)
    text = io.StringIO()
    csv_module.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _plain(score: Score | None, column: Column, published: bool) -> list[str]:
    if score is None:
        return [""] * (len(PARTS) + 2 * published)
    change, none = score.change, (None, None)
    numbers = [score.mean, score.deviation, *(score.interval or none)]
    numbers += [change.value, *(change.interval or none)] if change else [None, None, None]
    cells = ["" if number is None else f"{number:.4f}" for number in numbers]
    cells += [verdicts.verdict(change, column.better) if change else "", marks_of(score)]
    cells.append(", ".join(dict.fromkeys(str(cell.record.images) for cell in score.cells)))
    entry = score.published
    return cells + ([f"{entry.value:g}" if entry else "", entry.source if entry else ""] if published else [])
