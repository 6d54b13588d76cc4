"""Extracts the backbone from a state dict with prefixed names, as left by the modules trained around it."""

import re
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from regvit_lightning.errors import Notice, UserError

# One tensor of each supported naming: its prefix is the prefix of all names of the backbone.
ANCHORS = (
    "patch_embed.proj.weight",  # timm, DINO, DINOv2, DeiT
    "visual.class_embedding",  # open_clip
    "embeddings.patch_embeddings.projection.weight",  # transformers: DINOv2, ViT
    "embeddings.patch_embeddings.weight",  # transformers: DINOv3
    "embeddings.class_embedding",  # transformers: CLIP's vision tower
)
ANCHOR = re.compile(rf"((?:\w+\.)*)(?:{'|'.join(re.escape(anchor) for anchor in ANCHORS)})")

# Preference among several backbones in one file: DINO's teacher, a moving average, MoCo's base encoder.
PREFERRED = ("teacher", "ema", "base_encoder")


class Backbone(NamedTuple):
    """Tensors of one backbone.

    Attributes:
        state: tensors by name, without the prefix.
        prefix: the prefix that was taken off.
    """

    state: dict[str, Tensor]
    prefix: str


def without_prefix(state: Mapping[str, Tensor], source: object, part: str = "") -> Backbone:
    """Strip the prefix of the backbone's names (`module.`, `teacher.backbone.`, `model.`, …) and drop other tensors.

    Warns with a `Notice` that names the prefix and the number of dropped tensors. A state dict without a prefix, or
    without a backbone, is returned unchanged.

    Args:
        state: tensors by name.
        source: for messages.
        part: word of the prefix to take (`student`), or empty.

    Raises:
        UserError: several backbones, and no rule that selects one; or no prefix with the word `part`.
    """
    prefix = _prefix(state, source, part)
    if not prefix:
        return Backbone(dict(state), "")
    inside = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    rest = len(state) - len(inside)
    left_out = f"; tensors left out: {rest}" if rest else ""
    warnings.warn(f"{source}: read without the prefix '{prefix}' of its names{left_out}", Notice, stacklevel=2)
    return Backbone(inside, prefix)


def _prefix(state: Mapping[str, Any], source: object, part: str) -> str:
    matches = (ANCHOR.fullmatch(name) for name in state)
    prefixes = sorted({match[1] for match in matches if match})
    if part:
        chosen = [prefix for prefix in prefixes if f".{part}." in f".{prefix}"]
        if len(chosen) != 1:
            there = ", ".join(prefix or "(no prefix)" for prefix in prefixes) or "no backbone"
            raise UserError(f"{source}: part={part} is not one of its models; it holds {there}")
        return chosen[0]
    if not prefixes or "" in prefixes:
        return ""
    if len(prefixes) == 1:
        return prefixes[0]
    for word in PREFERRED:
        chosen = [prefix for prefix in prefixes if re.search(rf"(^|[._]){word}[._]", prefix)]
        if len(chosen) == 1:
            return chosen[0]
    raise UserError(f"{source}: holds several backbones ({', '.join(prefixes)}); choose one: {source}:part=<its word>")
