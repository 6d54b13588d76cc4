"""The two sides of a comparison: two states of the results, or two models of them."""

from dataclasses import replace
from pathlib import Path

from benchmarks.tables.scored_records import ScoredRecords, read_scored_records
from regvit_lightning.settings import SettingsError, check, nearest


def of_states(results: Path, data: str, base: str, head: str) -> tuple[ScoredRecords, ScoredRecords]:
    """Two states of the results; an old one without records has none, so that all of the new one's are new.

    Raises:
        UserError: a folder or revision does not exist, or the new side has no record.
    """
    return read_scored_records(results, data, base, required=False), read_scored_records(results, data, head)


def of_models(results: Path, data: str, base: str, head: str, models: str) -> tuple[ScoredRecords, ScoredRecords]:
    """Records of two models, `a,b`, under the name of the second; the first from `base`, or from `head` if it is empty.

    Raises:
        UserError: a folder or revision does not exist or has no record of that model, or not two models are named.
    """
    names = models.split(",")
    check(len(names) == 2 and all(names) and names[0] != names[1], f"models={models}: expected two models, a,b")
    sides = [read_scored_records(results, data, side) for side in (base or head, head)]
    first, second = (_of_model(side, name, names[1]) for side, name in zip(sides, names, strict=True))
    return first, second


def _of_model(side: ScoredRecords, model: str, renamed: str) -> ScoredRecords:
    """Records of one model, called `renamed`."""
    known = {record.model for record in side.records}
    if model not in known:
        raise SettingsError(f"no record of model '{model}' in {side.name}; {nearest(model, known)}")
    cells = [
        replace(cell, record=replace(cell.record, model=renamed)) for cell in side.cells if cell.record.model == model
    ]
    return ScoredRecords(f"{model} of {side.name}", cells, side.skipped, side.known)
