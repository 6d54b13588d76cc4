r"""Tables as LaTeX: floats with caption, grouped heads and notes, numbers aligned by siunitx; long ones over pages.

The preamble needs `\usepackage{booktabs, siunitx, amssymb, longtable}`.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from benchmarks.tables import by_task
from benchmarks.tables.columns import Column, Score, Table
from benchmarks.tables.escapes import in_latex, in_line
from benchmarks.tables.formats import Origin, labels_of, notes, published_text, sources_of
from benchmarks.tables.shown import OF_CHANGE, shown

PACKAGES = r"\usepackage{booktabs, siunitx, amssymb, longtable}"
SIGNS = {
    "▲": r"$\blacktriangle$",
    "▼": r"$\blacktriangledown$",
    "△": r"$\vartriangle$",
    "▽": r"$\triangledown$",
    "●": r"$\bullet$",
    "○": r"$\circ$",
    "≈": r"$\approx$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "÷": r"$\div$",
    "↓": r"$\downarrow$",
    "↑": r"$\uparrow$",
    "†": r"$\dagger$",
    "→": r"$\rightarrow$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "σ": r"$\sigma$",
    "–": "--",
    "—": "---",
    "…": r"\dots{}",
} | {raised: rf"\textsuperscript{{{mark}}}" for mark, raised in zip("dsvu0123456789-", "ᵈˢᵛᵘ⁰¹²³⁴⁵⁶⁷⁸⁹⁻", strict=True)}
NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:\.\d+)?(?![\w.])")

BRACKETS, DELTA = "(in brackets): ", r"$\Delta$: "  # how a change is named in Markdown and here
LINE = 397.0  # width of a line in pt: 5.5 in, as at NeurIPS and ICLR
SIZES = {"small": 4.75, "footnotesize": 4.3, "scriptsize": 3.9}  # width of a character in pt, on average
GAP = 6.0  # pt between two columns
LONG = 40  # rows, more of which are too many for one page


@dataclass(frozen=True)
class Grid:
    """Rows and columns of one tabular.

    Attributes:
        spec: type of each column.
        heads: lines of the head, with their rules.
        rows: cells of each row.
        caption, label: of the table.
        notes: phrases below it.
        characters: width of a row in characters.
    """

    spec: list[str]
    heads: list[str]
    rows: list[list[str]]
    caption: str
    label: str
    notes: list[str]
    characters: int


def words(text: str) -> str:
    """Escape plain text; signs become LaTeX's, other characters beyond Latin-1, which it does not know, `?`."""
    escaped = in_latex(text)
    return "".join(SIGNS.get(sign, sign if ord(sign) < 256 else "?") for sign in escaped)


def numbers(text: str) -> str:
    r"""Escape text of a cell and wrap its numbers: `[-0.8, 0.2] ▽` to `[\num{-0.8}, \num{0.2}] $\triangledown$`."""
    return NUMBER.sub(lambda number: rf"\num{{{number[0]}}}", words(text))


def latex(table: Table, origin: Origin) -> str:
    """Format a table; the overview as one float a task, a table that is too wide as one for each run of columns."""
    sources = sources_of(table)
    comments = [f"needs {PACKAGES}", *filter(None, [table.title]), origin.line()]
    comments += [f"[{number}] {source}" for number, source in enumerate(sources, 1)]
    grids = []
    for whole in by_task.split(table) if table.by_task else [table]:
        parts = list(_fitting(whole))
        grids += [_grid(part, index, len(parts), origin.data, sources) for index, part in enumerate(parts)]
    return document(grids, comments)


def document(grids: Sequence[Grid], comments: Sequence[str]) -> str:
    """Format floats below comments."""
    return "\n".join([*(f"% {in_line(line)}" for line in comments), *(_float(grid) for grid in grids)]) + "\n"


