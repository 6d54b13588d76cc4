"""Models of Hugging Face's transformers: conversion to our names, and their JSON configuration files.

Supported are DINOv2 with and without registers, ViT, CLIP's vision tower (all three become a `RegisterViT`) and
DINOv3 (which becomes timm's `Eva`, see `dinov3`), under the names on disk and those in memory.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from timm.layers import GELUTanh, QuickGELU
from torch import Tensor, nn

from regvit_lightning.errors import UserError, one_line
from regvit_lightning.models import dinov3
from regvit_lightning.models.beside import CONFIG, read_json
from regvit_lightning.models.clip_naming import State, rename

WEIGHTS = ("model.safetensors", "pytorch_model.bin")

DINOV2, DINOV3, VIT, CLIP = "dinov2", "dinov3", "vit", "clip"

# Defaults of the configuration classes of transformers, used where config.json has no value.
EPS = {DINOV2: 1e-6, DINOV3: 1e-5, VIT: 1e-12, CLIP: 1e-5}
ACTIVATION = {DINOV2: "gelu", DINOV3: "gelu", VIT: "gelu", CLIP: "quick_gelu"}
ACTIVATIONS: dict[str, type[nn.Module]] = {
    "gelu": nn.GELU,
    "gelu_new": GELUTanh,
    "gelu_pytorch_tanh": GELUTanh,
    "quick_gelu": QuickGELU,
    "silu": nn.SiLU,
}

# Not part of the backbone: pooler and classifier, the projection into CLIP's joint space, a constant of old files.
DROPPED = re.compile(r"(pooler|classifier|visual_projection)\..+|embeddings\.(mask_token|position_ids)")

RENAMES = (
    (re.compile(r"^embeddings\.(cls_token|class_embedding)$"), "cls_token"),
    (re.compile(r"^embeddings\.register_tokens$"), "reg_token"),
    (re.compile(r"^embeddings\.distillation_token$"), "dist_token"),  # rejected
    (re.compile(r"^embeddings\.position_embeddings?(\.weight)?$"), "pos_embed"),
    (re.compile(r"^embeddings\.patch_embeddings?\.(projection\.)?"), "patch_embed.proj."),
    (re.compile(r"^pre_layrnorm\."), "norm_pre."),  # CLIP's, with its spelling
    (re.compile(r"^(post_)?layernorm\."), "norm."),
    (re.compile(r"^((encoder|model)\.)?layers?\."), "blocks."),
    (re.compile(r"\.(layernorm_before|layer_norm1)\."), ".norm1."),
    (re.compile(r"\.(layernorm_after|layer_norm2)\."), ".norm2."),
    (re.compile(r"\.(attention|self_attn)\.(attention\.)?([qkv])(uery|ey|alue|_proj)\."), r".attn.\3."),
    (re.compile(r"\.(attention\.(o_proj|output\.dense)|self_attn\.out_proj)\."), ".attn.proj."),
    (re.compile(r"\.(intermediate\.dense|mlp\.weights_in)\."), ".mlp.fc1."),
    (re.compile(r"^(blocks\.\d+)\.(output\.dense|mlp\.weights_out|mlp\.down_proj)\."), r"\1.mlp.fc2."),
    (re.compile(r"\.layer_scale([12])\.lambda1$"), r".ls\1.gamma"),
)

EVA = (  # for DINOv3, from our names to those of timm's `Eva`
    (re.compile(r"\.ls([12])\.gamma$"), r".gamma_\1"),
    (re.compile(r"\.attn\.([qv])\.bias$"), r".attn.\1_bias"),
    (re.compile(r"\.mlp\.gate_proj\."), ".mlp.fc1_g."),
)


@dataclass(frozen=True)
class Config:
    """Facts about a model that `config.json` gives and its tensors do not.

    Attributes:
        kind: `dinov2`, `dinov3`, `vit` or `clip`.
        heads: attention heads per block; None where the file is missing.
        eps: epsilon of all layer norms.
        activation: activation of the MLP, a key of `ACTIVATIONS`; DINOv2's SwiGLU has its own.
        rope_theta: base of the periods of DINOv3's rotary embedding.
        image_size: side in pixels; None where the file is missing.
    """

    kind: str
    heads: int | None
    eps: float
    activation: str
    rope_theta: float
    image_size: int | None


def kind_of(state: Mapping[str, Any]) -> str:
    """Kind of transformers model with these names: `dinov2`, `dinov3`, `vit`, `clip`; empty for all other namings."""
    if "embeddings.class_embedding" in state:
        return CLIP
    if "embeddings.patch_embeddings.weight" in state:
        return DINOV3
    if "embeddings.patch_embeddings.projection.weight" not in state:
        return ""
    return DINOV2 if any(name.endswith(".layer_scale1.lambda1") for name in state) else VIT


def read_config(weights: Path, state: State) -> Config:
    """Read `config.json` beside the weights; without it, use the values of the released models of that kind.

    Args:
        weights: path of the tensor file.
        state: the tensors under the names of transformers.

    Raises:
        UserError: an invalid file, an unknown activation; or CLIP without the file: its releases differ in activation.
    """
    file, kind = weights.with_name(CONFIG), kind_of(state)
    values = read_json(file, "transformers")
    if values is None and kind == CLIP:
        raise UserError(f"{weights}: a CLIP vision tower needs its {CONFIG} beside it, which says its activation")
    values = values or {}
    values = values.get("vision_config", values) if kind == CLIP else values
    if not isinstance(values, dict):
        raise UserError(f"{file}: not a configuration of transformers")
    gated = kind == DINOV3 and any(".mlp.gate_proj." in name for name in state)
    activation = values.get("hidden_act", "silu" if gated else ACTIVATION[kind])
    if not isinstance(activation, str) or activation not in ACTIVATIONS or (gated and activation != "silu"):
        raise UserError(f"{file}: hidden_act is {activation}; known are {', '.join(ACTIVATIONS)}, in a gated MLP silu")
    try:
        eps, theta = float(values.get("layer_norm_eps", EPS[kind])), float(values.get("rope_theta", dinov3.ROPE_THETA))
        heads, size = (_count(values, key) for key in ("num_attention_heads", "image_size"))
        if not (math.isfinite(eps) and 0 < eps < 1 and math.isfinite(theta) and theta > 1):
            raise ValueError(f"layer_norm_eps is {eps}, rope_theta {theta}")
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(f"{file}: not the configuration of a square ViT ({one_line(error)})") from None
    return Config(kind, heads, eps, activation, theta, size)


def to_our_naming(state: Mapping[str, Tensor]) -> State:
    """Tensors under our names; those of DINOv3 under the names of timm's `Eva`.

    Tensors that belong to no backbone keep their names, so that strict loading reports them as unexpected.
    """
    kind = kind_of(state)
    renamed = rename({name: tensor for name, tensor in state.items() if not DROPPED.fullmatch(name)}, RENAMES)
    if "cls_token" in renamed:
        renamed["cls_token"] = renamed["cls_token"].reshape(1, 1, -1)
    if "pos_embed" in renamed and renamed["pos_embed"].ndim == 2:
        renamed["pos_embed"] = renamed["pos_embed"].unsqueeze(0)
    if "reg_token" in renamed and not renamed["reg_token"].shape[1]:
        del renamed["reg_token"]
    if kind != DINOV3:
        renamed = _joined(renamed, r"\.mlp\.(gate|up)_proj\.", ".mlp.fc1.", ("gate", "up"))
        return _joined(renamed, r"\.attn\.([qkv])\.", ".attn.qkv.", ("q", "k", "v"))
    gated = any(".mlp.gate_proj." in name for name in renamed)
    up = (re.compile(r"\.mlp\.up_proj\."), ".mlp.fc1_x." if gated else ".mlp.fc1.")
    return _joined(rename(renamed, (*EVA, up)), r"\.attn\.([qkv])\.weight", ".attn.qkv.weight", ("q", "k", "v"))


def adapt(model: nn.Module, config: Config) -> None:
    """Set the epsilon of the model's layer norms and the activation of its MLPs."""
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = config.eps
        if isinstance(getattr(module, "act", None), nn.GELU):
            module.act = ACTIVATIONS[config.activation]()


