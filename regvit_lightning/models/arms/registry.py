"""How each arm changes the register ViT, and what it costs beyond its parameters.

The plain model is built first, with its own draws; then the arm changes it. So at equal seed all weights that both have
start from the same values, and whatever is drawn afterwards (classifier, heads, text tower) is the same, too.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from timm.layers import Attention, LayerNorm
from timm.models.vision_transformer import VisionTransformer, init_weights_vit_timm
from torch import nn

from regvit_lightning.models.arms import NONE
from regvit_lightning.models.arms.clipped import ClippedAttention
from regvit_lightning.models.arms.differential import DifferentialAttention
from regvit_lightning.models.arms.extra_key import LearnedKey, ZeroKey
from regvit_lightning.models.arms.gates import HeadwiseGate, ValueGate
from regvit_lightning.models.arms.global_pathway import STATE, GlobalAttention
from regvit_lightning.models.arms.last_pooling import LastPoolingNorm
from regvit_lightning.models.arms.split_registers import SplitRegisterAttention, check_split
from regvit_lightning.runtime import seeds
from regvit_lightning.settings import check


def plain_products(tokens: int, registers: int, heads: int) -> int:
    """Products of softmax attention, see `Arm.products`: 2 T²."""
    return 2 * tokens**2


@dataclass(frozen=True)
class Arm:
    """An arm.

    Attributes:
        change: changes a plain model in place. Linear layers that it adds are initialised afterwards as all others are
            (std 0.02, bias 0); all else that it adds it draws itself.
        products: from the number of tokens T (CLS, registers, patches), of registers and of heads to the number of
            products of two vectors of a head's width in one head of a block, for one image: a query and a key, or a
            weight and a value; 2 T² in the plain model. Linear layers are counted by themselves.
        tensor: end of the name of a tensor that it adds, by which a file of it is recognised; empty where it adds none.
    """

    change: Callable[[VisionTransformer], None]
    tensor: str = ""
    products: Callable[[int, int, int], int] = plain_products


def apply(name: str, model: VisionTransformer) -> None:
    """Change a plain model to the arm `name`; `none` changes nothing. The global random state is left as it was."""
    if name == NONE:
        return
    with torch.random.fork_rng(devices=[]):
        # A seed of its own: what is drawn after the model must not repeat the numbers of the arm's weights.
        drawn = int(torch.randint(2**62, (), device="cpu"))
        torch.default_generator.manual_seed(seeds.derive(drawn, "arm"))
        before = set(model.modules())
        ARMS[name].change(model)
        for module in model.modules():
            if module not in before:
                init_weights_vit_timm(module, needs_reset=False)


def products(model: nn.Module, tokens: int, registers: int) -> int:
    """`Arm.products` of the arm of a model; those of the plain model where it has none."""
    name = getattr(model, "arm", NONE)
    count = plain_products if name == NONE else ARMS[name].products
    heads = getattr(cast(Any, model).blocks[0].attn, "num_heads", 1) if name != NONE else 1
    return count(tokens, registers, heads)


def arms_of(tensors: Iterable[str]) -> list[str]:
    """Names of the arms that have tensors of such names, which plain models lack."""
    own = {name: arm.tensor for name, arm in ARMS.items() if arm.tensor}
    return [name for name, end in own.items() if any(tensor.endswith(end) for tensor in tensors)]


def replace_attention(model: VisionTransformer, make: Callable[..., Attention]) -> None:
    """Replace the attention of block l = 0, 1, … by `make(dim, num_heads=…, qkv_bias=…, depth=l)`.

    The new attention takes over the layers of the old one under their names (`qkv`, `proj`, …), with their weights.
    """
    for depth, block in enumerate(cast(Any, model.blocks)):
        plain: Any = block.attn
        bias = plain.qkv.bias is not None
        new: Any = make(plain.qkv.in_features, num_heads=plain.num_heads, qkv_bias=bias, depth=depth)
        for name, layer in plain.named_children():
            setattr(new, name, layer)
        new.fused_attn = plain.fused_attn
        block.attn = new


def _gated(model: VisionTransformer) -> None:
    for block in cast(Any, model.blocks):  # timm's attention has the gate, as `gate`, which is None where it is off
        block.attn.gate = nn.Linear(model.embed_dim, model.embed_dim)


def _qk_norm(model: VisionTransformer) -> None:
    for block in cast(Any, model.blocks):
        epsilon, width = block.norm1.eps, block.attn.head_dim
        block.attn.q_norm, block.attn.k_norm = LayerNorm(width, eps=epsilon), LayerNorm(width, eps=epsilon)


def _scale_norm(model: VisionTransformer) -> None:
    for block in cast(Any, model.blocks):
        block.attn.norm = LayerNorm(model.embed_dim, eps=block.norm1.eps)


def _norm_embed(model: VisionTransformer) -> None:
    has_it = not isinstance(model.norm_pre, nn.Identity)
    check(not has_it, "arm norm_embed: this recipe's model has a norm before the first block already; train it without")
    model.norm_pre = LayerNorm(model.embed_dim, eps=cast(Any, model.norm).eps)


def _global(model: VisionTransformer) -> None:
    replace_attention(model, GlobalAttention)


def _split_registers(model: VisionTransformer) -> None:
    heads = cast(Any, model.blocks)[0].attn.num_heads
    check_split(model.num_reg_tokens, heads)
    replace_attention(model, partial(SplitRegisterAttention, registers=model.num_reg_tokens))


def _last_pooling(count: int) -> Callable[[VisionTransformer], None]:
    def change(model: VisionTransformer) -> None:
        plain = cast(LayerNorm, model.norm)
        norm = LastPoolingNorm(model.embed_dim, model.num_prefix_tokens, count, eps=plain.eps)
        norm.weight, norm.bias = plain.weight, plain.bias
        model.norm = norm

    return change


def _attention(make: Callable[..., Attention]) -> Callable[[VisionTransformer], None]:
    return partial(replace_attention, make=make)


def _one_more_key(tokens: int, registers: int, heads: int) -> int:
    return 2 * tokens * (tokens + 1)


def _two_maps_of_values(tokens: int, registers: int, heads: int) -> int:
    return 3 * tokens**2  # queries and keys have half the width, but each map is multiplied with whole values


def _with_pathway(tokens: int, registers: int, heads: int) -> int:
    # Pooling takes one product for each token. Two layers of the pathway meet one vector of an image, but are counted
    # by themselves as if they met every token.
    return 2 * tokens**2 + tokens - 2 * STATE * (tokens - 1)


def _through_registers(tokens: int, registers: int, heads: int) -> int:
    # N / heads registers of each head attend the patches and each other, patches and CLS attend them.
    patches, own = tokens - 1 - registers, registers / heads
    return round(2 * own * (patches + own + patches + 1))


ARMS: Mapping[str, Arm] = {
    "gated": Arm(_gated, "attn.gate.weight"),
    "gated_headwise": Arm(_attention(HeadwiseGate), "attn.gate.weight"),
    "value_gate": Arm(_attention(ValueGate), "attn.value_gate.weight"),
    "value_gate_headwise": Arm(_attention(partial(ValueGate, headwise=True)), "attn.value_gate.weight"),
    "softmax1": Arm(_attention(ZeroKey), products=_one_more_key),
    "bias_kv": Arm(_attention(LearnedKey), "attn.bias_k", _one_more_key),
    "clipped": Arm(_attention(ClippedAttention)),
    "qk_norm": Arm(_qk_norm, "attn.q_norm.weight"),
    "scale_norm": Arm(_scale_norm, "attn.norm.weight"),
    "diff": Arm(_attention(DifferentialAttention), "attn.lambda_q1", _two_maps_of_values),
    "norm_embed": Arm(_norm_embed, "norm_pre.weight"),
    "global": Arm(_global, "attn.pathway.value.weight", _with_pathway),
    "rats": Arm(_split_registers, products=_through_registers),
    "last1": Arm(_last_pooling(1)),
    "last7": Arm(_last_pooling(7)),
}
