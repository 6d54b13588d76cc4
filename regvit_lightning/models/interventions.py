"""Repair of artifacts at test time, without training: a register that takes over the register neurons, or a bias.

Source: Jiang et al. 2025 (arXiv 2506.08010). A few MLP neurons write the artifacts. A test-time register is a zero
token behind the position embedding; in the blocks of those neurons it gets their extreme activation over all tokens,
and at the patches they are set to 0. In its place, the mean of its key and value can stand in the attention of every
block as one more key and value. Three things of the authors' code are different here, see docs/test-time-registers.md:
every image of a batch is edited by itself; a register holds each neuron's own extreme, or that of all, as its name
says; and the register stands before the patches, where the models of this suite have theirs.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from timm.models.beit import Beit
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from regvit_lightning.errors import UserError
from regvit_lightning.models import names, register_neurons
from regvit_lightning.models.arms import NONE
from regvit_lightning.models.backbone import Backbone
from regvit_lightning.models.head_updates import HeadUpdates
from regvit_lightning.models.names import Intervention
from regvit_lightning.models.register_neurons import MeanRegister, RegisterNeurons
from regvit_lightning.models.vit_backbone import ViTBackbone, fused, prefix_rows


def apply(plain: Backbone, intervention: Intervention, neurons: RegisterNeurons) -> ViTBackbone:
    """Make `plain` a model with an intervention; its model is changed in place.

    Raises:
        UserError: a model that cannot take it, neurons of other weights, or for a bias no means.
    """
    if not isinstance(plain, ViTBackbone) or isinstance(plain, Intervened):
        raise UserError(f"{plain.name}{intervention}: needs the blocks of a plain ViT without another intervention")
    if neurons.weights not in ("", plain.weights_fingerprint):
        ours = plain.weights_fingerprint
        other = f"belongs to weights {neurons.weights}, those of {plain.name} are {ours}"
        raise UserError(f"{neurons.file}: {other}: find them again by make neurons")
    if intervention.kind == "ttr":
        return WithRegister(plain, neurons, intervention.value)
    mean = register_neurons.read_means(neurons, intervention.value, plain.name)
    return WithBias(plain, neurons, mean, intervention.value)


def per_neuron(activations: Tensor) -> Tensor:
    """Each neuron's activation of largest magnitude over the tokens, with its sign: (B, n) from (B, T, n)."""
    return activations.gather(1, activations.abs().argmax(dim=1, keepdim=True))[:, 0]


def per_block(activations: Tensor) -> Tensor:
    """The one activation of largest magnitude over tokens and neurons, for all neurons: (B, n) from (B, T, n)."""
    flat = activations.flatten(1)
    return flat.gather(1, flat.abs().argmax(dim=1, keepdim=True)).expand(-1, activations.shape[2])


VALUES: dict[str, Callable[[Tensor], Tensor]] = {names.PER_NEURON: per_neuron, names.PER_BLOCK: per_block}


