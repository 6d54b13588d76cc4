"""Position embeddings at other image sizes: each family of weights is interpolated as its own code interpolates it.

The rules agree at the size of the training images and differ elsewhere: on DINOv2 without registers by some percent of
the features at 224 px and 98 px.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any, NamedTuple, cast

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from regvit_lightning.errors import UserError


class Rule(NamedTuple):
    """A bicubic interpolation of the grid of position embeddings.

    Attributes:
        antialias: low-pass filter before the grid is made smaller.
        offset: patches added to each side of the new grid in the scale factor, or 0 to interpolate to its exact size.
    """

    antialias: bool
    offset: float


# `antialiased`: timm, open_clip's `resize_pos_embed`, DINOv2 with registers, and the models trained here.
# `offset`: facebookresearch/dinov2 without registers (`interpolate_offset=0.1`, no antialiasing), and DINO.
# `plain`: DINOv2 without registers, ViT and CLIP in transformers (`interpolate_pos_encoding`).
ANTIALIASED, OFFSET, PLAIN = "antialiased", "offset", "plain"
RULES = {ANTIALIASED: Rule(True, 0.0), OFFSET: Rule(False, 0.1), PLAIN: Rule(False, 0.0)}


def interpolate(positions: Tensor, grid: tuple[int, int], rule: Rule) -> Tensor:
    """Position embeddings of another grid of patches.

    Args:
        positions: (1, n * n, D), row-major.
        grid: rows h and columns w of the new grid.
        rule: how to interpolate; on an n x n grid the embeddings are returned unchanged.

    Returns:
        (1, h * w, D), of the dtype of `positions`; the interpolation is in float32.
    """
    side = round(positions.shape[1] ** 0.5)
    if grid == (side, side):
        return positions
    scale = tuple((length + rule.offset) / side for length in grid)
    target = {"scale_factor": scale} if rule.offset else {"size": grid}
    square = positions.float().unflatten(1, (side, side)).permute(0, 3, 1, 2)
    new = F.interpolate(square, mode="bicubic", antialias=rule.antialias, **target)  # type: ignore[arg-type]
    return new.permute(0, 2, 3, 1).flatten(1, 2).to(positions.dtype)


def use(model: nn.Module, rule: str) -> None:
    """Make a ViT with learned positions interpolate them by `rule`, a key of `RULES`; timm's own is `antialiased`."""
    if rule != ANTIALIASED:
        model.position_rule = RULES[rule]  # type: ignore[assignment]
        model._pos_embed = MethodType(_with_positions, model)  # type: ignore[assignment]


def rule_of(model: nn.Module, any_size: bool) -> str:
    """How `model` obtains the positions of other image sizes: a key of `RULES`, `rotary`, `none` or `fixed` (one size).

    Args:
        model: a ViT of timm's classes.
        any_size: it accepts images of other sizes.
    """
    if getattr(model, "pos_embed", None) is None:
        return "none" if getattr(model, "rope", None) is None else "rotary"
    own = getattr(model, "position_rule", RULES[ANTIALIASED])
    return next(name for name, rule in RULES.items() if rule == own) if any_size else "fixed"


def why_not_zeroed(model: nn.Module) -> str:
    """Why `zeroed` cannot be used on `model`, or an empty text."""
    if getattr(model, "pos_embed", None) is None:
        rotary = getattr(model, "rope", None) is not None
        return "its positions are rotary" if rotary else "it has no position embedding of its own"
    there = model.pos_embed
    known = isinstance(there, Tensor) and there.ndim > 2 and len(there) == 1
    return "" if known else "its position embedding is no tensor of one row for each token, (1, N, D)"


@contextmanager
def zeroed(model: nn.Module) -> Iterator[None]:
    """Context manager in which the position embeddings of the patches of `model` are 0; those of CLS stay.

    A rotary embedding that the model has besides stays, too.

    Raises:
        UserError: the model has no position embedding, see `why_not_zeroed`.
    """
    if reason := why_not_zeroed(model):
        raise UserError(f"no position embedding to set to 0: {reason}")
    before = 0 if getattr(model, "no_embed_class", False) else int(getattr(model, "num_prefix_tokens", 0))
    embedding = cast(Tensor, model.pos_embed)
    kept = embedding.detach().clone()
    try:
        with torch.no_grad():
            embedding[:, before:] = 0
        yield
    finally:
        with torch.no_grad():
            embedding.copy_(kept)


def _with_positions(model: VisionTransformer, patches: Tensor) -> Tensor:
    """`VisionTransformer._pos_embed` with the model's own rule: tokens (B, T, D) from patches (B, h, w, D)."""
    rule: Any = model.position_rule
    embedding, before = cast(Tensor, model.pos_embed), 0 if model.no_embed_class else model.num_prefix_tokens
    new = interpolate(embedding[:, before:], (patches.shape[1], patches.shape[2]), rule)
    positions = torch.cat([embedding[:, :before], new], dim=1)
    parts = [part.expand(len(patches), -1, -1) for part in (model.cls_token, model.reg_token) if part is not None]
    tokens = patches.flatten(1, 2)
    if model.no_embed_class:
        return cast(Tensor, model.pos_drop(torch.cat([*parts, tokens + positions], dim=1)))
    return cast(Tensor, model.pos_drop(torch.cat([*parts, tokens], dim=1) + positions))
