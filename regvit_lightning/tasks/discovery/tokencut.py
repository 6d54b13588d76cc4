"""Object discovery by TokenCut: images, features and metric as for LOST, with the box from a normalised cut.

Source: Wang et al. 2022 (arXiv 2202.11539). The algorithm is in normalised_cut.py, the shared protocol in
protocol.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from regvit_lightning.data.layout import DataSettings
from regvit_lightning.frozen.contract import Metric, Outcome, RunOptions
from regvit_lightning.models.backbone import Backbone
from regvit_lightning.settings import number
from regvit_lightning.tasks.discovery import protocol
from regvit_lightning.tasks.discovery.normalised_cut import cut
from regvit_lightning.tasks.discovery.protocol import DiscoveredBoxes, SingleSourceSettings, Source, Steps

METRICS = {"corloc": Metric()}
READS = "discovery"
work = protocol.work
FOOTNOTE = ("feature", "block", "threshold", "weak")
FALLBACK = "the whole image, where all pairs of patches are joined or none is"


@dataclass
class TokenCutSettings(SingleSourceSettings):
    """Settings of TokenCut.

    Attributes:
        threshold: patches with a cosine similarity above it are joined.
        weak: weight of all other edges.
    """

    threshold: float = number("(-1, 1)")
    weak: float = number("(0, 1)")


SETTINGS = TokenCutSettings


class TokenCut:
    """TokenCut with one setting.

    Args:
        source: block and feature.
        threshold, weak: see `normalised_cut.cut`.
    """

    uniform = "uniform_graph_share"

    def __init__(self, source: Source, threshold: float, weak: float) -> None:
        self.sources: Sequence[Source] = [source]
        self.threshold, self.weak = threshold, weak

    def __call__(self, features: Sequence[Tensor]) -> DiscoveredBoxes:
        one = cut(features[0], self.threshold, self.weak)
        uniform = one.uniform[:, None]
        return DiscoveredBoxes(one.boxes[:, None], fallback=uniform, uniform=uniform, tied=torch.zeros_like(uniform))

    def remark(self, count: int, images: int) -> str:
        """Line for a run in which `count` of the images have a uniform graph."""
        return (
            f"in {count} of {images} images all patches are more similar than threshold={self.threshold:g}, or none "
            "are: nothing can be cut and the box is the whole image. Take another feature (feature=q, k or v) or "
            "another threshold"
        )

    def steps(self, features: Sequence[Tensor]) -> Steps:
        """Steps to the box: the eigenvector, and the part that contains the seed."""
        cut_out = cut(features[0], self.threshold, self.weak)
        maps = {"eigenvector": cut_out.eigenvectors[0], "object": cut_out.objects[0].float()}
        return Steps(cut_out.boxes[0], int(cut_out.seeds[0]), maps)


def run(backbone: Backbone, data: DataSettings, settings: TokenCutSettings, how: RunOptions = RunOptions()) -> Outcome:  # noqa: B008
    """CorLoc of one box per image, with boxes that ignore the image as floors.

    Raises:
        DataError: the images are missing, an annotation does not fit, or an image is smaller than a patch.
        SettingsError: the model has no such block.
    """
    block, feature = settings.source(backbone)
    method = TokenCut((block, feature), settings.threshold, settings.weak)
    facts = {"method": "TokenCut", "feature": feature, "block": block, "centred": False, "l2": True}
    graph = {"threshold": settings.threshold, "weak": settings.weak, "fallback": FALLBACK}
    return protocol.run(backbone, data, settings, method, {**facts, **graph}, how)
