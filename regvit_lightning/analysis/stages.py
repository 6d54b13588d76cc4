"""Norms of the feature maps of a convolutional or hierarchical model by stage, and what else may raise them.

The rules are those of plain ViTs (`outliers.py`, `verdict.py`), applied to the cells of each stage's map before the
norm that follows it. Three things of such models look like artifacts or hide them, and are measured beside: maps with
few cells, zero padding at the border, and the windows of attention.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from regvit_lightning.analysis.norms import Norms, neighbour_similarity
from regvit_lightning.analysis.positions import rings
from regvit_lightning.data.transforms import normalise
from regvit_lightning.frozen.module import FrozenModule
from regvit_lightning.models.feature_maps import FeatureMaps, StageMaps
from regvit_lightning.statistics import bootstrap

FEW_CELLS = 256  # of a map; a ViT with patches of 14 or 16 has 196 to 256 at 224 px


@dataclass(frozen=True)
class StageNorms:
    """Norms of the map of one stage for N images, on the CPU.

    Attributes:
        before: (N, h, w) L2 norms of the cells, as the stage leaves them.
        after: (N, h, w) the same after the norm that follows the stage; None where there is none.
        stem: (N, h, w) norms of the stem's map, mean over the positions within each cell: the contrast of the image.
        neighbours: (N, h, w) cosine of each position of the stem's map to its four neighbours, mean within each cell.
    """

    before: Tensor
    after: Tensor | None
    stem: Tensor
    neighbours: Tensor

    def __len__(self) -> int:
        return len(self.before)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of a map."""
        return self.before.shape[1], self.before.shape[2]

    @property
    def as_block(self) -> Norms:
        """Norms of the cells as those of the patches of a model with one block behind its embedding, the stem.

        Measures of activations are NaN.
        """
        count, after = len(self), self.before if self.after is None else self.after
        unknown = torch.full((count, 2), torch.nan)
        return Norms(
            patches=torch.stack([self.before, after], dim=1),
            registers=torch.zeros(count, 2, 0),
            cls=None,
            embedded=self.stem,
            neighbours=self.neighbours,
            largest=unknown[..., None].expand(-1, -1, 3),
            median=unknown,
            kurtosis=unknown,
        )


def measure(maps: StageMaps) -> list[StageNorms]:
    """Norms of every stage of a batch, in float32."""
    stem = maps.stem.float()
    contrast, similarity = stem.norm(dim=-1), neighbour_similarity(stem)
    return [
        StageNorms(
            before=stage.float().norm(dim=-1).cpu(),
            after=None if normed is None else normed.float().norm(dim=-1).cpu(),
            stem=_pooled(contrast, stage).cpu(),
            neighbours=_pooled(similarity, stage).cpu(),
        )
        for stage, normed in zip(maps.stages, maps.normed, strict=True)
    ]


def _pooled(values: Tensor, like: Tensor) -> Tensor:
    """Mean of values (B, H, W) within each cell of the grid of a map (B, h, w, D)."""
    return F.adaptive_avg_pool2d(values[:, None], (like.shape[1], like.shape[2]))[:, 0]


def join(batches: Sequence[Sequence[StageNorms]]) -> list[StageNorms]:
    """Concatenate the images of all batches, stage by stage."""
    joined = []
    for parts in zip(*batches, strict=True):
        after = [part.after for part in parts if part.after is not None]
        joined.append(
            StageNorms(
                torch.cat([part.before for part in parts]),
                torch.cat(after) if after else None,
                torch.cat([part.stem for part in parts]),
                torch.cat([part.neighbours for part in parts]),
            )
        )
    return joined


class StagePass(FrozenModule):
    """Measures the stages of the uint8 images of a test pass, batches of (images, …).

    Attributes:
        stages: norms of every stage for all images, available after test.
    """

    stages: list[StageNorms]

    def __init__(self, backbone: FeatureMaps, precision: str) -> None:
        super().__init__(backbone, precision)
        self.maps = backbone
        self._parts: list[list[StageNorms]] = []

    def test_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        images = normalise(batch[0], self.mean, self.std)
        with self.frozen.autocast(images):
            self._parts.append(measure(self.maps.stage_maps(images)))

    def on_test_epoch_end(self) -> None:
        self.stages, self._parts = join(self._parts), []


def ring_profile(norms: Tensor) -> Tensor:
    """Mean norm relative to the median of all, (K,), by distance 0..K-1 from the border, of norms (N, h, w)."""
    distance = rings(*norms.shape[1:])
    relative = norms.double().mean(dim=0) / norms.median()
    return torch.stack([relative[distance == ring].mean() for ring in range(int(distance.max()) + 1)])


@dataclass(frozen=True)
class WindowProfile:
    """Norms by position relative to the attention windows of a stage.

    Attributes:
        size, shift: side of a window and shift of every other block's windows, in cells.
        profile: (size, size) mean norm relative to the mean of all, by position modulo the window.
        contrast: (size,) step across the lines between two cells that lie `phase` cells from a window's start:
            mean norm of the two cells beside such a line relative to that of the next two, minus 1. A trend over the
            image leaves it at 0; a seam stands out at phase 0, that of shifted windows at `shift`.
        intervals: 95 % interval of each, by resampling images.
    """

    size: int
    shift: int
    profile: Tensor
    contrast: list[float]
    intervals: list[tuple[float, float]]


def window_profile(norms: Tensor, window: tuple[int, int], seed: int = 0) -> WindowProfile | None:
    """Profile of norms (N, h, w) over windows (side, shift); None for fewer than two windows a side.

    With one window a side, the position in it is that in the image. Windows that overhang the map at the right and
    below count as far as they reach.
    """
    (size, shift), (height, width) = window, norms.shape[1:]
    if size < 2 or min(height, width) < 2 * size:
        return None
    relative = norms.double() / norms.double().mean()
    rows, columns = torch.arange(height) % size, torch.arange(width) % size
    profile = torch.stack(
        [torch.stack([relative[:, rows == r][:, :, columns == c].mean() for c in range(size)]) for r in range(size)]
    )
    steps = [_steps(norms.double(), size, phase) for phase in range(size)]
    return WindowProfile(
        size,
        shift,
        profile,
        [_ratio(step.mean(dim=0).numpy()) for step in steps],
        [bootstrap(step, seed, _ratio) for step in steps],
    )


def _steps(norms: Tensor, size: int, phase: int) -> Tensor:
    """Mean norm beside and next to the lines at a phase, (N, 2), over both directions."""
    both = []
    for maps in (norms, norms.mT):
        lines = torch.arange(phase, maps.shape[1], size)
        lines = lines[(lines >= 2) & (lines <= maps.shape[1] - 2)]  # with two cells on either side
        beside, further = (maps[:, lines - 1] + maps[:, lines]), (maps[:, lines - 2] + maps[:, lines + 1])
        both.append(torch.stack([beside.mean(dim=(1, 2)), further.mean(dim=(1, 2))], dim=1) / 2)
    return torch.stack(both).mean(dim=0)


def _ratio(beside_and_further: npt.NDArray[np.floating]) -> float:
    return float(beside_and_further[0] / beside_and_further[1] - 1)
