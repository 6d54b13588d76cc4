"""Trained models that are not better than a floor of their column by more than noise, in words."""

from benchmarks.tables.columns import Column, Table
from benchmarks.tables.shown import change_parts


def lines(table: Table, column: Column) -> list[str]:
    """One line for each floor that models of a column miss: `not better than chance: a (-0.2 [-1.5, 1.1]), b (…)`."""
    of_floor: dict[str, list[str]] = {}
    for row in table.rows:
        score = table.scores.get((row, column))
        if score and (missed := score.shortfall):
            numbers = " ".join(filter(None, change_parts(missed.change, column.decimals)))
            name = " ".join(filter(None, [row.model, row.part]))
            of_floor.setdefault(missed.floor.model, []).append(f"{name} ({numbers})")
    return [f"not better than {floor}: {', '.join(models)}" for floor, models in of_floor.items()]
