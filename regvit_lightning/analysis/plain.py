"""Measurements as plain values for a record: quantiles, and values that JSON can hold."""

import math
from typing import Any

from torch import Tensor


def quantiles(values: Tensor, levels: Tensor) -> list[float]:
    """Quantiles of any number of values: `torch.quantile` is limited to 16 million."""
    ordered = values.flatten().sort().values
    indices = (levels.double() * (len(ordered) - 1)).round().long()
    chosen: list[float] = ordered[indices].tolist()
    return chosen


def plain(value: Any) -> Any:
    """Convert to JSON: tuples as lists, six digits, and None for non-finite values, as JSON has no NaN."""
    if isinstance(value, dict):
        return {key: plain(kept) for key, kept in value.items()}
    if isinstance(value, list | tuple):
        return [plain(kept) for kept in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
