"""Schedules as closed forms of the step, so that a resumed run needs no scheduler state."""

import math


def cosine(step: int, steps: int, start: float, end: float = 0.0) -> float:
    """Half a cosine from `start` at step 0 to `end` at step `steps` and later."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(step / max(steps, 1), 1.0)))


def warmup_cosine(step: int, steps: int, warmup: int, base: float, start: float, end: float) -> float:
    """Linear warm-up from `start` to `base` over `warmup` steps, then `cosine` down to `end`.

    Args:
        step: 0 .. steps; the value before update `step`.
        steps: length of the run.
        warmup: 0 .. steps.

    Returns:
        `start` at step 0, `base` at step `warmup`, `end` at step `steps`.
    """
    if step < warmup:
        return start + (base - start) * step / warmup
    return cosine(step - warmup, steps - warmup, base, end)