def weights_in(folder: Path) -> Path:
    """The weights file in a folder written by `save_pretrained`.

    Raises:
        UserError: there is none.
    """
    for name in WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"{folder}: holds neither {' nor '.join(WEIGHTS)}; give the path of a file")


def _joinable(tensors: Sequence[Tensor]) -> bool:
    return all(tensor.ndim and tensor.shape[1:] == tensors[0].shape[1:] for tensor in tensors)


def _count(values: Mapping[str, Any], key: str) -> int | None:
    value = values.get(key)
    if value is not None and (type(value) is not int or not 1 <= value <= 16384):
        raise ValueError(f"{key} is {value}")
    return value


def _joined(state: State, pattern: str, target: str, parts: tuple[str, ...]) -> State:
    """Concatenate tensors that are parts of one, identified by the pattern's group, in the order of `parts`."""
    joined: State = {}
    groups: dict[str, State] = {}
    for name, tensor in state.items():
        match = re.search(pattern, name)
        if match is None:
            joined[name] = tensor
        else:
            groups.setdefault(name.replace(match[0], target), {})[match[1]] = tensor
    for name, group in groups.items():
        if set(group) == set(parts) and _joinable(list(group.values())):
            joined[name] = torch.cat([group[part] for part in parts])
        else:
            joined |= {f"{name} ({part})": tensor for part, tensor in group.items()}
    return joined
