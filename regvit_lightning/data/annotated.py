"""What is known of each test image of a data set: its classes and its properties, in one small file beside the results.

Scores of single images are kept with the records; with this file they can be told apart by class, object size or
clutter where the images themselves are no longer there.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from regvit_lightning.data.layout import DataError
from regvit_lightning.errors import one_line
from regvit_lightning.runtime import atomic
from regvit_lightning.values import patterns, strict_json

SCHEMA = 1
FOLDER = "annotations"  # below results/<data>/
SUFFIX = ".json"
OF_TEST = ("test", "all", "rendered")  # digests that say which test images these are
PATTERN = {
    "schema": int,
    "section": str,
    "digests": {str: str},
    "classes": [str],
    "labels": [[int]],
    "properties": [{"name": str, "unit": str, "about": str, "values": [(None, float, str)]}],
}
AGAIN = "remove it and make it again with: make annotate DATA=<name>"


@dataclass(frozen=True)
class Property:
    """A property of images.

    Attributes:
        name: such as `object size`.
        unit: unit of a number, or empty.
        about: what it is and where it comes from, in a line.
        values: one for each image: numbers, or names of kinds; None for an image of which it is not known.
    """

    name: str
    unit: str
    about: str
    values: Sequence[float | str | None]

    @property
    def is_number(self) -> bool:
        """Whether the values are numbers, not names of kinds."""
        return all(isinstance(value, int | float) for value in self.values if value is not None)


@dataclass(frozen=True)
class Annotated:
    """Classes and properties of the test images of a data set, in the order of its list.

    Attributes:
        section: name of the data set, see `DataSettings.section`.
        digests: digests of the splits with these images, see `data/digest.py`.
        labels: indices into `classes` of each image: one for a set of classes, any number for a set with boxes.
        classes: names; empty where images have no classes.
        properties: each with one value for each image.
    """

    section: str
    digests: Mapping[str, str]
    labels: Sequence[Sequence[int]]
    classes: Sequence[str] = ()
    properties: Sequence[Property] = field(default_factory=tuple)

    def __len__(self) -> int:
        return len(self.labels)

    def save(self, folder: Path) -> Path:
        """Write `<folder>/<section>.json`, one property a line, and return its path; the same content gives the same
        bytes.
        """
        lines = [f'"schema": {SCHEMA}', f'"section": {_text(self.section)}', f'"digests": {_text(self.digests)}']
        lines += [f'"classes": {_text(self.classes)}', f'"labels": {_text(self.labels)}']
        properties = ",\n  ".join(_text(vars(one)) for one in self.properties)
        lines.append(f'"properties": [\n  {properties}\n ]' if self.properties else '"properties": []')
        file = folder / f"{self.section}{SUFFIX}"
        atomic.write_text(file, "{\n " + ",\n ".join(lines) + "\n}\n")
        return file


def _text(value: Any) -> str:
    """JSON without blanks, numbers of four digits."""
    return json.dumps(strict_json.cleaned(_short(value)), separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _short(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _short(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_short(one) for one in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def path(results: Path, data: str, section: str) -> Path:
    """Path of the file of a data set below the folder of the results."""
    return results / data / FOLDER / f"{section}{SUFFIX}"


def read_folder(folder: Path) -> tuple[dict[str, Annotated], list[str]]:
    """The files of a folder by the name of their data set, and one line for each that cannot be read."""
    known, skipped = {}, []
    for file in sorted(folder.glob(f"*{SUFFIX}")) if folder.is_dir() else []:
        try:
            annotated = parse(file.read_bytes(), str(file))
            known[annotated.section] = annotated
        except (OSError, DataError) as error:
            skipped.append(f"{file}: {one_line(error)}; {AGAIN}" if isinstance(error, OSError) else str(error))
    return known, skipped


def parse(content: bytes, where: str) -> Annotated:
    """Parse the content of a file written by `Annotated.save`.

    Raises:
        DataError: in one line, if it is none, or its parts do not fit together.
    """
    try:
        values = strict_json.parse(content)
    except ValueError as error:
        raise DataError(f"{where}: not readable as annotations ({one_line(error)}); {AGAIN}") from None
    wrong = patterns.mismatch(values, PATTERN) or _unfit(values)
    if wrong:
        raise DataError(f"{where}: {wrong[:200]}; {AGAIN}")
    properties = [Property(one["name"], one["unit"], one["about"], one["values"]) for one in values["properties"]]
    return Annotated(values["section"], values["digests"], values["labels"], values["classes"], properties)


def _unfit(values: Mapping[str, Any]) -> str:
    """What does not fit together in values of the right types, or ''."""
    if values["schema"] != SCHEMA:
        return f"of schema {values['schema']}, expected {SCHEMA}"
    if values["section"] != os.path.basename(values["section"]) or not values["section"]:
        return "section: expected the name of a data set"
    images, classes = len(values["labels"]), len(values["classes"])
    if any(not 0 <= label < classes for labels in values["labels"] for label in labels):
        return f"labels: expected indices of the {classes} classes"
    other = next((one["name"] for one in values["properties"] if len(one["values"]) != images), None)
    return "" if other is None else f"property {other}: expected a value for each of the {images:,} images"
