"""Per-image attention and patch collapse of the last block, in one test pass."""

from collections.abc import Sequence

import torch
from torch import Tensor

from regvit_lightning.analysis import attention, collapse, diversity
from regvit_lightning.data.transforms import normalise
from regvit_lightning.frozen.module import FrozenModule
from regvit_lightning.models.arms.rows import SHARES, SIGNED
from regvit_lightning.models.backbone import Backbone
from regvit_lightning.models.tokens import LastBlock


class LastBlockPass(FrozenModule):
    """Measures attention and collapse in the last block, given its outlier patches.

    Args:
        backbone, precision: as for `FrozenModule`.
        masks: (N, h, w) outliers after the last block, in the order of the images.
        shown: indices of the images stored for the pictures, ascending.
    """

    def __init__(self, backbone: Backbone, precision: str, masks: Tensor, shown: Sequence[int]) -> None:
        super().__init__(backbone, precision)
        self.masks, self.shown = masks, list(shown)
        self._first, self._rows = 0, SHARES
        self._scores: dict[str, list[Tensor]] = {}
        self._maps: dict[str, list[Tensor]] = {}
        self._images: list[Tensor] = []
        self._heads: list[Tensor] = []
        self._component: list[Tensor] = []
        self._divergences: list[Tensor] = []

    def test_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        mask = self.masks[self._first : self._first + len(batch[0])].to(self.device)
        images = normalise(batch[0], self.mean, self.std)
        with self.frozen.autocast(images):
            inside = self.frozen.backbone.last_block(images)
        self._rows = inside.attention.rows
        for name, values in _scores(inside, mask).items():
            self._scores.setdefault(name, []).append(values.float().cpu())
        of_registers, divergences = diversity.of_attention(inside.attention)
        for name, values in of_registers.items():
            self._scores.setdefault(name, []).append(values.float().cpu())
        if divergences is not None:
            self._divergences.append(divergences.cpu())
        for name, values in attention.maps(inside.attention).items():
            self._maps.setdefault(name, []).append(values.cpu())
        rows = [row for row in range(len(images)) if self._first + row in self.shown]
        self._keep(inside, batch[0], rows)
        self._first += len(images)

    def _keep(self, inside: LastBlock, images: Tensor, rows: list[int]) -> None:
        self._images.append(images[rows].cpu())
        self._component.append(collapse.first_component(inside.tokens.patches[rows].float()).cpu())
        if inside.attention.cls is not None:
            self._heads.append(inside.attention.cls[rows].float().cpu())

    def __len__(self) -> int:
        return len(self.masks)

    @property
    def left_out(self) -> str:
        """Which scores of attention this model's arm cannot have, and why, in a line; empty for most models."""
        return attention.left_out(self._rows)

    @property
    def scores(self) -> dict[str, Tensor]:
        """Per-image scores (N,) by name; NaN where an image has none."""
        return {name: torch.cat(values) for name, values in self._scores.items()}

    @property
    def maps(self) -> dict[str, Tensor]:
        """Attention maps (N, h, w) of all images, see `attention.maps`."""
        return {name: torch.cat(values) for name, values in self._maps.items()}

    @property
    def divergences(self) -> Tensor | None:
        """Mean (R, R) over images of the divergences between maps of registers; None for fewer than two registers."""
        return torch.cat(self._divergences).mean(dim=0) if self._divergences else None

    @property
    def images(self) -> Tensor:
        """Shown images, uint8 (M, 3, H, W)."""
        return torch.cat(self._images)

    @property
    def heads(self) -> Tensor | None:
        """Attention of CLS in the shown images, (M, heads, h, w); None for a model without CLS."""
        return torch.cat(self._heads) if self._heads else None

    @property
    def component(self) -> Tensor:
        """First principal component (M, h, w) of the patches of each shown image, see `collapse.first_component`."""
        return torch.cat(self._component)


def _scores(inside: LastBlock, mask: Tensor) -> dict[str, Tensor]:
    scores: dict[str, Tensor | None] = {}
    rows = inside.attention.rows  # of some arms they are neither shares nor have an entropy: those scores are left out
    if rows == SHARES:
        scores["attention_entropy_cls"] = attention.cls_entropy(inside.attention)
    for source, mass in attention.mass(inside.attention, mask).items() if rows != SIGNED else ():
        scores[f"attention_{source}_to_outliers"] = mass.outliers
        scores[f"attention_{source}_to_registers"] = mass.registers.sum(dim=1)
        scores[f"attention_{source}_outlier_preference"] = attention.outlier_preference(mass, mask)
    measured = collapse.measure(inside.tokens)
    scores |= {name: getattr(measured, name) for name in ("effective_rank", "patch_cosine", "cls_cosine")}
    return {name: values for name, values in scores.items() if values is not None}
