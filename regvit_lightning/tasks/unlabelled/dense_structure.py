"""DSE, a score of patches without labels: clusters that lie apart, are small, and differ in many directions.

Source: Dai et al. 2025 (arXiv 2510.17299): DSE = M_inter - M_intra + λ M_dim, which picked the checkpoint of a training
with the best dense features, where RankMe, alpha-ReQ and LiDAR picked bad ones. What the paper's sections leave open is
stated in docs/label-free.md.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from regvit_lightning.errors import UserError
from regvit_lightning.rank import effective_rank
from regvit_lightning.runtime import seeds
from regvit_lightning.tasks.patches.kmeans import assigned, kmeans

OF_IMAGE, OF_GROUP = 3, 24  # clusters of the patches of one image, and of those of a group
IMAGES = 8  # of a group
ITERATIONS = 25  # of k-means at most


@dataclass(frozen=True)
class Clusters:
    """Clusters of a set of patches; both are relative to the mean distance of the patches to their mean.

    Attributes:
        inter: mean distance of a centre to the nearest other one.
        intra: mean size of the clusters, see `size`.
    """

    inter: float
    intra: float


@dataclass(frozen=True)
class Structure:
    """Parts of DSE.

    Attributes:
        inter: of the clusters of groups of images.
        intra: mean of that of the clusters of single images and that of the clusters of groups.
        dimension: effective rank of one patch of each image, over the largest that it can be.
    """

    inter: float
    intra: float
    dimension: float

    def dse(self, weight: float = 1.0) -> float:
        """DSE with the weight λ of the dimension."""
        return self.inter - self.intra + weight * self.dimension


class StructureSums:
    """Collects the parts of DSE, one group of images at a time.

    Memory is that of the patches of a group, and of one patch of each image.

    Args:
        seed: seed of k-means and of the patch that is drawn of each image.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.of_images: list[Clusters] = []
        self.of_groups: list[Clusters] = []
        self.single: list[Tensor] = []  # one patch (D,) of each image

    def add(self, patches: Tensor) -> None:
        """Add the patches (IMAGES, P, D) of a group of images, P at least OF_IMAGE.

        Raises:
            UserError: an image, or all of them together, has patches that are all equal.
        """
        number = len(self.of_groups)
        for index, own in enumerate(patches):
            where = f"image {number * IMAGES + index}"
            self.of_images.append(clusters(own, OF_IMAGE, seeds.derive(self.seed, number, index), where))
        drawn = torch.randint(patches.shape[1], (len(patches),), generator=seeds.generator(self.seed, "patch", number))
        self.single += patches[torch.arange(len(patches)), drawn.to(patches.device)].double().cpu()
        where = f"group {number} of {IMAGES} images"
        self.of_groups.append(clusters(patches.flatten(0, 1), OF_GROUP, seeds.derive(self.seed, number), where))

    def structure(self, groups: Sequence[int] | None = None) -> Structure:
        """The parts of DSE of all groups, or of those with the given numbers."""
        chosen = list(range(len(self.of_groups)) if groups is None else groups)
        images = [group * IMAGES + index for group in chosen for index in range(IMAGES)]
        single = torch.stack([self.single[index] for index in images])
        rank = effective_rank(single[None], torch.ones(1, len(single), dtype=torch.bool))
        intra = [
            math.fsum(part.intra for part in parts) / len(parts)
            for parts in ([self.of_images[index] for index in images], [self.of_groups[group] for group in chosen])
        ]
        return Structure(
            inter=math.fsum(self.of_groups[group].inter for group in chosen) / len(chosen),
            intra=sum(intra) / 2,
            dimension=float(rank[0]) / min(single.shape),
        )


def clusters(patches: Tensor, count: int, seed: int, where: str) -> Clusters:
    """Cluster patches (n, D) into `count` by k-means.

    Args:
        where: name of the patches, for the message.

    Raises:
        UserError: all patches are equal, so that nothing can be said of their structure.
    """
    rows = patches.double()
    scale = float((rows - rows.mean(dim=0)).norm(dim=1).mean())
    if not scale > 1e-6 * float(rows.norm(dim=1).mean()):
        raise UserError(f"DSE is undefined: all patches of {where} are equal, the features have collapsed")
    rows = (rows - rows.mean(dim=0)) / scale  # so that float32 in k-means loses no digits
    centres = kmeans(rows.float(), count, ITERATIONS, seed)
    index = assigned(rows.float(), centres)
    members = [rows[index == cluster] for cluster in range(count)]
    there = [own for own in members if len(own)]
    means = torch.stack([own.mean(dim=0) for own in there])
    distances = torch.cdist(means, means).fill_diagonal_(torch.inf)
    inter = float(distances.amin(dim=1).mean()) if len(there) > 1 else 0.0
    return Clusters(inter, math.fsum(size(own) for own in there) / len(there))


def size(cluster: Tensor) -> float:
    """Size of a cluster (n, D): its nuclear norm about its mean over √max(n - 1, D)."""
    rows, width = cluster.shape
    centred = cluster - cluster.mean(dim=0)
    gram = centred @ centred.T if rows < width else centred.T @ centred
    values = torch.linalg.eigvalsh(gram)
    singular = values.where(values > 1e-14 * values.amax(), 0).sqrt()
    return float(singular.sum()) / math.sqrt(max(rows - 1, width))
