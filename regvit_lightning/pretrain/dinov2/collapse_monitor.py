"""Monitoring of self-supervised training: kNN accuracy, signs of collapse, and token norms including registers."""

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

RANK_IMAGES = 2048  # RankMe needs no more than a few times the feature dimension

# Thresholds for collapse. An untrained teacher over 65,536 prototypes has a relative entropy of 0.96.
UNIFORM = 0.99  # entropy, as a share of its maximum
ALIKE = 0.999  # mean cosine similarity between images
FEW = 0.01  # used prototypes, as a share of those that the images could use


class CollapseWarning(UserWarning):
    """Warning that the features of a run are collapsing."""


@dataclass(frozen=True)
class Health:
    """Collapse metrics of the teacher's features and prototypes at one step.

    Attributes:
        knn_top1: kNN accuracy on held-out train images, percent.
        teacher_entropy: mean entropy of the teacher's softmax, divided by log K: 1 is uniform.
        teacher_information: mutual information between prototype and image in nats; 0 for every kind of collapse.
        prototype_usage: number of prototypes that are the argmax of some image, as a share of the prototypes, or of
            the images if they are fewer.
        feature_rank: effective rank of CLS over images (RankMe), 1 to D.
        feature_cosine: mean cosine similarity between CLS of different images.
        norms: mean token norms of `cls`, `register<k>` and `patches` before the final norm, and the largest patch norm.
    """

    knn_top1: float
    teacher_entropy: float
    teacher_information: float
    prototype_usage: float
    feature_rank: float
    feature_cosine: float
    norms: dict[str, float] = field(default_factory=dict)

    def scalars(self) -> dict[str, float]:
        """All metrics by their logged name."""
        own = {f"monitor/{name}": value for name, value in vars(self).items() if name != "norms"}
        return own | {f"monitor/norm_{name}": value for name, value in self.norms.items()}

    def warnings(self) -> list[str]:
        """One message for each sign of collapse; empty for a healthy run."""
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
    """Logs `Health` every `every` steps and warns of collapse.

    Args:
        every, images, batch, workers: as for `HeldOutKnn`.
        quiet_until: step up to which no warnings are issued (the warm-up).

    Attributes:
        health: result of the last measurement.
    """

    def __init__(self, every: int, images: int, batch: int, workers: int, quiet_until: int) -> None:
        super().__init__(every, images, batch, workers)
        self.quiet_until = quiet_until
        self.health: Health | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if isinstance(pl_module, FSDPModule):  # gather the weights for a method other than `forward`
            register_fsdp_forward_method(pl_module, "look")
        super().on_train_start(trainer, pl_module)

    def measure(self, trainer: Trainer, recipe: Any, files: ImageFiles) -> dict[str, float]:
        values = super().measure(trainer, recipe, files)
        if self.health is not None and trainer.is_global_zero and trainer.global_step > self.quiet_until:
            for text in self.health.warnings():
                warnings.warn(f"step {trainer.global_step}: {text}", CollapseWarning, stacklevel=2)
        return values

    def look(self, recipe: Any, images: Tensor) -> dict[str, Tensor]:
        """Outputs with one row per image, except `shares`: one row (K,), the teacher softmax summed over the images."""
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
    """Collapse metrics from the outputs of `CollapseMonitor.look` for all images and their `label`."""
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
