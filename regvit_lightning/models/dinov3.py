"""DINOv3: a ViT with rotary positions (Siméoni et al. 2025, arXiv 2508.10104), which timm builds as `Eva`.

Sources: the names are those of facebookresearch/dinov3 and of timm's `eva.py`.
"""

import re
from collections.abc import Mapping

from timm.models.eva import Eva
from torch import Tensor, nn

from regvit_lightning.errors import UserError
from regvit_lightning.models.clip_naming import State, rename

ROPE_THETA = 100.0  # base of the periods of the rotary embedding, in all releases
FC2 = "blocks.0.mlp.fc2.weight"
MOST_REGISTERS = 1024
EPS = 1e-5  # of all layer norms

# The rotary embedding and the mask that keeps the key bias at 0 are constants; the rest is for training only.
DROPPED = re.compile(r"rope_embed\.periods|.+\.qkv\.bias_mask|mask_token|local_cls_norm\..+")

RENAMES = (
    (re.compile(r"^storage_tokens$"), "reg_token"),
    (re.compile(r"\.ls([12])\.gamma$"), r".gamma_\1"),
    (re.compile(r"\.mlp\.w1\."), ".mlp.fc1_g."),
    (re.compile(r"\.mlp\.w2\."), ".mlp.fc1_x."),
    (re.compile(r"\.mlp\.w3\."), ".mlp.fc2."),
)


def is_dinov3(state: Mapping[str, Tensor]) -> bool:
    """Whether the tensors have the names of facebookresearch/dinov3."""
    return "storage_tokens" in state and "pos_embed" not in state


def to_timm_naming(state: Mapping[str, Tensor]) -> State:
    """Tensors of facebookresearch/dinov3 under the names of timm's `Eva` with biases.

    The k part of the joint qkv bias is dropped: DINOv3 multiplies it by 0.
    """
    renamed = rename({name: tensor for name, tensor in state.items() if not DROPPED.fullmatch(name)}, RENAMES)
    joint = [name for name in renamed if name.endswith(".attn.qkv.bias") and renamed[name].ndim == 1]
    for name in [name for name in joint if len(renamed[name]) >= 3]:
        start = name.removesuffix("qkv.bias")
        renamed[f"{start}q_bias"], _, renamed[f"{start}v_bias"] = renamed.pop(name).chunk(3)
    return renamed


def width_of(state: Mapping[str, Tensor], source: object) -> int:
    """Width of the model.

    Raises:
        UserError: the patches are not square, or there is no MLP.
    """
    projection, fc2, registers = (state.get(name) for name in ("patch_embed.proj.weight", FC2, "reg_token"))
    square = projection is not None and projection.ndim == 4 and projection.shape[1:] == (3, *projection.shape[2:3] * 2)
    if not square or projection is None or fc2 is None or fc2.ndim != 2 or 0 in (*projection.shape, *fc2.shape):
        raise UserError(f"{source}: not a DINOv3 ViT: no square patches of 3 channels, or no MLP")
    if registers is not None and (registers.ndim != 3 or not 1 <= registers.shape[1] <= MOST_REGISTERS):
        raise UserError(f"{source}: registers {list(registers.shape)}; expected (1, up to {MOST_REGISTERS}, width)")
    return int(projection.shape[0])


def build(
    state: State,
    source: object,
    heads: int,
    rope_theta: float = ROPE_THETA,
    image_size: int | None = None,
) -> Eva:
    """Build an untrained model with the shapes of `state`.

    Args:
        state: tensors under the names of timm's `Eva`.
        source: for messages.
        heads: attention heads per block.
        rope_theta: base of the periods of the rotary embedding.
        image_size: side in pixels of the model's images; by default 14 patches, as in all releases.

    Raises:
        UserError: the patches are not square, or there is no MLP.
    """
    width, patch, fc2 = width_of(state, source), state["patch_embed.proj.weight"].shape[-1], state[FC2]
    registers = state.get("reg_token")
    model = Eva(
        img_size=image_size or 14 * patch,
        patch_size=patch,
        num_classes=0,
        global_pool="token",
        embed_dim=width,
        depth=len({name.split(".")[1] for name in state if name.startswith("blocks.")}),
        num_heads=heads,
        mlp_ratio=(fc2.shape[1] + 0.5) / width,  # timm truncates embed_dim * mlp_ratio
        swiglu_mlp="blocks.0.mlp.fc1_g.weight" in state,
        swiglu_align_to=1,  # a separate tensor for the gate, without rounding the width
        init_values=1e-5,  # overwritten by the value in the file
        num_reg_tokens=0 if registers is None else registers.shape[1],
        use_abs_pos_emb=False,
        use_rot_pos_emb=True,
        rope_type="dinov3",
        rope_temperature=rope_theta,
        rope_rotate_half=True,
        use_fc_norm=False,
        dynamic_img_size=True,
    )
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = EPS
    return model
