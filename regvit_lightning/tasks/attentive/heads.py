"""Attentive heads on frozen tokens: CAPI's and that of efficient probing, as many as a grid has in one computation.

Both read tokens x by queries: softmax(q K x) weights their values V x, and a linear layer classifies what was read.
A key projection can be moved to the query, as q (K x + b) = (Kᵀ q) x + a constant, which softmax ignores; values can be
projected after the weighted mean, as the weights sum to 1. No token is therefore projected: a head costs two products
of queries and tokens, not one of D × 2 D for each token, and computes the same.

Source: Darcet et al. 2025 (CAPI, arXiv 2502.08769) and capi/eval_classification.py; Psomas et al. 2026 (efficient
probing, arXiv 2506.10178) and efficient-probing/poolings/ep.py.
"""

import copy
from collections.abc import Sequence
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from regvit_lightning.settings import check

INIT_STD = 0.02  # of CAPI's weights (truncated at two units) and of EP's queries


class AttentiveHead(Protocol):
    """Head with M queries that reads tokens of width D and knows K classes.

    Attributes:
        linear: classifier of what was read, D to K.
    """

    linear: nn.Linear

    def queries(self) -> Tensor:
        """Queries (M, D) that are compared with tokens by their dot product, its scale included."""
        ...

    def values(self) -> tuple[Tensor, Tensor]:
        """Value projection: weights (M, D / M, D), the rows of each query's own channels, and biases (D,)."""
        ...


class CapiHead(nn.Module):
    """CAPI's head: one learnt query, keys and values of every token, heads of 64 channels, a linear classifier.

    D + (2 D² + 2 D) + (K D + K) parameters.

    Args:
        dim: width D of the tokens.
        classes: number of classes K.
        head_width: channels of an attention head.

    Raises:
        SettingsError: D is not a multiple of `head_width`.
    """

    def __init__(self, dim: int, classes: int, head_width: int) -> None:
        super().__init__()
        _check_divides(dim, "head_width", head_width)
        self.dim, self.heads = dim, dim // head_width
        self.query = nn.Parameter(torch.empty(dim))
        self.kv = nn.Linear(dim, 2 * dim)
        self.linear = nn.Linear(dim, classes)
        for weight in (self.query, self.kv.weight, self.linear.weight):
            nn.init.trunc_normal_(weight, std=INIT_STD)
        for layer in (self.kv, self.linear):
            nn.init.zeros_(layer.bias)

    def queries(self) -> Tensor:
        own, keys = self.query.view(self.heads, -1), self.kv.weight[: self.dim].unflatten(0, (self.heads, -1))
        return torch.einsum("mc,mcd->md", own, keys) * own.shape[1] ** -0.5

    def values(self) -> tuple[Tensor, Tensor]:
        return self.kv.weight[self.dim :].unflatten(0, (self.heads, -1)), self.kv.bias[self.dim :]


class EpHead(nn.Module):
    """Head of efficient probing: queries are compared with the tokens themselves, each reads channels of its own.

    Q D + D² + (K D + K) parameters.

    Args:
        dim: width D of the tokens.
        classes: number of classes K.
        queries: number of queries Q.

    Raises:
        SettingsError: D is not a multiple of the number of queries.
    """

    def __init__(self, dim: int, classes: int, queries: int) -> None:
        super().__init__()
        _check_divides(dim, "queries", queries)
        self.query = nn.Parameter(INIT_STD * torch.randn(queries, dim))
        self.value = nn.Linear(dim, dim, bias=False)
        self.linear = nn.Linear(dim, classes)

    def queries(self) -> Tensor:
        return self.query * self.query.shape[1] ** -0.5

    def values(self) -> tuple[Tensor, Tensor]:
        weight = self.value.weight
        return weight.unflatten(0, (len(self.query), -1)), weight.new_zeros(len(weight))


class MeanHead(nn.Module):
    """The floor of attentive heads: a linear classifier of the mean token, as CAPI initialises one.

    Args:
        dim: width D of the tokens.
        classes: number of classes K.
    """

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, classes)
        nn.init.trunc_normal_(self.linear.weight, std=INIT_STD)
        nn.init.zeros_(self.linear.bias)


class HeadGroup(nn.Module):
    """Heads of one kind that read the same tokens and start from the same weights.

    Args:
        head: the head that all others are copies of, attentive or a `MeanHead`.
        count: number of heads G.

    Attributes:
        heads: the heads, with parameters of their own.
    """

    def __init__(self, head: nn.Module, count: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(copy.deepcopy(head) for _ in range(count))
        self.attentive = not isinstance(head, MeanHead)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (B, G, K) of tokens (B, N, D)."""
        linears = [cast(nn.Linear, head.linear) for head in self.heads]
        weight, bias = (torch.stack([getattr(linear, name) for linear in linears]) for name in ("weight", "bias"))
        read = self._read(tokens) if self.attentive else tokens.mean(dim=1)[:, None].expand(-1, len(linears), -1)
        return torch.einsum("bgd,gkd->bgk", read, weight) + bias

    def attention(self, tokens: Tensor, index: int) -> Tensor:
        """Share of attention of each token (B, N), the mean over the queries of head `index`; sums to 1."""
        head = cast(AttentiveHead, self.heads[index])
        return attend(tokens, head.queries()[None])[:, 0].mean(dim=1)

    def _read(self, tokens: Tensor) -> Tensor:
        """What the heads read (B, G, D)."""
        heads = cast(Sequence[AttentiveHead], self.heads)
        shares = attend(tokens, torch.stack([head.queries() for head in heads]))
        weights, biases = (torch.stack(part) for part in zip(*(head.values() for head in heads), strict=True))
        means = torch.einsum("bgmn,bnd->bgmd", shares, tokens)
        return torch.einsum("bgmd,gmcd->bgmc", means, weights).flatten(2) + biases


def attend(tokens: Tensor, queries: Tensor) -> Tensor:
    """Attention (B, G, M, N) of queries (G, M, D), scale included, to tokens (B, N, D)."""
    return torch.einsum("bnd,gmd->bgmn", tokens, queries).softmax(dim=-1)


def _check_divides(dim: int, name: str, value: int) -> None:
    fitting = [n for n in range(1, dim + 1) if dim % n == 0 and n <= value]
    check(dim % value == 0, f"{name}={value}: tokens of width {dim} are no multiple; give {name}={fitting[-1]}")
