"""Whether a self-supervised run is healthy, seen while it trains: kNN, what collapses, and the norms of registers.

Every so many steps the teacher looks at the same train images. A fifth of them is held out and classified by its
neighbours among the rest, as kNN does afterwards; labels are used for nothing else.
"""

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method
from torch.nn import functional as F
from torch.utils.data import DataLoader

from regvit_lightning.data.imagenet import ImageFiles, Ordered
from regvit_lightning.data.transforms import centre_crop
from regvit_lightning.neighbours import search, votes
from regvit_lightning.rank import effective_rank
from regvit_lightning.runtime import seeds
from regvit_lightning.settings import check

HELD_OUT = 5  # one image of so many
NEIGHBOURS, TEMPERATURE = 10, 0.07  # of kNN
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
        found = []
        if self.teacher_entropy > UNIFORM:
            found.append(
                f"the teacher gives every prototype the same weight (entropy {self.teacher_entropy:.3f} of the "
                "largest): lower teacher_temperature, or take centring=sinkhorn"
            )
        if self.prototype_usage < FEW:
            found.append(
                f"only {self.prototype_usage:.2%} of the prototypes are used: take centring=sinkhorn, or raise "
                "teacher_temperature"
            )
        if self.feature_cosine > ALIKE:
            found.append(
                f"CLS is the same for all images (mean cosine {self.feature_cosine:.4f}, effective rank "
                f"{self.feature_rank:.1f}): lower base_lr, or raise koleo_weight or warmup"
            )
        return found


class CollapseMonitor(Callback):
    """Logs `Health` every so many steps and warns of a collapse.

    All devices take part, each with its share of the images. Nothing is drawn from the generators of the training.

    Args:
        every: steps between looks; the first and the last step are looked at too.
        images: at most so many train images.
        quiet_until: step before which nothing is warned of (the warm-up).
        batch: images at once.
        workers: decoding processes.

    Attributes:
        health: at the last look.
    """

    def __init__(self, every: int, images: int, quiet_until: int, batch: int, workers: int) -> None:
        check(images >= 2 * HELD_OUT, f"monitor_images={images}: kNN on held-out images needs at least {2 * HELD_OUT}")
        self.every, self.images, self.quiet_until = every, images, quiet_until
        self.batch, self.workers = batch, workers
        self.health: Health | None = None
        self.looked = -1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if isinstance(pl_module, FSDPModule):  # gathers the weights for a method that is not `forward`
            register_fsdp_forward_method(pl_module, "look")
        if trainer.global_step == 0:
            self._look(trainer, pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        step = trainer.global_step
        # A step has several batches where gradients are accumulated.
        if step > self.looked and step > 0 and (step % self.every == 0 or step == trainer.max_steps):
            self._look(trainer, pl_module)

    def _look(self, trainer: Trainer, recipe: Any) -> None:
        self.looked = trainer.global_step
        self.health = health = self.measure(trainer, recipe)
        if trainer.logger is not None:
            trainer.logger.log_metrics(health.scalars(), trainer.global_step)
        if trainer.is_global_zero and trainer.global_step > self.quiet_until:
            for text in health.warnings():
                warnings.warn(f"step {trainer.global_step}: {text}", CollapseWarning, stacklevel=2)

    def measure(self, trainer: Trainer, recipe: Any) -> Health:
        """Look at the teacher of `recipe` now."""
        files: ImageFiles = trainer.datamodule.train.files  # type: ignore[attr-defined]
        order = torch.randperm(len(files), generator=seeds.generator(recipe.seed, "monitor"))[: self.images]
        places = order[: len(order) // trainer.world_size * trainer.world_size]
        mine = files.subset(places[trainer.global_rank :: trainer.world_size].tolist())
        eager = torch.compiler.set_stance("force_eager")  # compiled blocks would be compiled anew for these shapes
        with torch.no_grad(), trainer.precision_plugin.forward_context(), eager:
            parts = [_describe(recipe, images, labels) for images, labels in self._batches(mine, recipe)]
        seen = {name: torch.cat([part[name] for part in parts]) for name in parts[0] if name != "mean"}
        mean = torch.stack([part["mean"] * len(part["label"]) for part in parts]).sum(dim=0) / len(mine)
        if trainer.world_size > 1:  # in the order of one device
            seen = {name: recipe.all_gather(value).transpose(0, 1).flatten(0, 1) for name, value in seen.items()}
            mean = recipe.all_gather(mean).mean(dim=0)
        return _health(seen, mean, len(files.classes))

    def _batches(self, files: ImageFiles, recipe: Any) -> Iterator[tuple[Tensor, Tensor]]:
        size = recipe.settings.image_size
        view = centre_crop(round(size * 256 / 224), size)
        # The generator of its own keeps the loader from drawing a number from that of the training.
        own = seeds.generator(recipe.seed, "monitor", "loader")
        loader = DataLoader(Ordered(files, view), self.batch, num_workers=self.workers, generator=own)
        for images, labels in loader:
            yield recipe.normalise(images.to(recipe.device)), labels.to(recipe.device)


def _describe(recipe: Any, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    # By name one row for each image, but for `mean`, the mean over them of the teacher's shares (K,).
    norms, cls, shares = recipe.look(images)
    prefix = recipe.backbone.num_prefix_tokens
    patches = norms[:, prefix:]
    return {
        "cls": F.normalize(cls, dim=1),
        "label": labels,
        "entropy": torch.special.entr(shares).sum(dim=1) / math.log(shares.shape[1]),
        "prototype": shares.argmax(dim=1),
        "mean": shares.mean(dim=0),
        "norms": torch.cat([norms[:, :prefix], patches.mean(1, keepdim=True), patches.amax(1, keepdim=True)], dim=1),
    }


def _health(seen: dict[str, Tensor], mean: Tensor, classes: int) -> Health:
    cls, prototypes = seen["cls"], len(mean)
    held = torch.arange(len(cls), device=cls.device) % HELD_OUT == 0
    similarity, place = search(cls[held], cls[~held], min(NEIGHBOURS, int((~held).sum())), 1 << 16)
    labels = seen["label"][~held][place]
    right = votes(similarity, labels, labels.shape[1], classes, TEMPERATURE).argmax(dim=1) == seen["label"][held]
    some = cls[:RANK_IMAGES]
    entropy = float(seen["entropy"].mean())
    total = cls.double().sum(dim=0).square().sum()
    names = ["cls", *[f"register{number}" for number in range(seen["norms"].shape[1] - 3)], "patches", "largest_patch"]
    norms = [*seen["norms"][:, :-1].mean(dim=0).tolist(), float(seen["norms"][:, -1].amax())]
    return Health(
        knn_top1=100 * float(right.float().mean()),
        teacher_entropy=entropy,
        teacher_information=float(torch.special.entr(mean).sum()) - entropy * math.log(prototypes),
        prototype_usage=len(seen["prototype"].unique()) / min(prototypes, len(cls)),
        feature_rank=float(effective_rank(some[None], some.new_ones(1, len(some), dtype=torch.bool))),
        feature_cosine=float((total - len(cls)) / (len(cls) * (len(cls) - 1))),
        norms=dict(zip(names, norms, strict=True)),
    )
