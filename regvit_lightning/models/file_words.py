"""Words after the path of a checkpoint that say what its tensors cannot: `moco_v3.pth:heads=12:mean=0.5:std=0.5`."""

import math
import re
from dataclasses import dataclass, fields
from typing import Any

from regvit_lightning.errors import UserError
from regvit_lightning.models import origins, positions

MEANINGS = (
    "heads=<number of attention heads>, mean=<one or three values for images in 0..1>, std=<the same>, "
    "positions=<antialiased|offset|plain>, part=<key or prefix of one of several models in the file>"
)


@dataclass(frozen=True)
class FileWords:
    """What a user says about the weights in a file.

    Attributes:
        heads: attention heads per block; None leaves it to the file.
        mean, std: per channel, for images in 0..1; None leaves them to the file.
        positions: rule for other image sizes, a key of `positions.RULES`, or empty.
        part: key or prefix of the model to read, where the file holds several, or empty.
    """

    heads: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    positions: str = ""
    part: str = ""


def split(name: str) -> tuple[str, FileWords]:
    """Split the name of a file into its path and its words.

    Raises:
        UserError: an unknown word, one that is given twice, or a value out of range.
    """
    match = None if name.endswith(origins.FILES) else origins.WORDS.search(name)
    if match is None:
        return name, FileWords()
    path = name[: match.start()]
    known = [field.name for field in fields(FileWords)]
    values: dict[str, Any] = {}
    for word in match[0].removeprefix(":").split(":"):
        key, _, text = word.partition("=")
        if key not in known or key in values:
            problem = "given twice" if key in values else "unknown"
            raise UserError(f"{path}: the word '{key}' is {problem}; expected {MEANINGS}")
        values[key] = _value(key, text, path)
    return path, FileWords(**values)


def _value(key: str, text: str, path: str) -> Any:
    if key == "heads" and re.fullmatch(r"[1-9][0-9]{0,3}", text):
        return int(text)
    if key == "positions" and text in positions.RULES:
        return text
    if key == "part" and re.fullmatch(r"[A-Za-z0-9_.-]+", text):
        return text
    numbers = _numbers(text) if key in ("mean", "std") else ()
    if numbers and all(math.isfinite(number) and (number > 0 or key == "mean") for number in numbers):
        return numbers
    raise UserError(f"{path}: {key}={text}: expected {MEANINGS}")


def _numbers(text: str) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        return ()
    return values * 3 if len(values) == 1 else values if len(values) == 3 else ()
