"""The three questions that a report on artifacts answers: high norms? sinks, of which kind? are patches local?

They are separate: registers take away high norms and can leave sinks and patches that hold the image instead of their
own content (arXiv 2606.08105, 2602.22394). Each has an answer in a word or two, a sentence, and its effect sizes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from regvit_lightning.analysis import verdict
from regvit_lightning.analysis.locality import Locality
from regvit_lightning.analysis.outliers import Rules
from regvit_lightning.analysis.sinks import Sinks
from regvit_lightning.analysis.verdict import HighNorms
from regvit_lightning.statistics import bootstrap

LOCAL = 0.5  # least share of the variance that patches have to themselves; a choice of this suite
LEAST_IMAGES = 10  # of N images, pure noise gives 1 / N of the variance to the position, and all of it with one image


@dataclass(frozen=True)
class Answer:
    """The answer to one question about a model.

    Attributes:
        question: the question.
        answer: the answer in a word or two: `yes`, `no`, `high`, `NOP`, `few`, …
        words: the answer in a sentence, with its effect sizes.
        effect: effect sizes by name.
    """

    question: str
    answer: str
    words: str
    effect: dict[str, float]


def norms(high: Sequence[HighNorms], low: Sequence[HighNorms], words: str) -> Answer:
    """Whether patches have high norms, or low ones as in CLIP, apart from the others.

    Args:
        high, low: `verdict.high_norms` and `verdict.low_norms` of the model.
        words: `verdict.verdict` of the model.
    """
    kinds = [name for name, blocks in (("high", high), ("low", low)) if verdict.runs(blocks)]
    if "low" in kinds:
        blocks = [block for block, one in enumerate(low, 1) if one.artifacts]
        block = max(blocks, key=lambda block: low[block - 1].share)
        most, too = low[block - 1], ", too" if "high" in kinds else ""
        words += f" Low norms lie apart{too}: after block {block} {most.share:.2%} of patches, in {most.images} images,"
        words += f" down to median / {most.max_over_median:.3g}."
    effect = {
        "max_over_median": max(one.max_over_median for one in high),
        "share": max(one.share for one in high),
        "median_over_min": max(one.max_over_median for one in low),
        "low_share": max(one.share for one in low),
    }
    return Answer("norms apart from the others?", " and ".join(kinds) or "no", words, effect)


class MeasuredSinks(Protocol):
    """Sinks of some images, None where they are not measured, and then the reason, as `SinkPass` has them."""

    @property
    def sinks(self) -> Sinks | None: ...
    @property
    def why_not(self) -> str: ...


def sinks(measured: MeasuredSinks, registers: int, cls: bool, rules: Rules, seed: int) -> Answer:
    """Whether heads have sinks, and of which kind: a kind is named if `Rules.least_images` of the images have one.

    The answer is `few` where there are sinks, but none of a kind in that many images, and `none` without any.

    Args:
        measured: sinks of some of the images.
        registers, cls: number of registers, and whether there is a CLS token, which say what a sink stands on.
        rules: constants of the outlier rules.
        seed: seed of the bootstrap over images.
    """
    question, found = "attention sinks, of which kind?", measured.sinks
    if found is None:
        return Answer(question, "not measured", f"Sinks are not measured: {measured.why_not}.", {})
    counts = found.per_image()
    kinds = {"NOP": counts["nop_sinks"], "broadcast": counts["broadcast_sinks"], "other": counts["other_sinks"]}
    named = [name for name, count in kinds.items() if (count > 0).double().mean() >= rules.least_images]
    parts = [f"{name} {_with_interval(count, seed)}" for name, count in kinds.items()]
    images, depth, heads = found.token.shape
    sentence = f"Sinks per image (n = {images} images, {depth * heads} heads): {', '.join(parts)}"
    if found.events.any():
        sentence += f"; {_blocks(found)}; on {_on(found, registers, cls)}"
    effect = {name: float(count.mean()) for name, count in counts.items()}
    nothing = "few" if found.events.any() else "none"
    return Answer(question, " and ".join(named) or nothing, f"{sentence}.", effect)


def locality(measured: Locality) -> Answer:
    """Whether patches after the final norm are local: whether half of their variance, or more, is their own."""
    question, shares = "are patches local?", {name: float(share[-1]) for name, share in measured.shares().items()}
    if math.isnan(shares["patch"]):
        return Answer(question, "not measured", "Locality is not measured: the patches of all images are equal.", {})
    if (images := len(measured.mean_cosine)) < LEAST_IMAGES:
        why = f"shares of the variance need {LEAST_IMAGES} images, here {images}"
        return Answer(question, "not measured", f"Locality is not measured: {why}.", {})
    own, image, position = (f"{shares[name]:.0%}" for name in ("patch", "image", "position"))
    local, cosine = shares["patch"] >= LOCAL, float(measured.mean_cosine[:, -1].mean())
    sentence = f"Patches are {'' if local else 'not '}local: after the final norm {own} of their variance is their own"
    sentence += f" (local: {LOCAL:.0%} or more), {image} that of the image, {position} that of the position"
    sentence += f"; cosine to the image mean {cosine:.2f}"
    effect = {f"{name}_share": share for name, share in shares.items()} | {"mean_cosine": cosine}
    if measured.cls_cosine is not None:
        effect["cls_cosine"] = float(measured.cls_cosine[:, -1].mean())
        sentence += f", to CLS {effect['cls_cosine']:.2f}"
    return Answer(question, "yes" if local else "no", f"{sentence}.", effect)


def _with_interval(counts: Tensor, seed: int) -> str:
    low, high = bootstrap(counts, seed)
    return f"{counts.mean():.2f} [{low:.2f}, {high:.2f}]" if counts.any() else "0"


def _blocks(found: Sinks) -> str:
    """Where most of the sink events are: `most in block 3`."""
    by_block = found.events.sum(dim=(0, 2))
    return f"most in block {int(by_block.argmax()) + 1} of {len(by_block)}"


def _on(found: Sinks, registers: int, cls: bool) -> str:
    """Shares of the sink events on CLS, registers and patches: `CLS 20 %, patches 80 %`."""
    shares = found.on(registers, cls)
    return ", ".join(f"{name} {share:.0%}" for name, share in shares.items() if share > 0)
