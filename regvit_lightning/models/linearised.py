"""Linearised blocks of a ViT: the matrix that a block comes closest to, from its weights alone.

Source: SINDER (Wang et al. 2024, arXiv 2407.16826) and its released code. Both branches of a block are taken as linear
maps beside the identity: (1 + γ2 W2 L diag(w2) C) (1 + γ1 W_O W_V diag(w1) C), where C removes the mean as the layer
norm does (not its division by the standard deviation), w are the weights of the norms, γ the LayerScales, and every
token attends to itself alone. L is the least-squares map of the MLP's hidden layer over inputs x ~ N(0, 1). The
reference fits it to 100,000 draws; here it is their limit, exact up to a quadrature: by Stein's lemma E[h(x) x] is the
mean gradient of h, an integral over one variable for each hidden unit.
"""

from typing import Any

import numpy as np
import torch
from timm.layers import GluMlp, Mlp, RmsNorm, SwiGLU
from torch import Tensor, nn

from regvit_lightning.errors import UserError
from regvit_lightning.models.head_updates import layer_scale

NODES = 96  # of the Gauss-Hermite quadrature


def linearised(block: Any, name: str) -> Tensor:
    """Matrix (D, D), float32, of a block with an attention `attn` and an MLP, each behind a norm.

    Args:
        block: the block.
        name: what to call it in a message.

    Raises:
        UserError: a part that is not such an attention or MLP.
    """
    attention, mlp = block.attn, block.mlp
    if _has_norm(attention) or _has_norm(mlp) or getattr(attention, "gate", None) is not None:
        raise UserError(f"{name} has a norm or a gate inside a branch, so it is not linearised")
    unit = torch.eye(attention.proj.weight.shape[0], device=attention.proj.weight.device)
    first = attention.proj.weight.float() @ _value_weight(attention).float()
    second = mlp.fc2.weight.float() @ hidden_map(mlp, name)
    return _branch(block, 2, second, unit) @ _branch(block, 1, first, unit)


def _branch(block: Any, number: int, matrix: Tensor, unit: Tensor) -> Tensor:
    """1 + γ M diag(w) C for the branch `number` with the matrix M."""
    norm, gamma = getattr(block, f"norm{number}"), layer_scale(block, number)
    weight = getattr(norm, "weight", None)
    matrix = matrix if weight is None else matrix * weight.float()
    matrix = matrix if isinstance(norm, RmsNorm) else matrix - matrix.mean(dim=1, keepdim=True)
    return unit + (matrix if gamma is None else gamma.float()[:, None] * matrix)


def _value_weight(attention: Any) -> Tensor:
    weight: Tensor = attention.v_proj.weight if attention.qkv is None else attention.qkv.weight.chunk(3)[2]
    return weight


def _has_norm(module: Any) -> bool:
    return not isinstance(getattr(module, "norm", nn.Identity()), nn.Identity)


def hidden_map(mlp: Any, name: str) -> Tensor:
    """Least-squares map (hidden, D) from x ~ N(0, 1) to the hidden layer of an MLP, with or without a gate.

    Raises:
        UserError: another kind of MLP.
    """
    if isinstance(mlp, SwiGLU):
        return _gated(mlp.act, *_parts(mlp.fc1_g), *_parts(mlp.fc1_x))
    if isinstance(mlp, GluMlp):
        weights, biases = (part.chunk(2) for part in _parts(mlp.fc1))
        gate, linear = (1, 0) if mlp.gate_last else (0, 1)
        return _gated(mlp.act, weights[gate], biases[gate], weights[linear], biases[linear])
    if isinstance(mlp, Mlp):
        weight, bias = _parts(mlp.fc1)
        _, slope, _ = _moments(mlp.act, weight, bias)
        return (slope[:, None] * weight).float()
    raise UserError(f"{name} has a {type(mlp).__name__}, which is not linearised")


def _parts(layer: Any) -> tuple[Tensor, Tensor]:
    weight: Tensor = layer.weight.double()
    return weight, weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.double()


def _gated(act: nn.Module, gate: Tensor, gate_bias: Tensor, linear: Tensor, linear_bias: Tensor) -> Tensor:
    """Mean gradient of act(a x + b) (c x + d): E[f' (c x + d)] a + E[f] c."""
    mean, slope, tilt = _moments(act, gate, gate_bias)
    along = (gate * linear).sum(dim=1) / gate.square().sum(dim=1).clamp(min=1e-300)
    return ((linear_bias * slope + along * tilt)[:, None] * gate + mean[:, None] * linear).float()


def _moments(act: nn.Module, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """E[f(z)], E[f'(z)] and E[f'(z) (z - b)] for z ~ N(b, |w|²) and each row w of `weight`, without a derivative."""
    nodes, weights = (torch.from_numpy(part).to(weight) for part in np.polynomial.hermite_e.hermegauss(NODES))
    weights, spread = weights / weights.sum(), weight.norm(dim=1).clamp(min=1e-150)
    values = act(bias[:, None] + spread[:, None] * nodes)
    mean = values @ weights
    slope = (values * nodes) @ weights / spread
    return mean, slope, (values * nodes.square()) @ weights - mean
