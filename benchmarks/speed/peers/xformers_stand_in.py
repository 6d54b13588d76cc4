"""What DINOv2's training needs of xFormers, which is made for GPUs: the same operations with torch, for a CPU."""

import sys
from collections.abc import Iterator, Sequence
from itertools import groupby
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


class BlockDiagonalMask:
    """Sequences of several lengths behind one another, (1, sum of lengths, …), each of which attends to itself.

    Args:
        lengths: of the sequences.
    """

    def __init__(self, lengths: Sequence[int]) -> None:
        self.lengths = list(lengths)
        self._batch_sizes: Sequence[int] | None = None  # set by DINOv2, too

    @classmethod
    def from_seqlens(cls, lengths: Sequence[int]) -> "BlockDiagonalMask":
        """The mask of sequences of these lengths."""
        return cls(lengths)

    @classmethod
    def from_tensor_list(cls, tensors: Sequence[Tensor]) -> tuple["BlockDiagonalMask", Tensor]:
        """The mask of batches (b, n, …), and all of them behind one another."""
        mask = cls([tensor.shape[1] for tensor in tensors for _ in range(len(tensor))])
        mask._batch_sizes = [len(tensor) for tensor in tensors]
        return mask, torch.cat([tensor.flatten(0, 1)[None] for tensor in tensors], dim=1)

    def groups(self) -> Iterator[tuple[int, int]]:
        """Number and length of the sequences of each batch."""
        if self._batch_sizes is None:
            yield from ((len(list(same)), length) for length, same in groupby(self.lengths))
            return
        first = 0
        for size in self._batch_sizes:
            yield size, self.lengths[first]
            first += size

    def split(self, joined: Tensor) -> list[Tensor]:
        """The batches (b, n, …) of sequences behind one another."""
        groups = list(self.groups())
        parts = joined[0].split([size * length for size, length in groups])
        return [part.unflatten(0, group) for part, group in zip(parts, groups, strict=True)]


def memory_efficient_attention(q: Tensor, k: Tensor, v: Tensor, attn_bias: BlockDiagonalMask | None = None) -> Tensor:
    """Attention of (B, N, heads, d)."""
    if attn_bias is None:
        return _attention(q, k, v)
    parts = zip(*(attn_bias.split(part) for part in (q, k, v)), strict=True)
    return torch.cat([_attention(*part).flatten(0, 1)[None] for part in parts], dim=1)


def _attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    heads_first = (part.transpose(1, 2) for part in (q, k, v))
    attended: Tensor = F.scaled_dot_product_attention(*heads_first)  # type: ignore[arg-type]
    return attended.transpose(1, 2)


def index_select_cat(sources: Sequence[Tensor], indices: Sequence[Tensor]) -> Tensor:
    """Rows of several tensors, flattened and joined."""
    return torch.cat([source[index].flatten() for source, index in zip(sources, indices, strict=True)])


def scaled_index_add(
    x: Tensor, index: Tensor, source: Tensor, scaling: Tensor | None = None, alpha: float = 1.0
) -> Tensor:
    """Add `alpha` times `source`, scaled, to the rows `index` of x (B, N, D)."""
    return torch.index_add(x, 0, index, source if scaling is None else (source * scaling).to(x.dtype), alpha=alpha)


def install() -> None:
    """Make `xformers.ops` importable as these functions, where it is not installed."""
    package, ops, fmha = (ModuleType(name) for name in ("xformers", "xformers.ops", "xformers.ops.fmha"))
    own: dict[str, Any] = {
        "memory_efficient_attention": memory_efficient_attention,
        "unbind": torch.unbind,
        "index_select_cat": index_select_cat,
        "scaled_index_add": scaled_index_add,
        "fmha": fmha,
    }
    vars(ops).update(own)
    vars(fmha).update({"BlockDiagonalMask": BlockDiagonalMask})
    vars(package).update({"ops": ops})
    sys.modules.update({"xformers": package, "xformers.ops": ops, "xformers.ops.fmha": fmha})
