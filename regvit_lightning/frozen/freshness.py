"""Whether a record still answers for its cell: the one place that evaluate, the grid and its status ask."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regvit_lightning import records, settings
from regvit_lightning.data.layout import DataSettings
from regvit_lightning.errors import UserError

PRECISION_OF_ANY = "32-true"  # stands for `auto` where the hardware is not to be asked: that would take memory of a GPU


@dataclass(frozen=True)
class ExpectedRecord:
    """What a record must say, but for the weights.

    Attributes:
        settings: resolved settings of the task.
        layout: what decides which images are read and what their labels mean.
        data_root: folder of the data, where nothing else says which images they are.
        any_precision: the precision is left to the hardware, so that a record of either holds on all machines.
    """

    settings: dict[str, Any]
    layout: dict[str, Any]
    data_root: str
    any_precision: bool


def expected(task: Any, chosen: Any, data: DataSettings, any_precision: bool) -> ExpectedRecord:
    """What the record of a task (module and settings) on `data` must say."""
    data_root = "" if data.rendered or data.counts else data.root
    return ExpectedRecord(settings.resolved(chosen), data.section(task.READS), data_root, any_precision)


def any_precision(group: str, name: str, variant: str = "", words: Sequence[str] = ()) -> bool:
    """Whether a recipe or a task says `precision: auto`, before anything asks the hardware."""
    said = [settings.read_yaml(file).get("precision") for file in settings.find(group, name, variant)]
    said.append(settings.read_words(words).get("precision"))
    return [value for value in said if value is not None][-1:] == ["auto"]


def module_and_settings(group: str, name: str, variant: str = "") -> tuple[Any, Any, bool]:
    """Module and settings of a recipe or a task without asking the hardware, and whether any precision is right."""
    free = any_precision(group, name, variant)
    return *settings.load_settings(group, name, variant, [f"precision={PRECISION_OF_ANY}"] if free else []), free


def stale(file: Path, now: ExpectedRecord, weights: Callable[[], str]) -> str:
    """Why the record in `file` does not answer for the cell as it is now, or '' when it does.

    Args:
        file: of the record; one that is no record of this schema never answers.
        now: what it must say.
        weights: gives the fingerprint of the model; asked only where all else holds.

    Raises:
        UserError: of `weights`.
    """
    try:
        record = records.read_record(file)
    except UserError as error:
        return str(error)
    wanted = dict(now.settings)
    if now.any_precision:
        wanted["precision"] = record.settings.get("precision")
    place = now.layout, now.data_root
    return records.stale(record, wanted, record.weights, *place) or records.stale(record, wanted, weights(), *place)
