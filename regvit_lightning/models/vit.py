"""The register ViT: timm's `VisionTransformer` built from a name, with mask tokens as the only addition.

Sequence and initialisation follow the registers paper and DINOv2's code (facts in arXiv 2309.16588, section 2.2): the
registers stand between CLS and the patches, carry no position embedding, start from N(0, 1e-6), go through every block
and the final norm, and stay in the sequence at inference. CLS carries no position entry of its own, which would only be
a second bias of the same vector; its initial value is that of the sum of the two.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import torch
from timm.layers import DropPath, GluMlp, LayerNorm, Mlp, SwiGLUPacked
from timm.models import checkpoint_seq
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from regvit_lightning import settings
from regvit_lightning.models import names
from regvit_lightning.models.arms import NONE, registry
from regvit_lightning.models.tokens import Tokens


@dataclass
class Architecture:
    """Shape of a backbone; one YAML of `configs/models/` each.

    Attributes:
        embed_dim: width D of the token embeddings.
        depth: number of blocks.
        num_heads: attention heads per block; divides `embed_dim`.
        patch_size: side of a square patch in pixels, unless the name gives another.
        hidden_dim: width of the MLP's hidden layer; of each of the two branches for `swiglu`.
        ffn: `mlp` (GELU) or `swiglu` (DINOv2's fused SwiGLU).
        arm: change of the architecture, from the name of the model: see `arms`.
    """

    embed_dim: int = settings.number("[1, 65536]")
    depth: int = settings.number("[1, 1000]")
    num_heads: int = settings.number("[1, 1024]")
    patch_size: int = settings.number("[1, 1024]")
    hidden_dim: int = settings.number("[1, 1e6]")
    ffn: str = "mlp"
    arm: str = NONE

    def __post_init__(self) -> None:
        settings.check(self.embed_dim % self.num_heads == 0, "embed_dim must be a multiple of num_heads")
        settings.check(self.ffn in ("mlp", "swiglu"), f"ffn={self.ffn}: expected mlp or swiglu")
        names.check_arm(self.arm, "arm")


def parse_name(name: str) -> tuple[Architecture, int]:
    """Parse a name such as `vitb_reg16`, `vitn_d8_w128_reg0` or `vitb_gated_reg4`; its grammar is in names.py.

    Returns:
        The architecture, with the patch size, depth, width and arm of the name, and the number of registers.

    Raises:
        SettingsError: the name does not fit the grammar, its size has no YAML, or its heads do not fill its width.
    """
    size, patch, registers = names.parse_name(name)
    architecture = replace(settings.build(Architecture, settings.find("models", size)), arm=names.arm_of(name))
    architecture = architecture if patch is None else replace(architecture, patch_size=patch)
    return _reshaped(name, architecture, **names.shape_of(name)), registers


def _reshaped(name: str, base: Architecture, depth: int | None = None, width: int | None = None) -> Architecture:
    """An architecture with another depth or width; heads keep their width, and the MLP its ratio."""
    settings.check(depth is None or depth > 0, f"model '{name}': the depth must be at least 1")
    base = base if depth is None else replace(base, depth=depth)
    if width is None:
        return base
    head = base.embed_dim // base.num_heads
    whole = f"model '{name}': the width must be a multiple of {head}, the width of one head of its size"
    settings.check(width > 0 and width % head == 0, whole)
    return replace(
        base, embed_dim=width, num_heads=width // head, hidden_dim=round(base.hidden_dim * width / base.embed_dim)
    )


def with_swiglu(architecture: Architecture) -> Architecture:
    """Replace the MLP of an architecture by DINOv2's SwiGLU with about as many weights.

    Its hidden width is two thirds of the MLP's, rounded up to a multiple of 8 (DINOv2's code): 2736 for ViT-L.
    """
    if architecture.ffn == "swiglu":
        return architecture
    return replace(architecture, ffn="swiglu", hidden_dim=math.ceil(architecture.hidden_dim * 2 // 3 / 8) * 8)


class RegisterViT(VisionTransformer):
    """timm's ViT with registers, any input size, and an optional mask token for masked pretraining.

    Args:
        architecture: shape of the backbone.
        registers: number N of register tokens.
        image_size: side of the training images in pixels; fixes the grid of the position embedding. Other sizes,
            square or not, are handled by anti-aliased bicubic interpolation (paper, appendix A).
        num_classes: outputs of the classifier on CLS; 0 for none.
        layer_scale: initial LayerScale value (DeiT-III 1e-4, DINOv2 1e-5), or None for no LayerScale.
        drop_path: stochastic depth rate, the same in every block (DeiT-III and DINOv2 use a uniform rate).
        mask_token: add the learned embedding that replaces masked patches.
        pre_norm: as in CLIP's image tower, CLS, registers and patches pass a norm (`ln_pre`) before the first block,
            the patch embedding has no bias, and all norms have PyTorch's epsilon of 1e-5.
        block: class of the blocks.
        class_token: False leaves CLS out; the classifier then reads the mean of the patches after the final norm.

    Attributes:
        architecture: shape of the backbone.
        arm: name of its arm, which is that of the architecture.
    """

    def __init__(
        self,
        architecture: Architecture,
        registers: int = 0,
        image_size: int = 224,
        num_classes: int = 0,
        layer_scale: float | None = None,
        drop_path: float = 0.0,
        mask_token: bool = False,
        pre_norm: bool = False,
        block: type[Block] = Block,
        class_token: bool = True,
    ) -> None:
        size, patch = image_size, architecture.patch_size
        whole = f"image size {size} (crop, image_size) is not a multiple of the patch size {patch}"
        settings.check(size % patch == 0, whole)
        both = f"arm {architecture.arm} in a model without CLS (pooling=average): expected one of both alone"
        settings.check(class_token or architecture.arm == NONE, both)
        swiglu = architecture.ffn == "swiglu"
        hidden = architecture.hidden_dim * (2 if swiglu else 1)  # SwiGLUPacked halves its hidden width
        super().__init__(
            img_size=size,
            patch_size=patch,
            num_classes=num_classes,
            embed_dim=architecture.embed_dim,
            depth=architecture.depth,
            num_heads=architecture.num_heads,
            mlp_ratio=(hidden + 0.5) / architecture.embed_dim,  # timm truncates embed_dim * mlp_ratio
            mlp_layer=cast(type[nn.Module], SwiGLUPacked) if swiglu else Mlp,
            act_layer=nn.SiLU if swiglu else nn.GELU,
            init_values=layer_scale,
            reg_tokens=registers,
            no_embed_class=True,
            dynamic_img_size=True,
            pre_norm=pre_norm,
            norm_layer=partial(LayerNorm, eps=1e-5) if pre_norm else None,
            block_fn=block,
            class_token=class_token,
            global_pool="token" if class_token else "avg",
            fc_norm=False,
        )
        self._draw_where_timm_differs()
        self.pre_norm = pre_norm
        for built in self.blocks if drop_path > 0 else ():
            built.drop_path1, built.drop_path2 = DropPath(drop_path), DropPath(drop_path)
        self.mask_token = nn.Parameter(torch.zeros(1, architecture.embed_dim)) if mask_token else None
        self.architecture, self.arm = architecture, architecture.arm
        registry.apply(self.arm, self)

    def _draw_where_timm_differs(self) -> None:
        # DINOv2 starts CLS at N(0, 1e-6) plus its position entry of std 0.02, DeiT-III at std 0.02. timm starts CLS at
        # 1e-6 alone, and one branch of SwiGLU as the constant 1; DINOv2 draws both branches like every other layer.
        if self.cls_token is not None:
            nn.init.trunc_normal_(self.cls_token, std=0.02)
        for mlp in (module for module in self.modules() if isinstance(module, GluMlp)):
            nn.init.trunc_normal_(cast(Tensor, mlp.fc1.weight), std=0.02)
            nn.init.zeros_(cast(Tensor, mlp.fc1.bias))

    def forward_features(  # type: ignore[override]
        self, x: Tensor, mask: Tensor | None = None, kept: Sequence[Any] | None = None, **attention: Any
    ) -> Tensor:
        """Compute all tokens after the final norm.

        Args:
            x: images (B, 3, H, W), H and W multiples of the patch size.
            mask: boolean (B, h, w); True where the patch is replaced by the mask token before the position embedding
                is added. CLS and registers are never masked.
            kept: further input of each block besides the tokens, where `block` is a class that skips samples.
            attention: timm's own options (`attn_mask`, `is_causal`), without `mask` and `kept`.

        Returns:
            (B, 1 + N + h * w, D): CLS unless it is left out, registers, patches in row-major order.
        """
        if mask is None and kept is None:
            return super().forward_features(x, **attention)
        patches = self.patch_embed(x)
        if mask is not None:
            patches = torch.where(mask.unsqueeze(-1), cast(Tensor, self.mask_token).to(patches.dtype), patches)
        tokens = self.norm_pre(self._pos_embed(patches))
        if kept is None:
            return self.norm(checkpoint_seq(self.blocks, tokens) if self.grad_checkpointing else self.blocks(tokens))
        for block, some in zip(self.blocks, kept, strict=True):
            again = self.grad_checkpointing
            tokens = checkpoint(block, tokens, some, use_reentrant=False) if again else block(tokens, some)
        return self.norm(tokens)

    def tokens(self, x: Tensor) -> Tokens:
        """Tokens after the final norm of images (B, 3, H, W), by kind; differentiable, unlike those of `Backbone`."""
        height, width = self.patch_embed.dynamic_feat_size((x.shape[-2], x.shape[-1]))
        lengths = [int(self.has_class_token), self.num_reg_tokens, height * width]
        cls, registers, patches = self.forward_features(x).split(lengths, dim=1)
        return Tokens(cls[:, 0] if self.has_class_token else None, registers, patches.unflatten(1, (height, width)))


def block_macs(architecture: Architecture, registers: int, image_size: int) -> int:
    """Multiply-adds of the matrix products of all blocks for one square image, without those of an arm.

    12 T d^2 + 2 T^2 d per block for T tokens and an MLP of ratio 4 (the count behind Fig. 12 of the paper).
    """
    d, patches = architecture.embed_dim, (image_size // architecture.patch_size) ** 2
    tokens = 1 + registers + patches
    ffn = (3 if architecture.ffn == "swiglu" else 2) * d * architecture.hidden_dim
    return architecture.depth * (tokens * (4 * d * d + ffn) + 2 * tokens * tokens * d)


def fuse_attention(model: VisionTransformer, fused: bool) -> None:
    """Choose between PyTorch's fused attention kernels and plain matrix products, in every block."""
    for block in model.blocks:
        cast(Any, block).attn.fused_attn = fused


def build(name: str, *, swiglu: bool = False, **options: Any) -> RegisterViT:
    """Build the register ViT called `name` (see `parse_name`), with `options` of `RegisterViT`.

    Args:
        name: name by the grammar.
        swiglu: use SwiGLU instead of an MLP, see `with_swiglu`.
        options: arguments of `RegisterViT`.
    """
    architecture, registers = parse_name(name)
    return RegisterViT(with_swiglu(architecture) if swiglu else architecture, registers, **options)
