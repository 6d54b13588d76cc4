"""Schedules as closed forms of the step, so that a resumed run needs no scheduler state."""

import math


def warmup_cosine(step: int, steps: int, warmup: int, base: float, start: float, end: float) -> float:
    """Linear warm-up from `start` to `base` over `warmup` steps, then half a cosine down to `end`.

    Args:
        step: 0 .. steps; the value before update `step`.
        steps: length of the run.
        warmup: 0 .. steps.

    Returns:
        `start` at step 0, `base` at step `warmup`, `end` at step `steps`.
    """
    if step < warmup:
        return start + (base - start) * step / warmup
    progress = min((step - warmup) / max(steps - warmup, 1), 1.0)
    return end + (base - end) * 0.5 * (1 + math.cos(math.pi * progress))
