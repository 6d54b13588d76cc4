"""The leaderboard as Markdown, CSV and LaTeX, with its notes; the page shows the same texts."""

import csv as csv_module
import io
from collections.abc import Iterator, Sequence

from benchmarks.tables import latex
from benchmarks.tables.by_task import metric_heading
from benchmarks.tables.columns import Column
from benchmarks.tables.escapes import in_markdown
from benchmarks.tables.formats import Origin, plain_lines
from benchmarks.tables.leaderboard import BEHIND, FRONT, NEAR, Board, Place, Standing
from benchmarks.tables.markdown import table as aligned

NAME = "leaderboard"
TITLE = "Leaderboard"
SIGNS = {FRONT: "●", NEAR: "○", BEHIND: "–", "": ""}
TOGETHER = 5  # columns of ranks in one table
MOST_PRINTED = 10  # models on a terminal
TOGETHER_IN_LATEX = 3  # in a line of 5.5 in


def headline(board: Board) -> str:
    """How many models are ranked over how many columns."""
    of, common = len(board.columns), len(board.common)
    models = f"{len(board.rows)} models"
    if not common:
        return f"{models} have no column in common: each of {of} ranks those that it has."
    over = f"{common} of {of} columns" if common < of else f"{of} columns" if of > 1 else "one column"
    return f"{models} by their mean rank over {over}, those that all of them have."


def heads(board: Board) -> list[str]:
    """Headings of `texts`."""
    front = f"front of {board.accuracy}" if board.accuracy else "front"
    return ["place", "model", f"mean rank of {len(board.rows)}", "may be", "columns", "GFLOPs", front]


def texts(board: Board, row: Standing) -> list[str]:
    """Cells of a model: its number, name, mean rank, span of that, columns, GFLOPs, and place on the front."""
    number = str(board.rows.index(row) + 1)
    mean = "–" if row.mean is None else f"{row.mean:.2f}"
    span = "–" if row.best is None or row.worst is None else f"{row.best:.1f} to {row.worst:.1f}"
    work = "–" if row.gflops is None else f"{row.gflops:.3g}"
    return [number, row.model, mean, span, str(len(board.common)), work, SIGNS[row.front]]


def place_text(column: Column, place: Place | None) -> str:
    """Value, its rank and the span of that: `75.3 (2; 1–4)`; a dash without a value."""
    if place is None:
        return "–"
    span = f"{place.best}–{place.worst}" if place.best < place.worst else ""
    return f"{place.value:.{column.decimals}f} ({'; '.join(filter(None, [f'{place.rank:g}', span]))})"


def column_head(title: str, column: Column) -> str:
    """Heading of a column: `imagenet_knn top-1 % ↑`."""
    return f"{title} {metric_heading(column)}"


def notes(board: Board) -> list[str]:
    """How ranks are counted, what the spans mean, and what is left out."""
    return list(_notes(board))


def _notes(board: Board) -> Iterator[str]:
    yield (
        "mean rank: over the columns that all of these models have, 1 is the best; equal values share the mean of "
        "their ranks; a column counts as much as another, whether tasks are alike or not"
    )
    yield (
        "may be, and the numbers after a semicolon: the best and the worst rank that noise allows: 1 + the models that "
        "are better, and all less those that are worse, by more than the noise of images, and of seeds where both have "
        "several; each comparison by itself, not corrected for their number; an unknown noise tells no two models apart"
    )
    apart = [column_head(title, column) for title, column in board.columns if column not in board.common]
    if apart:
        yield f"not in the mean, as some of these models lack it: {', '.join(apart)}"
    for model, count in board.left_out.items():
        yield f"{model} is not ranked: it has {count} of {len(board.columns)} columns"
    if board.accuracy:
        yield (
            f"front: ● no model is more accurate ({board.accuracy}) with as many GFLOPs or fewer, ○ only by less than "
            "noise, – one is"
        )
    if any(row.gflops is not None for row in board.rows):
        yield "GFLOPs: twice the multiply-adds of the blocks for one image, in 10⁹, at the size of the artifact report"
    yield "untrained models and constants take no part; shares of outliers and norms have no rank"


def formats(board: Board, origin: Origin) -> dict[str, str]:
    """Format the leaderboard: its texts by suffix of the file."""
    return {"md": markdown(board, origin), "csv": csv(board), "tex": as_latex(board, origin)}


