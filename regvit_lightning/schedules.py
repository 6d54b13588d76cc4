"""Schedules as closed forms of the step, so that a resumed run needs no scheduler state."""

import math


def cosine(step: int, steps: int, start: float, end: float = 0.0) -> float:
    """Half-cosine schedule from `start` at step 0 to `end` at step `steps` and later."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(step / max(steps, 1), 1.0)))


def linear(step: int, steps: int, start: float, end: float) -> float:
    """Linear schedule from `start` at step 0 to `end` at step `steps` and later."""
    return start + (end - start) * min(step / max(steps, 1), 1.0)


def warmup_then_cosine(step: int, steps: int, warmup: int, base: float, start: float, end: float) -> float:
    """Linear warm-up over `warmup` steps, then a whole `cosine` over the others: the schedule of DINOv2's code.

    Args:
        step: 0 .. steps; the value applies to update `step`.
        steps: length of the run.
        warmup: 0 .. steps.
        base, start, end: value after the warm-up, at step 0, and at step `steps`.

    Returns:
        `start` at step 0 of a warm-up, `base` at its last step, `warmup` - 1, and again at step `warmup`.
    """
    if step < warmup:
        return linear(step, warmup - 1, start, base)
    return cosine(step - warmup, steps - warmup, base, end)


def cosine_after_warmup(step: int, steps: int, warmup: int, base: float, start: float, end: float) -> float:
    """Linear warm-up, then the rest of a `cosine` that began at step 0: timm's schedule, which DeiT uses.

    The arguments are those of `warmup_then_cosine`. At step `warmup` the cosine has already left `base`.
    """
    return linear(step, warmup, start, base) if step < warmup else cosine(step, steps, base, end)


def linear_warmup(step: int, warmup: int, start: float) -> float:
    """Warm-up factor of a schedule: linear from `start` at step 0 to 1 at step `warmup` and later.

    mmcv's linear warm-up, which multiplies the underlying schedule.
    """
    return 1 - max(1 - step / max(warmup, 1), 0.0) * (1 - start)


def polynomial(step: int, steps: int, power: float) -> float:
    """Polynomial decay factor from 1 at step 0 to 0 at step `steps` and later."""
    return (1 - min(step / max(steps, 1), 1.0)) ** power


def one_cycle(step: int, steps: int, outer: float, inner: float, turn: float = 0.3) -> float:
    """Half-cosine from `outer` at step 0 to `inner` at step `turn` × steps - 1, then back by step steps - 1.

    The momentum of torch's OneCycleLR (Smith and Topin 2017, arXiv 1708.07120) and of mmcv's hook of that name.
    """
    middle, last = turn * steps - 1, steps - 1
    start, end = (outer, inner) if step <= middle else (inner, outer)
    share = step / middle if step <= middle else (step - middle) / (last - middle)
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))
