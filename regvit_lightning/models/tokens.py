"""Data classes that every backbone returns: tokens, attention and projections by kind of token."""

from dataclasses import dataclass

from torch import Tensor

from regvit_lightning.models.arms.rows import SHARES


@dataclass(frozen=True)
class Tokens:
    """Output tokens of a ViT, by kind of token.

    Attributes:
        cls: (B, D), or None for a model without CLS.
        registers: (B, R, D), R may be 0.
        patches: (B, h, w, D), row-major from the upper left of the image.
    """

    cls: Tensor | None
    registers: Tensor
    patches: Tensor


@dataclass(frozen=True)
class Attention:
    """Attention probabilities of one block, by query token.

    Attributes:
        cls: (B, heads, h, w), from CLS to each patch; None for a model without CLS.
        registers: (B, heads, R, h, w), from each register to each patch.
        patches: (B, heads, h, w, h, w), from each patch (first h, w) to each patch (last h, w).
        full: (B, heads, T, T) with T = CLS + R + h w; rows are queries and sum to 1, unless `rows` says otherwise. The
            others are views of it; their sums are below 1 by the attention to CLS and registers.
        rows: what the rows are, see `arms.rows`.
    """

    cls: Tensor | None
    registers: Tensor
    patches: Tensor
    full: Tensor
    rows: str = SHARES

    def cut(self, weights: Tensor) -> Tokens:
        """Split the last axis of `weights` (…, T), one number per token, by kind of token.

        Returns:
            cls (…) or None, registers (…, R), patches (…, h, w).
        """
        registers, grid = self.registers.shape[2], self.patches.shape[2:4]
        lengths = [int(self.cls is not None), registers, grid[0] * grid[1]]
        cls, to_registers, patches = weights.split(lengths, dim=-1)
        return Tokens(None if self.cls is None else cls[..., 0], to_registers, patches.unflatten(-1, grid))


@dataclass(frozen=True)
class LastBlock:
    """Internal activations of the last block.

    Attributes:
        tokens: output of the block, before the final norm.
        q, k, v: output of the block's query, key and value projections, biases included, heads side by side in the
            last axis; before q/k norm and RoPE, as LOST takes them (Siméoni et al. 2021, section 3.1).
        attention: after softmax, from q and k after q/k norm and RoPE.
    """

    tokens: Tokens
    q: Tokens
    k: Tokens
    v: Tokens
    attention: Attention


@dataclass(frozen=True)
class Projections:
    """Queries, keys and values of one block.

    Attributes:
        q, k, v: see `LastBlock`.
    """

    q: Tokens
    k: Tokens
    v: Tokens


@dataclass(frozen=True)
class PrefixAttention:
    """Attention probabilities from CLS and the registers of one block to the patches, without the rows of the patches.

    Attributes:
        cls: (B, heads, h, w), from CLS to each patch; None for a model without CLS.
        registers: (B, heads, R, h, w), from each register to each patch; R may be 0.
    """

    cls: Tensor | None
    registers: Tensor


@dataclass(frozen=True)
class Inside:
    """Activations of one block in memory that grows linearly with the number of patches.

    Attributes:
        tokens: output of the block, before the final norm.
        normed: the same after the model's final norm.
        projections: queries, keys and values, see `LastBlock`.
        attention: after softmax, of CLS and registers alone.
    """

    tokens: Tokens
    normed: Tokens
    projections: Projections
    attention: PrefixAttention