def _float(grid: Grid) -> str:
    setup = r"\setlength{\tabcolsep}{3pt}\sisetup{retain-explicit-plus, detect-weight}"
    size = _size(grid)
    caption = rf"\caption{{{grid.caption}}}\label{{tab:{grid.label}}}"
    heads, rows = [r"\toprule", *grid.heads, r"\midrule"], [" & ".join(row) + r" \\" for row in grid.rows]
    below = rf"\parbox{{\linewidth}}{{\footnotesize {'; '.join(grid.notes)}.}}"
    columns = f"@{{}}{''.join(grid.spec)}@{{}}"
    if len(grid.rows) > LONG:
        opened = [rf"{{\{size}{setup}", rf"\begin{{longtable}}{{{columns}}}", caption + r" \\"]
        head = [*heads, r"\endfirsthead", *heads, r"\endhead", r"\bottomrule", r"\endfoot"]
        return "\n".join([*opened, *head, *rows, r"\end{longtable}}", r"\noindent" + below])
    opened = [r"\begin{table}[htbp]", rf"\centering\{size}{setup}", caption, rf"\begin{{tabular}}{{{columns}}}"]
    return "\n".join(
        [*opened, *heads, *rows, r"\bottomrule", r"\end{tabular}", r"\par\smallskip", below, r"\end{table}"]
    )


# ------------------------------------------------------------------------------------------------------ widths


def _size(grid: Grid) -> str:
    """Largest size of the letters at which a grid fits a line, else the smallest."""
    room = LINE - GAP * len(grid.spec)
    return next((size for size, each in SIZES.items() if grid.characters * each <= room), list(SIZES)[-1])


def extent(columns: Sequence[Sequence[str]]) -> int:
    """Number of characters that columns of cells print beside each other."""
    return sum(max(map(_length, column)) for column in columns)


