"""What each attention head adds to the residual stream: its attention, its values, and the map of its output.

The update of a head is U = A u with u_j = γ W_O^h v_j, γ being the LayerScale of the block, where it has one. That
nothing was forgotten is checked at every block: it is rebuilt from A and v, and must equal the block's own output.
A norm between the values and the projection has its weight in u; its division, one number for each query, is left out.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from regvit_lightning.errors import UserError
from regvit_lightning.models.arms.attention import ArmAttention

TOLERANCE = 1e-4  # of a rebuilt block, relative to its output


@dataclass(frozen=True)
class HeadUpdates:
    """Attention and values of all heads of one block, as its forward pass used them.

    Attributes:
        block: index 0..depth-1.
        attention: (B, H, T, S), weight of each of S keys for each of T queries, in the order CLS, registers, patches;
            keys beyond the T tokens, such as a learned one, stand last. Rows sum to 1 under a softmax.
        values: (B, H, S, dh), after whatever the module does to them before the attention.
        output: (H, D, dh), the columns of the output projection of each head times LayerScale: u_j = output[h] v_j.
        error: largest difference between the rebuilt block and its own output, relative to the norm of the latter.
    """

    block: int
    attention: Tensor
    values: Tensor
    output: Tensor
    error: float


class _Products(TorchFunctionMode):
    """Operands of the last product of matrices (B, H, ·, ·) in the module that runs: the attention and its values."""

    def __init__(self) -> None:
        super().__init__()
        self.running = False
        self.operands: tuple[Tensor, Tensor] | None = None

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        product = function in (torch.matmul, torch.Tensor.matmul)
        if self.running and product and arguments[0].ndim == arguments[1].ndim == 4:
            self.operands = arguments[0], arguments[1]
        return function(*arguments, **(options or {}))


@contextmanager
def showing(name: str, blocks: nn.ModuleList, see: Callable[[HeadUpdates], None]) -> Iterator[None]:
    """Context manager that calls `see` for each of `blocks` in a forward pass, without fused kernels.

    Args:
        name: name of the model, for messages.
        blocks: blocks with an attention module `attn`, which honours `fused_attn`.
        see: called after each block; only one block's attention is in memory at a time.

    Raises:
        UserError: in the forward pass, a block that differs from its rebuilt output by more than `TOLERANCE`.
    """
    products, inputs, handles = _Products(), dict[nn.Module, Tensor](), []
    listed: list[Any] = list(blocks)
    modules = [block.attn for block in listed]
    fused = [module.fused_attn for module in modules]

    def start(module: nn.Module, arguments: Any) -> None:
        inputs[module], products.operands = arguments[0], None

    def enter(module: nn.Module, arguments: Any) -> None:
        inputs[module], products.running = arguments[0], True

    def leave(*_: Any) -> None:
        products.running = False

    def show(index: int, block: Any, output: Tensor) -> None:
        tokens, normed = inputs.pop(block), inputs.pop(block.attn)
        if products.operands is None:
            raise UserError(f"{name}: the attention of block {index} is no product of weights and values")
        attention, values = products.operands
        if attention.shape[2] != tokens.shape[1]:
            raise UserError(
                f"{name}: the tokens of block {index} attend each other in several steps, not in one product"
            )
        rebuilt = _rebuilt(block, tokens[:1], normed[:1], attention[:1] @ values[:1])
        error = float((rebuilt - output[:1]).norm() / output[:1].norm())
        if not error <= TOLERANCE:
            why = f"rebuilt from its attention and values it differs by {error:.1e} (most: {TOLERANCE:g})"
            raise UserError(f"{name}: block {index} is not the sum of what its heads write: {why}")
        see(HeadUpdates(index, attention, values, _output(block), error))

    for index, block in enumerate(listed):
        handles += [block.register_forward_pre_hook(start), block.attn.register_forward_pre_hook(enter)]
        handles += [block.attn.register_forward_hook(leave)]
        handles += [block.register_forward_hook(lambda one, _, output, index=index: show(index, one, output))]
    try:
        for module in modules:
            module.fused_attn = False
        with products:
            yield
    finally:
        for handle in handles:
            handle.remove()
        for module, before in zip(modules, fused, strict=True):
            module.fused_attn = before


def layer_scale(block: Any, branch: int) -> Tensor | None:
    """LayerScale γ (D,) of the attention (1) or the MLP (2) of a block; None where it has none."""
    scale = getattr(getattr(block, f"ls{branch}", None), "gamma", None)
    return getattr(block, f"gamma_{branch}", None) if scale is None else scale


def inner_norm(attention: Any) -> Any:
    """The norm between the values and the output projection; None where there is none, as in most models."""
    norm = getattr(attention, "norm", None)
    return None if norm is None or isinstance(norm, nn.Identity) else norm


def _output(block: Any) -> Tensor:
    weight, gamma, inner = block.attn.proj.weight, layer_scale(block, 1), inner_norm(block.attn)
    weight = weight if getattr(inner, "weight", None) is None else weight * inner.weight
    scaled = weight if gamma is None else gamma[:, None] * weight
    return scaled.unflatten(1, (block.attn.num_heads, -1)).transpose(0, 1)


def _rebuilt(block: Any, tokens: Tensor, normed: Tensor, mixed: Tensor) -> Tensor:
    """Output (B, T, D) of a block from its input, the normed input, and A v of each head (B, H, T, dh)."""
    gamma, bias = layer_scale(block, 1), block.attn.proj.bias
    released, inner = _released(block.attn, mixed, normed), inner_norm(block.attn)
    if inner is None:
        update = torch.einsum("bhtd,hcd->btc", released, _output(block))
    else:
        update = nn.functional.linear(inner(released.transpose(1, 2).flatten(2)), block.attn.proj.weight)
        update = update if gamma is None else gamma * update
    if bias is not None:
        update = update + (bias if gamma is None else gamma * bias)
    pathway = getattr(block.attn, "pathway", None)  # of the arm `global`, beside the heads
    if pathway is not None:
        beside = pathway(normed)
        update = update + (beside if gamma is None else gamma * beside)
    middle, scale = tokens + update, layer_scale(block, 2)
    more = block.mlp(block.norm2(middle))
    return middle + (more if scale is None else scale * more)


def _released(attention: Any, mixed: Tensor, normed: Tensor) -> Tensor:
    """What each head (B, H, T, dh) hands to the output projection: A v, behind the gate of those that have one."""
    if isinstance(attention, ArmAttention):
        return attention.release(mixed, normed)
    if getattr(attention, "gate", None) is None:
        return mixed
    gate: Tensor = attention.gate(normed).sigmoid()
    return mixed * gate.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
