"""Initialisation from an earlier phase of pretraining at another resolution (DINOv2's final phase, at 518 px)."""

from pathlib import Path

import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor

from regvit_lightning.errors import UserError, one_line
from regvit_lightning.models import names


def phase_before(path: Path, own: dict[str, Tensor], model: str) -> dict[str, Tensor]:
    """Weights from a checkpoint of this recipe, with the position embedding resampled to the grid of `own`.

    Args:
        path: path of a `last.ckpt`.
        own: state dict of the recipe to be initialised.
        model: name of its model; another arm may have the same tensors.

    Raises:
        UserError: the file is not readable, or holds another model, another arm or other heads.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        state: dict[str, Tensor] = checkpoint["state_dict"]
    except Exception as error:  # on damaged files the unpickler may raise almost any exception
        raise UserError(f"start_from={path}: not a checkpoint of a run: {one_line(error)}") from None
    before = checkpoint.get("hyper_parameters", {}).get("model", model)
    if names.arm_of(before) != names.arm_of(model):
        raise UserError(f"start_from={path}: of {before}, which has another arm than {model}")
    for name in ("backbone.pos_embed", "student.backbone.pos_embed"):
        if name in state and state[name].shape[2] == own[name].shape[2]:
            side = round(own[name].shape[1] ** 0.5)
            state[name] = resample_abs_pos_embed(state[name], new_size=[side, side], num_prefix_tokens=0)
    differing = sorted(state.keys() ^ own.keys())
    differing += [name for name in own if name in state and state[name].shape != own[name].shape]
    if differing:
        raise UserError(f"start_from={path}: of another model or recipe; it differs in {', '.join(differing[:4])}")
    return state
