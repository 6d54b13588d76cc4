"""Kind of a model, by how it was trained or built and never by the name of its file: DeiT-III, CLIP, or another.

The registers paper takes other features for LOST from DeiT-III and OpenCLIP than from DINOv2 (Darcet et al. 2023, arXiv
2309.16588, section 3.3).
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from regvit_lightning import settings
from regvit_lightning.models import clip_naming
from regvit_lightning.settings import SettingsError

DEIT3, CLIP, OTHER = "deit3", "clip", "other"

OF_MODULES = {"deit3": DEIT3, "openclip": CLIP}  # recipes, by their file of `regvit_lightning/pretrain/`


def of_recipe(recipe: str) -> str:
    """Kind of a model trained here, from the module of its recipe; `recipe` may carry a tag (`deit3_in1k+lr1`)."""
    try:
        module = settings.merged("recipes", recipe.partition("+")[0]).get("module", "")
    except SettingsError:  # trained elsewhere, with a recipe that this checkout lacks
        return OTHER
    return OF_MODULES.get(str(module), OTHER)


def of_architecture(name: str) -> str:
    """Kind of one of timm's models, from timm's own name of it (`deit3_small_patch16_224.fb_in1k`)."""
    words = name.partition(".")[0].split("_")
    return DEIT3 if words[0] == "deit3" else CLIP if "clip" in words else OTHER


def of_module(model: Any) -> str:
    """Kind of a ViT in memory: image towers of CLIP have a norm before the first block."""
    norm = getattr(model, "norm_pre", None)
    return OTHER if norm is None or isinstance(norm, nn.Identity) else CLIP


def of_tensors(state: Mapping[str, Tensor]) -> str:
    """Kind of a foreign file, from the names and shapes of its tensors.

    DeiT-III has LayerScale, a CLS token and a position for each patch but none for CLS; of the models that are read
    from files, those with registers or a mask token share this and are not DeiT-III.
    """
    names = {name.partition(".")[2] if name.startswith("vision_model.") else name for name in state}
    if clip_naming.is_clip(state) or names & {"norm_pre.weight", "pre_layrnorm.weight"}:
        return CLIP
    scaled = names & {"blocks.0.gamma_1", "blocks.0.ls1.gamma"}
    positions, width = state.get("pos_embed"), state.get("cls_token")
    if not scaled or positions is None or width is None or names & {"reg_token", "register_tokens", "mask_token"}:
        return OTHER
    return DEIT3 if positions.ndim == 3 and round(positions.shape[1] ** 0.5) ** 2 == positions.shape[1] else OTHER
