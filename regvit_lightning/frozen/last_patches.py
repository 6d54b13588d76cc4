"""Patches of the last block with their norms, for tasks that compare patches and count the outliers among them."""

from torch import Tensor

from regvit_lightning.frozen.module import Frozen
from regvit_lightning.models.tokens import Tokens

MADS = 5.0  # of the rule for outliers, that of the artifact report


class LastPatches:
    """Patches after the final norm, and norms before it where the model gives them.

    Args:
        frozen: the backbone and its precision.
    """

    def __init__(self, frozen: Frozen) -> None:
        self.frozen, self.raw = frozen, frozen.backbone.is_plain_vit

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, h, w, D) and norms (B, h, w) on the CPU, float32, of normalised images (B, 3, H, W)."""
        tokens, norms = self.tokens(images)
        return tokens.patches, norms

    def tokens(self, images: Tensor) -> tuple[Tokens, Tensor]:
        """Tokens of every kind after the final norm, float32, and the norms that `__call__` returns."""
        backbone, stages = self.frozen.backbone, dict[int, Tokens]()

        def see(stage: int, tokens: Tokens) -> None:
            if stage >= backbone.depth:
                stages[stage - backbone.depth] = _in_float32(tokens)

        with self.frozen.autocast(images):
            if self.raw:
                backbone.walk(images, see)
            else:
                stages[0] = stages[1] = _in_float32(backbone(images))
        return stages[1], stages[0].patches.norm(dim=-1).cpu()

    def outliers_in_words(self, among: str) -> str:
        """Which patches are outliers `among` others, for the record."""
        where = "before the final norm" if self.raw else "of the output, the only tokens that this model gives"
        return f"norm of the last block {where} above the median + {MADS:g} MAD of log norms of the patches of {among}"


def _in_float32(tokens: Tokens) -> Tokens:
    cls = None if tokens.cls is None else tokens.cls.float()
    return Tokens(cls, tokens.registers.float(), tokens.patches.float())
