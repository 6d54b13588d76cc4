"""Verdict on a difference, in words and as a sign, the same in tables, on the page and in comments."""

import math

from regvit_lightning.statistics import Comparison

BETTER, WORSE, NOISE, UNKNOWN = "better", "worse", "within noise", "no interval"
ONE_SEED = " beyond image noise, one seed"
BETTER_ONE_SEED, WORSE_ONE_SEED = BETTER + ONE_SEED, WORSE + ONE_SEED
CHANGED, CHANGED_ONE_SEED = "changed beyond noise", "changed" + ONE_SEED  # where neither direction is better

SIGNS = {BETTER: "▲", WORSE: "▼", NOISE: "≈", BETTER_ONE_SEED: "△", WORSE_ONE_SEED: "▽"}
MEANINGS = {
    "▲": "better, ▼ worse, by more than the noise of images and seeds",
    "△": "better, ▽ worse, by more than the noise of images alone: with one seed a side it may be luck of the training",
    "≈": "within the noise of images, and of seeds where both sides have several",
}


def verdict(change: Comparison, better: int) -> str:
    """Verdict on a difference, new minus old.

    Args:
        change: the difference; one that is not a number is worse.
        better: +1 if higher is better, -1 if lower is, 0 if neither.
    """
    if not math.isfinite(change.value):
        return WORSE
    if change.interval is None:
        return UNKNOWN
    if not change.beyond_noise:
        return NOISE
    if not better:
        return CHANGED if change.over_seeds else CHANGED_ONE_SEED
    if change.value * better > 0:
        return BETTER if change.over_seeds else BETTER_ONE_SEED
    return WORSE if change.over_seeds else WORSE_ONE_SEED


def sign(change: Comparison, better: int) -> str:
    """Sign of the verdict; empty without an interval, and where neither direction is better."""
    return SIGNS.get(verdict(change, better), "") if better else ""


def meanings(signs: str) -> list[str]:
    """Meaning of each kind of sign that occurs in `signs`, one line for each."""
    kinds = {"▼": "▲", "▽": "△"}
    shown = {kinds.get(each, each) for each in signs}
    return [f"{each} {words}" for each, words in MEANINGS.items() if each in shown]
