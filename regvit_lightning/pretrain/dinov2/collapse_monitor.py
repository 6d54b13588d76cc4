"""Whether a self-supervised run is healthy: kNN, what collapses, and the norms of registers, while it trains."""

import math
import warnings
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning import LightningModule, Trainer
from torch import Tensor
from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method
from torch.nn import functional as F

from regvit_lightning.data.imagenet import ImageFiles
from regvit_lightning.pretrain.knn_callback import HeldOutKnn, knn_top1
from regvit_lightning.rank import effective_rank

RANK_IMAGES = 2048  # RankMe needs no more than a few times the width

# What counts as collapsed. An untrained teacher over 65,536 prototypes has an entropy of 0.96.
UNIFORM = 0.99  # share of the largest possible entropy
ALIKE = 0.999  # mean cosine between images
FEW = 0.01  # share of the prototypes that the images could use


class CollapseWarning(UserWarning):
    """The features of a run say less and less about the image."""


@dataclass(frozen=True)
class Health:
    """What the teacher's features and prototypes look like at one step.

    Attributes:
        knn_top1: of held-out train images, percent.
        teacher_entropy: mean entropy of the teacher's softmax, over log K: 1 is uniform.
        teacher_information: nats that the prototype says about the image; 0 for every kind of collapse.
        prototype_usage: share of the prototypes, or of the images if they are fewer, that are somebody's nearest.
        feature_rank: effective rank of CLS over images (RankMe), 1 to D.
        feature_cosine: mean cosine between CLS of different images.
        norms: mean norm before the final norm of `cls`, `register<k>` and `patches`, and the largest of a patch.
    """

    knn_top1: float
    teacher_entropy: float
    teacher_information: float
    prototype_usage: float
    feature_rank: float
    feature_cosine: float
    norms: dict[str, float] = field(default_factory=dict)

    def scalars(self) -> dict[str, float]:
        """All numbers by the name of their curve."""
        own = {f"monitor/{name}": value for name, value in vars(self).items() if name != "norms"}
        return own | {f"monitor/norm_{name}": value for name, value in self.norms.items()}

    def warnings(self) -> list[str]:
        """What has collapsed, in words; empty for a healthy run."""
        warnings = []
        if self.teacher_entropy > UNIFORM:
            warnings.append(
                f"the teacher gives every prototype the same weight (entropy {self.teacher_entropy:.3f} of the "
                "largest): lower teacher_temperature, or take centring=sinkhorn"
            )
        if self.prototype_usage < FEW:
            warnings.append(
                f"only {self.prototype_usage:.2%} of the prototypes are used: take centring=sinkhorn, or raise "
                "teacher_temperature"
            )
        if self.feature_cosine > ALIKE:
            warnings.append(
                f"CLS is the same for all images (mean cosine {self.feature_cosine:.4f}, effective rank "
                f"{self.feature_rank:.1f}): lower base_lr, or raise koleo_weight or warmup"
            )
        return warnings


class CollapseMonitor(HeldOutKnn):
    """Logs `Health` every so many steps and warns of a collapse.

    Args:
        every, images, batch, workers: as for `HeldOutKnn`.
        quiet_until: step up to which nothing is warned of (the warm-up).

    Attributes:
        health: at the last measurement.
    """

    def __init__(self, every: int, images: int, batch: int, workers: int, quiet_until: int) -> None:
        super().__init__(every, images, batch, workers)
        self.quiet_until = quiet_until
        self.health: Health | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if isinstance(pl_module, FSDPModule):  # gathers the weights for a method that is not `forward`
            register_fsdp_forward_method(pl_module, "look")
        super().on_train_start(trainer, pl_module)

    def measure(self, trainer: Trainer, recipe: Any, files: ImageFiles) -> dict[str, float]:
        values = super().measure(trainer, recipe, files)
        if self.health is not None and trainer.is_global_zero and trainer.global_step > self.quiet_until:
            for text in self.health.warnings():
                warnings.warn(f"step {trainer.global_step}: {text}", CollapseWarning, stacklevel=2)
        return values

    def look(self, recipe: Any, images: Tensor) -> dict[str, Tensor]:
        """One row for each image, but for `shares`: one row (K,), the sum over the images of the teacher's shares."""
        norms, cls, shares = recipe.look(recipe.normalise(images))
        prefix = recipe.backbone.num_prefix_tokens
        single, patches = norms[:, :prefix], norms[:, prefix:]
        return {
            "cls": F.normalize(cls, dim=1),
            "entropy": torch.special.entr(shares).sum(dim=1) / math.log(shares.shape[1]),
            "prototype": shares.argmax(dim=1),
            "shares": shares.mean(dim=0, keepdim=True) * len(shares),
            "norms": torch.cat([single, patches.mean(1, keepdim=True), patches.amax(1, keepdim=True)], dim=1),
        }

    def summary(self, seen: dict[str, Tensor], classes: int) -> dict[str, float]:
        self.health = health(seen, classes)
        return self.health.scalars()


def health(seen: dict[str, Tensor], classes: int) -> Health:
    """Of what `CollapseMonitor.look` kept of all images and their `label`."""
    cls, mean = seen["cls"], seen["shares"].sum(dim=0) / len(seen["cls"])
    some, prototypes = cls[:RANK_IMAGES], len(mean)
    entropy = float(seen["entropy"].mean())
    total = cls.double().sum(dim=0).square().sum()
    names = ["cls", *[f"register{number}" for number in range(seen["norms"].shape[1] - 3)], "patches", "largest_patch"]
    norms = [*seen["norms"][:, :-1].mean(dim=0).tolist(), float(seen["norms"][:, -1].amax())]
    return Health(
        knn_top1=knn_top1(cls, seen["label"], classes),
        teacher_entropy=entropy,
        teacher_information=float(torch.special.entr(mean).sum()) - entropy * math.log(prototypes),
        prototype_usage=len(seen["prototype"].unique()) / min(prototypes, len(cls)),
        feature_rank=float(effective_rank(some[None], some.new_ones(1, len(some), dtype=torch.bool))),
        feature_cosine=float((total - len(cls)) / (len(cls) * (len(cls) - 1))),
        norms=dict(zip(names, norms, strict=True)),
    )