def lines(board: Board) -> list[str]:
    """Lines for the terminal: a headline, and the mean rank of the first models with its span."""
    rows = [texts(board, row) for row in board.rows[:MOST_PRINTED]]
    widest = max(len(row[1]) for row in rows)
    text = [f"{TITLE}: {headline(board)}"]
    text += [f"  {row[0]:>2} {row[1].ljust(widest)}  {row[2]} ({row[3]} by noise)" for row in rows]
    left = len(board.rows) - len(rows)
    return [*text, *[f"  and {left} more in {NAME}.md"] * bool(left)]


def parts(board: Board, together: int = TOGETHER) -> Iterator[list[tuple[str, Column]]]:
    """Columns in groups of `together` that fit side by side."""
    for start in range(0, len(board.columns), together):
        yield board.columns[start : start + together]


def _of_columns(board: Board, part: Sequence[tuple[str, Column]]) -> list[list[str]]:
    """Heading and rows of one group of columns."""
    rows = [["model", *(column_head(title, column) for title, column in part)]]
    for row in board.rows:
        rows.append([row.model, *(place_text(column, row.places.get(column)) for _, column in part)])
    return rows


def markdown(board: Board, origin: Origin) -> str:
    """Format the leaderboard as Markdown: the mean ranks, then value and rank in every column."""
    first = [heads(board), *(texts(board, row) for row in board.rows)]
    tables = [first, *(_of_columns(board, part) for part in parts(board))]
    shown = [aligned([[in_markdown(cell) for cell in line] for line in table]) for table in tables]
    head = [TITLE, "", origin.line(in_markdown), "", headline(board)]
    return "\n\n".join(["\n".join(head), *shown, "\n".join(plain_lines(notes(board)))]) + "\n"


def csv(board: Board) -> str:
    """Format plain numbers as CSV, one line for each model; missing values are empty."""
    lines = [["place", "model", "mean rank", "mean rank best", "mean rank worst", "columns", "gflops", "front"]]
    for title, column in board.columns:
        name = f"{title} {column.metric}"
        lines[0] += [name, f"{name} rank", f"{name} rank best", f"{name} rank worst", f"{name} in the mean"]
    for number, row in enumerate(board.rows, 1):
        means = [row.mean, row.best, row.worst]
        lines.append([str(number), row.model, *("" if mean is None else f"{mean:.4f}" for mean in means)])
        lines[-1] += [str(len(board.common)), "" if row.gflops is None else f"{row.gflops:.6g}", row.front]
        for _, column in board.columns:
            place, counts = row.places.get(column), "yes" if column in board.common else "no"
            own = ["", "", "", ""] if place is None else [f"{place.value:.4f}", f"{place.rank:g}"]
            lines[-1] += own if place is None else [*own, str(place.best), str(place.worst)]
            lines[-1].append(counts)
    text = io.StringIO()
    csv_module.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def as_latex(board: Board, origin: Origin) -> str:
    """Format the leaderboard as LaTeX: the mean ranks, then the columns in groups."""
    first = [heads(board), *(texts(board, row) for row in board.rows)]
    caption = f"{latex.words(f'{TITLE}. {headline(board)} Data: {origin.data}')}."
    said = [latex.words(note) for note in notes(board)]
    grids = [_grid(first, "rlrrrrc", caption, NAME, said)]
    for number, part in enumerate(parts(board, TOGETHER_IN_LATEX), 1):
        of = latex.words(f"{TITLE}: value, rank and the ranks that noise allows. Data: {origin.data}")
        rows = _of_columns(board, part)
        grids.append(_grid(rows, "l" + "r" * len(part), f"{of}.", f"{NAME}-{number}", said[1:2]))
    return latex.document(grids, [f"needs {latex.PACKAGES}", origin.line()])


def _grid(rows: Sequence[Sequence[str]], spec: str, caption: str, label: str, said: list[str]) -> latex.Grid:
    head, *body = rows
    cells = [[latex.words(cell) for cell in row] for row in body]
    heading = " & ".join(latex.words(cell) for cell in head) + r" \\"
    return latex.Grid(
        [*spec], [heading], cells, caption, label, said, latex.extent(list(zip(head, *cells, strict=True)))
    )
