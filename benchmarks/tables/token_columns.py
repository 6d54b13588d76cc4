"""Columns of Tables 1 and 6 beyond ImageNet: the score from one token on each set, with its n and its deviation."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.tables.columns import Measured, TableRow, column_of, row_of
from benchmarks.tables.scored_records import ScoredRecord

MODULE = "logistic"  # of the tasks whose records are shown
SETS = {  # in the paper's order
    "in1k": "IN1k",
    "places205": "P205",
    "aircraft": "Airc.",
    "cifar10": "CF10",
    "cifar100": "CF100",
    "cub": "CUB",
    "caltech101": "Cal101",
    "cars": "Cars",
    "dtd": "DTD",
    "flowers": "Flow.",
    "food101": "Food",
    "pets": "Pets",
    "sun397": "SUN",
    "voc07cls": "VOC",
}
SCORE: dict[str, Any] = {"better": 1, "unit": "%", "decimals": 1}
STD: dict[str, Any] = {"better": 0, "unit": "%", "decimals": 1}
COUNT: dict[str, Any] = {"better": 0, "unit": "test images", "decimals": 0, "compared": False}
METRIC = "single_token_score"
OF_RECORD = {"CLS": "score", "mean patch": "score_mean_patch"}  # tokens whose interval and scores the record has
FIRST = 10  # rank of the first column, behind those of artifact reports


def of_sets(cells: Sequence[ScoredRecord], spread: bool) -> list[Measured]:
    """Scores of every kind of token on every set of which there are records.

    Args:
        spread: with the standard deviation over draws (Table 6).
    """
    numbers: list[Measured] = []
    for cell in cells:
        if cell.record.settings.get("module") == MODULE:
            for index, (token, facts) in enumerate(_tokens(cell.record.protocol["single_tokens"])):
                numbers += _of_token(cell, row_of(cell.record, token, index), facts, spread)
    return numbers


def _tokens(scores: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Kinds of tokens in the order of the rows; all registers are one kind, whose score is their mean."""
    for token in ("CLS", "normal", "outlier", "mean patch"):
        if scores.get(token):
            yield token, scores[token]
    registers = [score for token, score in scores.items() if token.startswith("reg_") and score]
    if registers:
        mean = sum(score["score"] for score in registers) / len(registers)
        yield "register (mean)", {**registers[0], "score": mean}


def _of_token(cell: ScoredRecord, row: TableRow, facts: Mapping[str, Any], spread: bool) -> Iterator[Measured]:
    record, images = cell.record, facts["test_images"]
    name = str(record.settings["images"])
    heading, rank = SETS.get(name, name), FIRST + (list(SETS).index(name) if name in SETS else len(SETS))
    own = OF_RECORD.get(row.part, "")
    exact = record.protocol["measure"] == "top-1" and not own
    column = column_of(record, METRIC, heading, (rank, name, 0), **SCORE)
    yield Measured(row, column, facts["score"], cell, trials=images, share=exact, metric=own)
    if spread and facts["std_over_draws"] is not None:
        column = column_of(record, "single_token_score_std", f"{heading} std", (rank, name, 1), **STD)
        yield Measured(row, column, facts["std_over_draws"], cell, trials=images)
    column = column_of(record, "single_token_score_images", f"n {heading}", (rank, name, 2), **COUNT)
    yield Measured(row, column, float(images), cell)
