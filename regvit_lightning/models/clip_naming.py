"""Names of an open_clip model: its image tower under our names (which are timm's), its text tower separately."""

import re
from collections.abc import Mapping, Sequence

from torch import Tensor

State = dict[str, Tensor]
Renames = Sequence[tuple[re.Pattern[str], str]]

# Widths of open_clip's ViT-g, bigG and e, whose heads are not 64 wide; the others' are, or share our own widths.
HEADS = {1408: 16, 1664: 16, 1792: 16}

TEXT = re.compile(
    r"(text\.)?(positional_embedding|text_projection|token_embedding\.weight|transformer\..+|ln_final\..+|attn_mask)"
    r"|text\.proj\..+"  # of a tower of transformers
)
SHARED = ("visual.proj", "logit_scale")  # shared by both towers

IMAGE = (
    (re.compile(r"^visual\.class_embedding$"), "cls_token"),
    (re.compile(r"^visual\.positional_embedding$"), "pos_embed"),
    (re.compile(r"^visual\.conv1\."), "patch_embed.proj."),
    (re.compile(r"^visual\.ln_pre\."), "norm_pre."),
    (re.compile(r"^visual\.ln_post\."), "norm."),
    (re.compile(r"^visual\.transformer\.resblocks\."), "blocks."),
    (re.compile(r"^(blocks\.\d+)\.l([ns])_([12])\."), r"\1.l\2\3."),
    (re.compile(r"^(blocks\.\d+)\.ln([12])\."), r"\1.norm\2."),
    (re.compile(r"^(blocks\.\d+)\.attn\.in_proj_"), r"\1.attn.qkv."),
    (re.compile(r"^(blocks\.\d+)\.attn\.out_proj\."), r"\1.attn.proj."),
    (re.compile(r"^(blocks\.\d+)\.mlp\.c_fc\."), r"\1.mlp.fc1."),
    (re.compile(r"^(blocks\.\d+)\.mlp\.c_proj\."), r"\1.mlp.fc2."),
)


def rename(state: Mapping[str, Tensor], renames: Renames) -> State:
    """Apply all `renames` in order to the names of the tensors."""
    renamed: State = {}
    for name, tensor in state.items():
        for pattern, replacement in renames:
            name = pattern.sub(replacement, name)
        renamed[name] = tensor
    return renamed


def is_clip(state: Mapping[str, Tensor]) -> bool:
    """Whether the tensors are those of an open_clip model whose image tower is a ViT of open_clip's own."""
    return "visual.class_embedding" in state


def image_tower(state: Mapping[str, Tensor]) -> State:
    """Image tower under our names; its position embedding includes the entry of CLS.

    Tensors of neither tower keep their names, so that strict loading reports them as unexpected.
    """
    renamed = rename({n: t for n, t in state.items() if not TEXT.fullmatch(n) and n not in SHARED}, IMAGE)
    renamed["cls_token"] = renamed["cls_token"].reshape(1, 1, -1)
    if "pos_embed" in renamed:
        renamed["pos_embed"] = renamed["pos_embed"].unsqueeze(0)
    return renamed


def text_tower(state: Mapping[str, Tensor]) -> State:
    """Text tower under the names of open_clip's `TextTransformer`."""
    text = {name.removeprefix("text."): tensor for name, tensor in state.items() if TEXT.fullmatch(name)}
    text.pop("attn_mask", None)  # a constant, which old checkpoints contain
    return text
