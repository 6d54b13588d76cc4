"""Markdown tables with aligned columns, so that they are also readable in a terminal."""

from collections.abc import Iterator, Sequence
from itertools import groupby

from benchmarks import terminal


def table(rows: Sequence[Sequence[str]]) -> str:
    """Format rows, the first one the heading; columns whose other cells all begin like numbers are right-aligned."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    right = [all(_number(row[column]) for row in rows[1:]) for column in range(len(rows[0]))]
    rule = ["-" * (width - 1) + ":" if aligned else "-" * width for width, aligned in zip(widths, right, strict=True)]
    return "\n".join("| " + " | ".join(_padded(row, widths, right)) + " |" for row in (rows[0], rule, *rows[1:]))


EMPTY = ("", "–")  # cells without a number


def without_repeats(rows: Sequence[Sequence[str]]) -> Iterator[list[str]]:
    """The rows without a first cell that repeats the one above."""
    above = None
    for first, *rest in rows:
        yield ["" if first == above else first, *rest]
        above = first


def for_terminal(text: str) -> str:
    """Fit Markdown text to the terminal that it is printed to, see `narrowed`; unchanged for a pipe."""
    columns = terminal.columns()
    return text if columns is None else narrowed(text, columns)


def narrowed(text: str, columns: int) -> str:
    """Wrap Markdown text to lines of at most `columns` characters, as far as its words allow.

    A table that is too wide is split into several, one below the other, each with the first column; if not even two
    columns fit, each row becomes a paragraph. Other lines are broken between words.
    """
    blocks = groupby(text.split("\n"), key=lambda line: line.startswith("| "))
    return "\n".join(
        _narrow_table(list(lines), columns) if is_table else terminal.fitted("\n".join(lines), columns)
        for is_table, lines in blocks
    )


def _narrow_table(lines: Sequence[str], columns: int) -> str:
    if len(lines[0]) <= columns:
        return "\n".join(lines)
    rows = [[cell.strip() for cell in line[2:-2].split(" | ")] for line in (lines[0], *lines[2:])]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    if 2 + widths[0] + 3 + max(widths[1:]) + 2 > columns:
        return "\n".join(terminal.fitted(_paragraph(rows[0], row), columns) for row in rows[1:])
    parts = _parts(widths, columns)
    return "\n\n".join(table(_chosen(rows, part)) for part in parts)


def _chosen(rows: Sequence[Sequence[str]], columns: Sequence[int]) -> list[list[str]]:
    """Select the first column and some others, without rows that are empty in these."""
    kept = [row for row in rows if any(row[column] not in EMPTY for column in columns)]
    return [[row[0], *(row[column] for column in columns)] for row in kept]


def _parts(widths: Sequence[int], columns: int) -> list[list[int]]:
    """Split the columns after the first into runs that fit next to it."""
    parts: list[list[int]] = []
    left = 0
    for column, width in list(enumerate(widths))[1:]:
        if width + 3 > left:
            parts.append([])
            left = columns - (2 + widths[0] + 2)
        parts[-1].append(column)
        left -= width + 3
    return parts


def _paragraph(heading: Sequence[str], row: Sequence[str]) -> str:
    """Format a row as lines: its first cell, then the non-empty others after their column headings."""
    first = f"{heading[0]} {row[0]}" if _number(row[0]) else row[0]
    named = zip(heading[1:], row[1:], strict=True)
    return "\n".join([first, *(f"  {name}: {cell}" for name, cell in named if cell not in EMPTY)])


def _number(cell: str) -> bool:
    cell = cell.removeprefix("**")
    return cell[:1].isdigit() or cell[:1] in ("–", "-", "+", "≥", "≤", "")


def _padded(row: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> list[str]:
    columns = zip(row, widths, right, strict=True)
    return [cell.rjust(width) if aligned else cell.ljust(width) for cell, width, aligned in columns]