class Intervened(ViTBackbone):
    """A plain ViT whose register neurons are 0 at the patches; CLS and its own registers keep theirs.

    Args:
        plain: the model; its modules get hooks, so it must not be used by itself any more.
        neurons: the register neurons.
        intervention: for the name and the facts.

    Raises:
        UserError: a model with position biases of pairs (BEiT), or neurons that it does not have.
    """

    def __init__(self, plain: ViTBackbone, neurons: RegisterNeurons, intervention: Intervention) -> None:
        name = f"{plain.name}{intervention}"
        super().__init__(plain.model, name, plain.image_size, plain.mean, plain.std, plain.source)
        if plain.arm != NONE:
            raise UserError(f"{name}: its attention is that of the arm {plain.arm}; this is for models without an arm")
        if isinstance(self.model, Beit):
            raise UserError(f"{name}: BEiT has a bias for every pair of positions, which one more token or key lacks")
        self.kind, self.transform, self.choices, self.read_from = (
            plain.kind,
            plain.transform,
            plain.choices,
            plain.read_from,
        )
        self.origin, self.trained_with = plain.origin, plain.trained_with
        self.neurons, self.intervention = neurons, intervention
        require_there(neurons, self.readers(), name)
        self.model.intervention = str(intervention)  # for `weights.save`, which refuses it

    @cached_property
    def fingerprint(self) -> str:
        return hashlib.sha256(json.dumps([self.weights_fingerprint, self.changed()]).encode()).hexdigest()[:16]

    def changed(self) -> dict[str, Any]:
        """What the intervention is, for the fingerprint."""
        return {"kind": self.intervention.kind, "value": self.intervention.value, "neurons": self.neurons.digest}

    def facts(self) -> dict[str, Any]:
        blocks = {str(block): list(neurons) for block, neurons in sorted(self.neurons.blocks.items())}
        made = {**self.changed(), "neurons_by_block": blocks, "source": self.neurons.source}
        return {**super().facts(), "intervention": made}

    def _edit(self, value: Callable[[Tensor], Tensor] | None) -> None:
        """Hook the layers that read the neurons; `value` is what the register gets, None where there is no register."""
        readers = self.readers()
        edits = {block: Edit(chosen, self._prefix, value) for block, chosen in self.neurons.blocks.items() if chosen}
        for block, edit in edits.items():
            readers[block].register_forward_pre_hook(edit)
        self.edits = nn.ModuleList(edits.values())  # moves their indices to the model's device


class WithRegister(Intervened):
    """A plain ViT with a test-time register, which stands behind its own registers as the last of them.

    Args:
        plain, neurons: see `Intervened`.
        value: `names.PER_NEURON` or `names.PER_BLOCK`, see `Intervention`.
    """

    def __init__(self, plain: ViTBackbone, neurons: RegisterNeurons, value: str = names.PER_NEURON) -> None:
        super().__init__(plain, neurons, Intervention("ttr", value))
        self.model.norm_pre.register_forward_pre_hook(AppendZero(self._prefix))  # CLIP's norm comes after, as published
        self._prefix, self.num_registers, self.added_registers = self._prefix + 1, self.num_registers + 1, 1
        for block in self.model.blocks:
            if hasattr(block.attn, "num_prefix_tokens"):  # tokens that are not rotated by RoPE
                block.attn.num_prefix_tokens += 1
        self._edit(VALUES[value])

    @contextmanager
    def watching_register(self, see: Callable[[int, Tensor, Tensor], None]) -> Iterator[None]:
        """Context manager that calls `see` in every pass with each block's index, and the register's key and value.

        Both are (B, heads, d), after q/k norm and RoPE, as the attention uses them.
        """

        def show(call: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
            see(call % self.depth, k[:, :, self._prefix - 1], v[:, :, self._prefix - 1])
            return k, v

        with fused(self._attentions()), Kernels(show):
            yield


class WithBias(Intervened):
    """A plain ViT with one more key and value in the attention of every block, in place of a test-time register.

    It has no more tokens than the plain model. Attention to that key is in no map, so that rows sum to less than 1.

    Args:
        plain, neurons: see `Intervened`.
        mean: key and value.
        value: what the register held of which they are the mean, see `Intervention`.

    Raises:
        UserError: key and value of another shape.
    """

    keys: Tensor
    values: Tensor

    def __init__(
        self, plain: ViTBackbone, neurons: RegisterNeurons, mean: MeanRegister, value: str = names.PER_NEURON
    ) -> None:
        super().__init__(plain, neurons, Intervention("bias", value))
        attentions = self._attentions()
        shape = len(attentions), attentions[0].num_heads, attentions[0].head_dim
        if tuple(mean.keys.shape) != shape or tuple(mean.values.shape) != shape:
            raise UserError(f"{self.name}: a key of {tuple(mean.keys.shape)} for {shape}: make neurons again")
        self._explicit = False
        self.register_buffer("keys", mean.keys, persistent=False)
        self.register_buffer("values", mean.values, persistent=False)
        self._edit(None)

    def changed(self) -> dict[str, Any]:
        content = torch.stack([self.keys, self.values]).float().cpu().numpy().tobytes()
        return {**super().changed(), "key_and_value": hashlib.sha256(content).hexdigest()[:16]}

    def _run(self, images: Tensor) -> Tensor:
        def add(block: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
            more = (mean[block, None, :, None].expand(len(k), -1, -1, -1).to(k) for mean in (self.keys, self.values))
            key, value = more
            return torch.cat([k, key], dim=2), torch.cat([v, value], dim=2)

        with fused(self._attentions()), Kernels(add, self._explicit):
            return super()._run(images)

    def walk_heads(self, images: Tensor, see: Callable[[HeadUpdates], None]) -> None:
        self._explicit = True
        try:
            super().walk_heads(images, see)
        finally:
            self._explicit = False

    @contextmanager
    def _attention_rows(self, attention: Any) -> Iterator[Callable[[], Tensor]]:
        with prefix_rows([attention], None) as rows:
            yield lambda: rows[attention]


class Kernels(TorchFunctionMode):
    """Passes the keys and values of each call of the fused attention kernel through `change`.

    Args:
        change: maps the number of the call, which is the index of the block, and k and v (B, heads, T, d) to k and v.
        explicit: compute the attention by products of matrices, which other function modes can see.
    """

    def __init__(self, change: Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]], explicit: bool = False) -> None:
        super().__init__()
        self.change, self.explicit, self.block = change, explicit, 0

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        if function is F.scaled_dot_product_attention:
            q, k, v, *others = arguments
            k, v = self.change(self.block, k, v)
            self.block += 1
            if self.explicit:
                return torch.matmul(torch.matmul(q * q.shape[-1] ** -0.5, k.mT).softmax(dim=-1), v)
            arguments = (q, k, v, *others)
        return function(*arguments, **(options or {}))


