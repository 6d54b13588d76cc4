"""Regularisers that make the registers of an image differ, and register dropout: settings of every recipe.

The registers paper leaves open how registers could be regularised (Darcet et al. 2023, arXiv 2309.16588, section 5);
the terms below are choices of this suite. Registers are those after the final norm, of unit length; maps are those of
the last block. Each term is a mean over images and is added to the loss with its weight.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regvit_lightning.models import names, vit
from regvit_lightning.models.arms.attention import ArmAttention
from regvit_lightning.pretrain import register_dropout
from regvit_lightning.pretrain.koleo import koleo
from regvit_lightning.settings import check

TERMS = ("register_gram", "register_koleo", "register_disjoint")
NOT_IN = {  # arms, and why they have no such term
    "register_disjoint": {
        "diff": "whose weights may be negative, so that a register has no map",
        "rats": "where each head has registers of its own, whose maps have no mean over heads",
    },
    "register_dropout": {"rats": "where each head needs its registers"},
}


def gram(registers: Tensor) -> Tensor:
    """Mean squared cosine over all pairs of different registers of an image: 0 where they are orthogonal, at most 1.

    It is the sum of squares off the diagonal of the Gram matrix of unit registers, divided by their number.

    Args:
        registers: (B, R, D), R at least 2.
    """
    unit = F.normalize(registers, dim=2)
    cosine, count = unit @ unit.mT, registers.shape[1]
    off = cosine - torch.diag_embed(cosine.diagonal(dim1=1, dim2=2))
    return off.square().sum(dim=(1, 2)).mean() / (count * (count - 1))


def disjoint(maps: Tensor) -> Tensor:
    """Sum of <m_a, m_b> over pairs a < b of the maps of an image: 0 where no two maps share a patch.

    Args:
        maps: (B, R, N), each sums to 1.

    Returns:
        Mean over the images, at most R (R - 1) / 2, where all registers look at the same patch.
    """
    return (maps.sum(dim=1).square().sum(dim=1) - maps.square().sum(dim=(1, 2))).mean() / 2


def attention_maps(block: nn.Module, tokens: Tensor, registers: slice, patches: slice) -> Tensor:
    """Attention of registers over patches in a block, mean over heads, each map scaled to a sum of 1: (B, R, N).

    The scale removes what goes to CLS and registers: the term could otherwise be lowered by looking there.

    Args:
        block: block with attention whose weights are not negative; a map without any weight on a patch stays 0.
        tokens: its input (B, T, D).
        registers, patches: their positions among the T tokens.
    """
    attention, normed = cast(Any, block.attn), cast(Any, block.norm1)(tokens)
    # timm's plain attention is what `ArmAttention` does with the same attributes.
    kind = type(attention) if isinstance(attention, ArmAttention) else ArmAttention
    q, k, _ = kind.project(attention, normed)
    with torch.autocast(tokens.device.type, enabled=False):
        q, k = _precise(q[:, :, registers]), _precise(k)
        weights = kind.weights(attention, q, k)
        maps = weights[..., patches].mean(dim=1)
        return maps / maps.sum(dim=2, keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)


def _precise(values: Tensor) -> Tensor:
    """Values in float32, or float64 if they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


@dataclass
class Seen:
    """What a forward pass has shown of the registers.

    Attributes:
        terms: one value for each of `RegisterTerms.names`, weighted, available after the pass; empty without any.
    """

    terms: Tensor


class RegisterTerms:
    """Terms and dropout of the registers, as the settings of a recipe ask for.

    Args:
        settings: settings of the recipe, with a weight for each of `TERMS`, and `register_dropout`.
        model: name of the register ViT.

    Attributes:
        names: terms with a weight above 0.
        dropout: probability that a register is left out.

    Raises:
        SettingsError: a term for fewer than two registers, dropout without any, or an arm that has no such maps or
            registers.
    """

    def __init__(self, settings: Any, model: str) -> None:
        self.weights = {name: getattr(settings, name) for name in TERMS if getattr(settings, name) > 0}
        self.names, self.dropout = tuple(self.weights), float(settings.register_dropout)
        self.registers = vit.parse_name(model)[1]
        arm = names.arm_of(model)
        for name, arms in NOT_IN.items():
            why = f"{name}={getattr(settings, name):g}: {model} has the arm {arm}, {arms.get(arm, '')}"
            check(not getattr(settings, name) or arm not in arms, f"{why}; give another model or {name}=0")
        needed = {**dict.fromkeys(self.names, 2), **({"register_dropout": 1} if self.dropout else {})}
        for name, least in needed.items():
            given = f"{name}={getattr(settings, name):g}: needs at least {least} register{'s' * (least > 1)}"
            check(self.registers >= least, f"{given}, {model} has {self.registers}; give another model or {name}=0")

    def drawn(self, images: int) -> Tensor | None:
        """Registers that each image of a batch keeps, from the global generator of the CPU; None without dropout."""
        if not self.dropout:
            return None
        count = register_dropout.kept_count(self.registers, self.dropout)
        return register_dropout.subsets((images,), self.registers, count)

    @contextmanager
    def seen_in(self, backbone: vit.RegisterViT, kept: Tensor | None = None) -> Iterator[Seen]:
        """Context manager: the forward pass of `backbone` inside it leaves registers out, and shows the terms.

        Args:
            backbone: backbone in training; the pass is one call of its `forward_features`, and returns tokens as
                always: a register that is left out is 0 before the final norm.
            kept: (B, n) ascending indices of the registers that each image keeps; None for all.
        """
        seen, handles = Seen(cast(Tensor, backbone.pos_embed).new_zeros(0)), list[Any]()
        if self.names:
            handles += self._watching(backbone, seen, kept)
        try:
            with register_dropout.leaving_out(backbone, kept):
                yield seen
        finally:
            for handle in handles:
                handle.remove()

    def _watching(self, backbone: vit.RegisterViT, seen: Seen, kept: Tensor | None) -> list[Any]:
        """Hooks that compute the terms of a pass in which each image keeps some registers."""
        inputs: list[Tensor] = []
        last, first = cast(nn.Module, backbone.blocks[-1]), backbone.num_prefix_tokens - self.registers
        count = self.registers if kept is None else kept.shape[1]

        def entered(_: nn.Module, arguments: Any) -> None:
            inputs.append(arguments[0])

        def finished(_: nn.Module, __: Any, output: Tensor) -> None:
            registers = _precise(output[:, first : first + self.registers])
            if kept is not None:
                registers = registers.take_along_dim(kept[..., None].to(registers.device), dim=1)
            seen.terms = self._terms(registers, last, inputs[0], slice(first, first + count))

        return [last.register_forward_pre_hook(entered), cast(nn.Module, backbone.norm).register_forward_hook(finished)]

    def _terms(self, registers: Tensor, last: nn.Module, entering: Tensor, at: slice) -> Tensor:
        """Weighted terms (len(names),) of registers (B, n, D); 0 where dropout leaves fewer than two.

        Args:
            last: last block.
            entering: its input (B, T, D), in which the registers are `at`.
        """
        if registers.shape[1] < 2:
            return registers.new_zeros(len(self.names))
        with torch.autocast(registers.device.type, enabled=False):
            values = {"register_gram": gram, "register_koleo": lambda one: koleo(one.flatten(0, 1), one.shape[1])}
            terms = {name: values[name](registers) for name in self.names if name in values}
        if "register_disjoint" in self.names:
            terms["register_disjoint"] = disjoint(attention_maps(last, entering, at, slice(at.stop, entering.shape[1])))
        return torch.stack([self.weights[name] * terms[name] for name in self.names])
