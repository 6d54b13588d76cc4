"""Check that nothing which is not finite leaves an evaluation: JSON has no NaN, and a NaN hides a failure."""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch

from regvit_lightning.errors import UserError
from regvit_lightning.frozen.contract import Outcome

ADVICE = "nothing is recorded; check the model's weights and the labels of the test images"


def require_finite(task: str, needed: Iterable[str], outcome: Outcome) -> None:
    """Raise unless all numbers of an outcome are finite and all metrics are there.

    A value that does not exist is absent or None (the IoU of a class that occurs nowhere); a per-image score is NaN for
    an image without a score, and never infinite.

    Args:
        task: name of the task, for the message.
        needed: names of the metrics that tables show.

    Raises:
        UserError: the first number that is not finite, or the metric that is missing, by name.
    """
    missing = [name for name in needed if name not in outcome.metrics]
    if missing:
        raise UserError(f"{task}: {missing[0]} could not be measured; {ADVICE}")
    for part in ("metrics", "intervals", "floors", "per_class", "protocol"):
        for where, number in _numbers(getattr(outcome, part)):
            if not math.isfinite(number):
                kind = "" if part == "metrics" else f" ({part.replace('_', ' ')})"
                raise UserError(f"{task}: {where}{kind} is {number}, not a finite number; {ADVICE}")
    for name, scores in outcome.scores.items():
        if torch.isinf(scores).any():
            raise UserError(f"{task}: {name} of an image is infinite; {ADVICE}")


def _numbers(value: Any, where: str = "") -> Iterator[tuple[str, float]]:
    """Every number of nested mappings and sequences, with the keys that lead to it."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _numbers(inner, f"{where}.{key}" if where else str(key))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _numbers(inner, where)
    elif isinstance(value, int | float):
        yield where, float(value)
