"""Tables in Markdown whose columns are aligned, so that they are read in a terminal, too."""

from collections.abc import Sequence

from benchmarks import terminal


def table(rows: Sequence[Sequence[str]]) -> str:
    """The first row is the heading; columns of which every other cell begins like a number are aligned on the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    right = [all(_number(row[column]) for row in rows[1:]) for column in range(len(rows[0]))]
    rule = ["-" * (width - 1) + ":" if aligned else "-" * width for width, aligned in zip(widths, right, strict=True)]
    return "\n".join("| " + " | ".join(_padded(row, widths, right)) + " |" for row in (rows[0], rule, *rows[1:]))


def for_terminal(rows: Sequence[Sequence[str]]) -> str:
    """`table`; on a terminal that is too narrow for it a paragraph for each row: its first cell, the others named."""
    text, columns = table(rows), terminal.columns()
    if columns is None or len(text.split("\n", 1)[0]) <= columns:
        return text
    return "\n".join(terminal.fitted(_paragraph(rows[0], row), columns) for row in rows[1:])


def _paragraph(heading: Sequence[str], row: Sequence[str]) -> str:
    named = (f"{name} {cell}" for name, cell in zip(heading[1:], row[1:], strict=True) if cell)
    return f"{row[0]}\n  {', '.join(named)}"


def _number(cell: str) -> bool:
    cell = cell.removeprefix("**")
    return cell[:1].isdigit() or cell[:1] in ("–", "-", "+", "≥", "≤", "")


def _padded(row: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> list[str]:
    columns = zip(row, widths, right, strict=True)
    return [cell.rjust(width) if aligned else cell.ljust(width) for cell, width, aligned in columns]