def under_titles(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """Rows whose first cell, where it is not empty, is a line of its own above them: narrower by that column."""
    lines = []
    for title, *cells in rows:
        lines += [[rf"\multicolumn{{{len(cells)}}}{{@{{}}l}}{{\textit{{{title}}}}}"]] * bool(title) + [cells]
    return lines


def _length(cell: str) -> int:
    """Number of characters that a cell prints."""
    plain = re.sub(r"\\(?:num|textbf|textsuperscript)\b|[{}$]|\\bfseries ", "", cell)
    return len(re.sub(r"\\[a-zA-Z]+|\\.", "x", plain))


def _fitting(table: Table) -> Iterator[Table]:
    """Split a table at columns so that each part fits a line in small print."""
    runs: list[list[Column]] = []
    left, each = 0.0, SIZES["scriptsize"]
    room = LINE - _extent_of_labels(table) * each - GAP * (len(table.labels) + 1)
    for column, title in zip(table.columns, table.titles(), strict=True):
        width = _extent_of(table, column, title) * each + GAP * len(_spec(table, column))
        if width > left:
            runs.append([])
            left = room
        runs[-1].append(column)
        left -= width
    for run in runs:
        yield table if len(runs) == 1 else by_task.with_columns(table, run)


def _extent_of_labels(table: Table) -> int:
    rows = [*(labels_of(table, row) for row in table.rows), list(table.labels)]
    return extent([[words(cell) for cell in column] for column in zip(*rows, strict=True)])


def _extent_of(table: Table, column: Column, title: str) -> int:
    """Characters of the columns of a metric, at least those of its title."""
    names = _part_names(table, column)
    cells = [_cells(table.scores.get((row, column)), column, table) for row in table.rows]
    alone = len(names) == 1
    return max(extent(list(zip(*cells, *([] if alone else [names]), strict=True))), len(title) + 2)


# ------------------------------------------------------------------------------------------------------- cells


def _grid(table: Table, index: int, count: int, data: str, sources: Sequence[str]) -> Grid:
    titles = dict(zip(table.columns, table.titles(), strict=True))
    seeds = sorted(set(table.seeds.values()))
    several = len(seeds) > 1
    spec = ["l"] * len(table.labels) + ["r"] * several
    for column in table.columns:
        spec += _spec(table, column) + ["r"] * table.has_published(column)
    rows = []
    for row in table.rows:
        cells = [*map(words, labels_of(table, row)), *([str(table.seeds[row])] * several)]
        for column in table.columns:
            score = table.scores.get((row, column))
            cells += _cells(score, column, table)
            cells += [numbers(published_text(score, column, sources))] * table.has_published(column)
        rows.append(cells)
    part = f" (part {index + 1} of {count})" if count > 1 else ""
    seed = "" if several or not seeds else f"; {seeds[0]} seed{'s' * (seeds[0] > 1)}"
    caption = words(f"{table.title or table.name}{seed}; data: {data}{part}") + "."
    label = re.sub("[^a-z0-9]+", "-", f"{table.name}{f' {index + 1}' if part else ''}".lower())
    said = [words(note).replace(BRACKETS, DELTA) for note in (*notes(table), *table.footnotes)]
    characters = _extent_of_labels(table) + sum(_extent_of(table, column, title) for column, title in titles.items())
    return Grid(spec, _heads(table, titles, several), rows, caption, label, said, characters)


def _kinds(table: Table, column: Column) -> tuple[bool, bool, bool]:
    """Whether a column has any spread or mark, any change, and any interval of a change."""
    texts = [shown(score, column) for (_, other), score in table.scores.items() if other == column]
    spread = any(text.spread or set(text.marks) - {OF_CHANGE} for text in texts)
    return spread, any(text.change for text in texts), any(text.interval or text.sign for text in texts)


def _spec(table: Table, column: Column) -> list[str]:
    r"""Types of the columns of a metric: `S` aligns the decimal points of values and changes, intervals are text."""
    spread, change, interval = _kinds(table, column)
    scores = [shown(score, column) for (_, other), score in table.scores.items() if other == column]
    types = [_decimal([text.mean for text in scores])] + ["l"] * spread
    return types + [_decimal([text.change for text in scores if text.change])] * change + ["l"] * interval


def _decimal(texts: Sequence[str]) -> str:
    whole = max((len(text.lstrip("+-").partition(".")[0]) for text in texts), default=1)
    decimals = max((len(text.partition(".")[2]) for text in texts), default=0)
    sign = "+" if any(text[:1] in "+-" for text in texts) else ""
    return f"S[table-format={sign}{whole}.{decimals}]"


def _cells(score: Score | None, column: Column, table: Table) -> list[str]:
    """Cells of one score: value, spread and marks, change, its interval and sign; those that the column has."""
    spread, change, interval = _kinds(table, column)
    if score is None:
        return ["{--}"] + [""] * (spread + change + interval)
    text = shown(score, column)
    cells = [rf"\bfseries {text.mean}" if score.best else text.mean]
    cells += [numbers(text.spread) + _raised(text.marks, set(text.marks) - {OF_CHANGE})] * spread
    cells += [text.change] * change
    of_change = _raised(text.marks, [OF_CHANGE])
    return cells + [numbers(" ".join(filter(None, [text.interval, text.sign]))) + of_change] * interval


def _raised(marks: str, kinds: Iterable[str]) -> str:
    shown_here = "".join(mark for mark in marks if mark in kinds).replace("f", SIGNS["†"])
    return rf"\textsuperscript{{{shown_here}}}" if shown_here else ""


# ------------------------------------------------------------------------------------------------------- heads


def _heads(table: Table, titles: dict[Column, str], several: bool) -> list[str]:
    """Heads from the general to the special: tasks, if there are several; metrics; value, interval, change."""
    first = [*map(words, table.labels), *(["seeds"] * several)]
    tasks, metrics, parts = [], [], []
    for task, columns in groupby(table.columns, lambda column: column.task):
        width = 0
        for column in columns:
            names = _part_names(table, column) + ["published"] * table.has_published(column)
            arrow = " ↓" if column.better < 0 and "↓" not in titles[column] else ""
            metrics.append((words(titles[column] + arrow), len(names)))
            parts += [f"{{{name}}}" for name in names]
            width += len(names)
        tasks.append((words(task), width))
    empty = [""] * len(first)
    lines = spanning(empty, tasks) if len(tasks) > 1 else []
    if len(parts) == len(metrics):  # every metric has its values alone
        return [*lines, " & ".join([*first, *(f"{{{name}}}" for name, _ in metrics)]) + r" \\"]
    return [*lines, *spanning(empty, metrics), " & ".join([*first, *parts]) + r" \\"]


def spanning(empty: Sequence[str], heads: Sequence[tuple[str, int]]) -> list[str]:
    """A line of heads over several columns each, and the rules below them."""
    cells = [rf"\multicolumn{{{width}}}{{c}}{{{name}}}" for name, width in heads]
    start, rules = len(empty) + 1, []
    for _, width in heads:
        rules.append(rf"\cmidrule(lr){{{start}-{start + width - 1}}}")
        start += width
    return [" & ".join([*empty, *cells]) + r" \\", "".join(rules)]


def _part_names(table: Table, column: Column) -> list[str]:
    spread, change, interval = _kinds(table, column)
    scores = [score for (_, other), score in table.scores.items() if other == column]
    deviation = any(score.deviation is not None for score in scores)
    of_value = r"$\pm$ s.d." if deviation else r"[95\,\%]"
    names = ["mean" if deviation else "value"] + [of_value] * spread
    return names + [r"$\Delta$"] * change + [r"[95\,\%]"] * interval
