"""DINOv2 (Oquab et al. 2023, arXiv 2304.07193): the recipe and its parts."""

from regvit_lightning.pretrain.dinov2.recipe import Recipe, Settings

__all__ = ["Recipe", "Settings"]
