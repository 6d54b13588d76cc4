"""DINOv2 (Oquab et al. 2023, arXiv 2304.07193): the recipe and its parts."""

from regvit_lightning.pretrain.dinov2.recipe import DINOv2
from regvit_lightning.pretrain.dinov2.settings import DINOv2Settings

SETTINGS, RECIPE = DINOv2Settings, DINOv2
