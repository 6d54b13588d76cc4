"""The three questions on a few images of any size, as `look` asks them: effect sizes of these images.

They describe the images shown and are no verdict on the model, which takes the many images of an artifact report.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from regvit_lightning.analysis import norms, questions, sinks, verdict
from regvit_lightning.analysis.locality import LocalitySums
from regvit_lightning.analysis.outliers import Rules
from regvit_lightning.analysis.questions import Answer
from regvit_lightning.analysis.sinks import Sinks
from regvit_lightning.analysis.verdict import HighNorms
from regvit_lightning.errors import UserError
from regvit_lightning.models.backbone import Backbone

MOST_TOKENS = 2500  # of an image: beyond it, the attention of one block takes more than 25 MB a head


@dataclass(frozen=True)
class SinksOfImages:
    """Sinks of some images, or the reason why they are not measured."""

    sinks: Sinks | None
    why_not: str


@torch.no_grad()
def answers(backbone: Backbone, images: Iterable[Tensor], rules: Rules) -> list[Answer]:
    """Answers to the three questions for normalised images (1, 3, H, W), which may differ in size.

    High norms are relative to the median of their own image. Whether patches are local is not answered: a few images
    do not tell whose the variance is; the cosine of the patches to the mean patch of their image stands in its place.

    Args:
        backbone: a plain ViT.
        images: at least one.
        rules: constants of the outlier rules.

    Raises:
        UserError: norms that are not finite.
    """
    high: list[list[HighNorms]] = []
    cosines: list[float] = []
    parts: list[Sinks] = []
    why_not = ""
    for image in images:
        locality = LocalitySums()
        high.append(verdict.high_norms(norms.measure(backbone, image, locality.add), rules))
        cosines.append(float(locality.locality().mean_cosine[0, -1]))
        if not why_not:
            why_not = _add_sinks(backbone, image, parts)
    found = SinksOfImages(None if why_not else sinks.join(parts), why_not)
    cosine = sum(cosines) / len(cosines)
    local = f"The cosine of the patches to the mean patch of their image is {cosine:.2f}."
    return [
        _norms(high, rules),
        questions.sinks(found, backbone.num_registers, backbone.has_cls, rules, 0),
        Answer("are patches local?", "not judged", local, {"mean_cosine": cosine}),
    ]


def _add_sinks(backbone: Backbone, image: Tensor, parts: list[Sinks]) -> str:
    """Measure the sinks of one image; returns why not, or nothing."""
    height, width = image.shape[-2:]
    patches = (height // backbone.patch_size) * (width // backbone.patch_size)
    if patches > MOST_TOKENS:
        return f"an image has {patches:,} patches, more than {MOST_TOKENS:,}"
    try:
        parts.append(sinks.measure(backbone, image))
    except UserError as error:
        return str(error)
    return ""


def _norms(high: list[list[HighNorms]], rules: Rules) -> Answer:
    """Whether any of the images has high-norm artifacts, and its largest norm over the median."""
    having = sum(any(one.artifacts for one in blocks) for blocks in high)
    largest, block = max((one.max_over_median, block) for blocks in high for block, one in enumerate(blocks, 1))
    words = (
        f"{having} of {len(high)} images {'has' if having == 1 else 'have'} norms high above the others; the largest"
    )
    words += f" is {largest:.3g} × the median of its image, after block {block}."
    effect = {"max_over_median": largest}
    return Answer("norms apart from the others?", "high" if having else "no", words, effect)
