"""Attention sinks of every head: whether its queries agree on one token, and what that token's value writes.

Source: arXiv 2606.08105 (section 5 and its released code). In an image, block and head, s is the token that receives
the most attention, s = argmax_j mean_i A_ij. It is a sink event if at least `ROUTED` of all queries give it `MASS` or
more. With u_j = γ W_O^h v_j (LayerScale γ, output projection W_O^h of the head, value v_j of token j)
- a NOP sink writes next to nothing: ratio |u_s| / mean_{j≠s} |u_j| at most `NOP_RATIO`;
- a broadcast sink writes one vector to all tokens: ratio at least `BROADCAST_RATIO`, and the update U = A u has a
  stable rank |U|_F² / |U|_2² of at most `BROADCAST_RANK`.
Other events are neither. The sums over blocks and heads are the sinks per image. The released table of sinks per image
takes another ratio: that of the raw values, |v_s| / mean_{j≠s} |v_j|, without the stable rank and without the first
block; that reading is computed beside it, as `raw`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise

import torch
from torch import Tensor

from regvit_lightning.data.transforms import normalise
from regvit_lightning.errors import UserError
from regvit_lightning.frozen.module import FrozenModule
from regvit_lightning.models.backbone import Backbone
from regvit_lightning.models.head_updates import HeadUpdates

MASS, ROUTED = 0.5, 0.9
NOP_RATIO, BROADCAST_RATIO, BROADCAST_RANK = 0.2, 0.5, 1.5
KINDS = ("CLS", "registers", "patches")


@dataclass(frozen=True)
class Sinks:
    """The most attended token of each head, of N images; all tensors are (N, depth, H), on the CPU.

    Attributes:
        token: index of that token, in the order CLS, registers, patches.
        mass: attention that it receives, mean over queries, 0 to 1.
        routed: share of queries that give it `MASS` or more.
        ratio: size of its output-projected value relative to the mean of the others; NaN where these are all 0.
        raw_ratio: the same ratio for the values before the output projection.
        stable_rank: of the head's update, 1 to the width of the head; NaN where there is no sink event.
        error: largest error of a rebuilt block, see `HeadUpdates`; one number.
    """

    token: Tensor
    mass: Tensor
    routed: Tensor
    ratio: Tensor
    raw_ratio: Tensor
    stable_rank: Tensor
    error: float = 0.0

    def __len__(self) -> int:
        return len(self.token)

    @property
    def events(self) -> Tensor:
        """Mask of the sink events."""
        return self.routed >= ROUTED

    @property
    def nop(self) -> Tensor:
        """Mask of the NOP sinks."""
        return self.events & (self.ratio <= NOP_RATIO)

    @property
    def broadcast(self) -> Tensor:
        """Mask of the broadcast sinks."""
        return self.events & (self.ratio >= BROADCAST_RATIO) & (self.stable_rank <= BROADCAST_RANK)

    @property
    def raw_nop(self) -> Tensor:
        """Mask of the NOP sinks as the released table counts them."""
        return self._after_first() & (self.raw_ratio <= NOP_RATIO)

    @property
    def raw_broadcast(self) -> Tensor:
        """Mask of the broadcast sinks as the released table counts them."""
        return self._after_first() & (self.raw_ratio >= BROADCAST_RATIO)

    def _after_first(self) -> Tensor:
        events = self.events.clone()
        events[:, 0] = False
        return events

    def on(self, registers: int, cls: bool) -> dict[str, float]:
        """Shares of the sink events whose token is CLS, a register or a patch; 0 without any event."""
        tokens = self.token[self.events]
        bounds = [0, int(cls), int(cls) + registers, math.inf]
        counts = [((tokens >= low) & (tokens < high)).sum() for low, high in pairwise(bounds)]
        return {name: float(count) / max(len(tokens), 1) for name, count in zip(KINDS, counts, strict=True)}

    def per_image(self) -> dict[str, Tensor]:
        """Number of sinks of each image (N,), float64, by the name of the metric."""
        masks = {
            "sinks": self.events,
            "nop_sinks": self.nop,
            "broadcast_sinks": self.broadcast,
            "other_sinks": self.events & ~self.nop & ~self.broadcast,
            "raw_nop_sinks": self.raw_nop,
            "raw_broadcast_sinks": self.raw_broadcast,
        }
        return {name: mask.sum(dim=(1, 2)).double() for name, mask in masks.items()}


@torch.no_grad()
def measure(backbone: Backbone, images: Tensor) -> Sinks:
    """Sinks of one batch of normalised images (B, 3, H, W), in float32.

    Raises:
        UserError: see `Backbone.walk_heads`.
    """
    blocks: list[Sinks] = []
    with torch.autocast(images.device.type, enabled=False):
        backbone.walk_heads(images.float(), lambda updates: blocks.append(of_block(updates)))
    return join(blocks, dim=1)


def of_block(updates: HeadUpdates) -> Sinks:
    """Sinks of one block, with tensors (B, 1, H)."""
    attention, values = updates.attention, updates.values
    tokens = attention.shape[2]
    mass, token = attention[..., :tokens].mean(dim=2).max(dim=-1)
    given = attention.gather(3, token[..., None, None].expand(-1, -1, tokens, 1))[..., 0]
    routed = (given >= MASS).double().mean(dim=-1)
    # Lengths and singular values of u are those of R v, where the head's output map is Q R with orthonormal Q.
    triangle = torch.linalg.qr(updates.output.double()).R
    written = torch.einsum("bhsd,hcd->bhsc", values.double(), triangle)
    rank = torch.full_like(routed, torch.nan)
    events = routed >= ROUTED
    if events.any():
        rank[events] = stable_rank(attention[events].double() @ written[events])
    ratio, raw_ratio = (_ratio(part[:, :, :tokens], token) for part in (written, values.double()))
    found = (part[:, None].cpu() for part in (token, mass, routed, ratio, raw_ratio, rank))
    token, mass, routed, ratio, raw_ratio, rank = found
    return Sinks(token, mass, routed, ratio, raw_ratio, rank, updates.error)


def stable_rank(update: Tensor) -> Tensor:
    """Stable rank |U|_F² / |U|_2² of U (…, T, D): 1 where all rows are parallel, at most min(T, D); NaN for 0."""
    squares = torch.linalg.eigvalsh(update.mT @ update)
    return squares.sum(dim=-1) / squares[..., -1]


def _ratio(values: Tensor, token: Tensor) -> Tensor:
    """Length of one of the vectors (B, H, S, d) relative to the mean of the others; NaN where those are 0."""
    lengths = values.norm(dim=-1)
    own = lengths.gather(2, token[..., None])[..., 0]
    others = (lengths.sum(dim=-1) - own) / (lengths.shape[-1] - 1)
    return (own / others).where(others > 0, torch.nan)


def join(parts: Sequence[Sinks], dim: int = 0) -> Sinks:
    """Concatenate the images of all `parts`, or along another dimension."""
    names = [field.name for field in fields(Sinks) if field.name != "error"]
    tensors = {name: torch.cat([getattr(part, name) for part in parts], dim=dim) for name in names}
    return Sinks(**tensors, error=max(part.error for part in parts))


class SinkPass(FrozenModule):
    """Measures the sinks of the uint8 images of a test pass, in float32.

    Attributes:
        sinks: sinks of all images, available after test; None where a block is not made of heads alone.
        why_not: the reason, one line; empty otherwise.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__(backbone, "32-true")
        self._parts: list[Sinks] = []
        self.why_not = ""

    def test_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        if self.why_not:
            return
        images = normalise(batch[0], self.mean, self.std)
        try:
            with torch.inference_mode():
                self._parts.append(measure(self.frozen.backbone, images))
        except UserError as error:
            self.why_not = str(error)

    @property
    def sinks(self) -> Sinks | None:
        return join(self._parts) if self._parts and not self.why_not else None

    def per_image(self) -> dict[str, Tensor]:
        """`Sinks.per_image` of all images; empty where sinks are not measured."""
        sinks = self.sinks
        return {} if sinks is None else sinks.per_image()
