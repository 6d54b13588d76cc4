"""Learning rate and weight decay of each parameter, following DINOv2's released code."""

from collections.abc import Iterator
from typing import Any

from torch import nn

from regvit_lightning.models.arms import NOT_DECAYED
from regvit_lightning.models.vit import RegisterViT

INPUT = ("pos_embed", "patch_embed", "mask_token", "cls_token", "reg_token", "norm_pre")


def groups(
    backbone: RegisterViT, heads: nn.Module, layer_decay: float, patch_embed_lr: float, decay_registers: bool
) -> list[dict[str, Any]]:
    """Parameter groups for the optimiser.

    Biases, norms and LayerScale have no weight decay; CLS, mask token, position embedding and the gain of the
    prototypes do.

    Args:
        backbone, heads: backbone and heads of the student.
        layer_decay: learning rate of a block relative to that of the next block.
        patch_embed_lr: learning-rate multiplier of the patch embedding.
        decay_registers: apply weight decay to the registers, as in the released code.

    Returns:
        Groups with `params`, `lr_factor`, `decay_factor` (0 or 1) and `last_layer` (True for prototypes).
    """
    grouped: dict[tuple[float, float, bool], list[nn.Parameter]] = {}
    for name, parameter in backbone.named_parameters():
        rate = layer_decay ** (len(backbone.blocks) + 1 - layer(name, len(backbone.blocks)))
        rate *= patch_embed_lr if "patch_embed" in name else 1.0
        decays = _decays(name) and (decay_registers or name != "reg_token")
        grouped.setdefault((rate, float(decays), False), []).append(parameter)
    for name, parameter in heads.named_parameters():
        grouped.setdefault((1.0, float(_decays(name)), "last_layer" in name), []).append(parameter)
    return list(_as_dictionaries(grouped))


def layer(name: str, depth: int) -> int:
    """Layer index of a parameter: 0 for the input, 1 to `depth` for the blocks, `depth` + 1 for the final norm.

    Registers are input, as CLS is: in DINOv2's code since October 2023 and in DINOv3's.
    """
    if name.startswith(INPUT):
        return 0
    return int(name.split(".")[1]) + 1 if name.startswith("blocks.") else depth + 1


def _decays(name: str) -> bool:
    return not (name.endswith((".bias", *NOT_DECAYED)) or "norm" in name or "gamma" in name)


def _as_dictionaries(grouped: dict[tuple[float, float, bool], list[nn.Parameter]]) -> Iterator[dict[str, Any]]:
    for (rate, decay, last), parameters in grouped.items():
        yield {"params": parameters, "lr_factor": rate, "decay_factor": decay, "last_layer": last}