class AppendZero(nn.Module):
    """Forward pre-hook that inserts a zero token at one index of the tokens (B, T, D)."""

    def __init__(self, index: int) -> None:
        super().__init__()
        self.index = index

    def forward(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
        tokens = inputs[0]
        before, after = tokens[:, : self.index], tokens[:, self.index :]
        return torch.cat([before, tokens.new_zeros(len(tokens), 1, tokens.shape[2]), after], dim=1)


class Edit(nn.Module):
    """Forward pre-hook of the layer that reads a block's neurons (B, T, H): moves some from the patches to a register.

    Args:
        neurons: their indices.
        prefix: number of tokens before the patches; the register is the last of these.
        value: what the register gets, of the activations (B, T, n) of these neurons; None leaves it unchanged.
    """

    neurons: Tensor

    def __init__(self, neurons: Any, prefix: int, value: Callable[[Tensor], Tensor] | None) -> None:
        super().__init__()
        self.register_buffer("neurons", torch.tensor(neurons, dtype=torch.long), persistent=False)
        self.prefix, self.value = prefix, value

    def forward(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        hidden = inputs[0]  # fresh in every pass: changed in place, as a copy would cost more than all the rest
        moved = None if self.value is None else self.value(hidden[:, :, self.neurons])
        hidden[:, self.prefix :, self.neurons] = 0
        if moved is not None:
            hidden[:, self.prefix - 1, self.neurons] = moved


def require_there(neurons: RegisterNeurons, readers: list[nn.Linear], name: str) -> None:
    """Raise `UserError` unless the model has all of these neurons."""
    for block, chosen in neurons.blocks.items():
        if not 0 <= block < len(readers):
            raise UserError(f"{name}: no block {block}: it has {len(readers)}, numbered from 0")
        if chosen and not max(chosen) < readers[block].in_features:
            raise UserError(f"{name}: block {block} has {readers[block].in_features} neurons, none is {max(chosen)}")
