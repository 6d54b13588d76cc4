"""Access to the blocks of a text encoder of transformers, such as the towers of open_clip's `HFTextEncoder`.

Works on encoders with the layers of BERT (BERT, RoBERTa, XLM-R and others built like them) and of M2M100 (NLLB). They
are recognised by the names of their parts, so that transformers is not needed here.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regvit_lightning.errors import UserError
from regvit_lightning.models.text_tower import (
    EOT,
    PADDING,
    PUNCTUATION,
    SOT,
    WORDS,
    TextBlock,
    require_rebuilt,
    update_basis,
    without_letters,
)


@dataclass(frozen=True)
class _Names:
    """Names of the parts of an encoder: its layers, and of each layer the attention, its projections and its heads."""

    layers: str
    attention: str
    projections: tuple[str, str, str]
    output: str
    heads: str


BERT = _Names(
    "encoder.layer", "attention.self", ("query", "key", "value"), "attention.output.dense", "num_attention_heads"
)
M2M = _Names("layers", "self_attn", ("q_proj", "k_proj", "v_proj"), "self_attn.out_proj", "num_heads")


class BertTower:
    """A bidirectional text encoder whose blocks can be looked into, with the interface of `TextTower`.

    Args:
        model: an encoder of transformers (`BertModel`, `RobertaModel`, …), a model with a head on one, `HFTextEncoder`,
            or a model of images and texts whose `text` is one.
        name: name of the model for messages.
        vocabulary: number of each token, as `get_vocab()` of its tokeniser gives it; without it no token is known as
            punctuation.

    Attributes:
        depth: number of blocks.
        causal: False: every token sees the whole text, and no token sees padding.

    Raises:
        UserError: a model without such an encoder, or with other attention.
    """

    causal = False

    def __init__(self, model: nn.Module, name: str = "text tower", vocabulary: Mapping[str, int] | None = None) -> None:
        encoder = encoder_of(model)
        if encoder is None:
            raise UserError(f"{name}: a {type(model).__name__} is no encoder of transformers with the layers of BERT")
        self.name, self.model, self.names = name, model, _names_of(encoder)
        self.encoder: Any = encoder
        self.blocks = list(encoder.get_submodule(self.names.layers).children())
        for block in self.blocks:
            _check(block, self.names, name)
        self.depth = len(self.blocks)
        self.punctuation = torch.tensor(without_letters(vocabulary or {}), dtype=torch.long)

    def encode(self, tokens: Tensor) -> Tensor:
        """Output (B, T, D) of the last block for tokens (B, T)."""
        output: Tensor = self.encoder(input_ids=tokens, attention_mask=self._is_text(tokens).long())[0]
        return output

    @torch.no_grad()
    def walk(self, tokens: Tensor, see: Callable[[int, TextBlock], None]) -> None:
        """Call `see` with 0..depth-1 and the activations of that block, without dropout; see `TextTower.walk`.

        Raises:
            UserError: a block's attention cannot be rebuilt from A and v to 1e-4, or a text is padded on its left.
        """
        hidden = ~self._is_text(tokens)[:, None, None]  # (B, 1, 1, T): what no query sees
        with ExitStack() as context:
            context.enter_context(_evaluating(self.encoder))
            for index, block in enumerate(self.blocks):
                context.enter_context(_seen(block, self.names, index, hidden, see, self.name))
            self.encode(tokens)

    def kinds(self, tokens: Tensor) -> Tensor:
        """Kind of each token as an index into `KINDS`, (B, T).

        SOT is the first token ([CLS], <s>), EOT the last of the text ([SEP], </s>); padding has a number of its own.
        """
        is_text = self._is_text(tokens)
        kinds = torch.full_like(tokens, WORDS)
        kinds[torch.isin(tokens, self.punctuation.to(tokens.device))] = PUNCTUATION
        kinds[~is_text] = PADDING
        last = torch.arange(tokens.shape[1], device=tokens.device).mul(is_text).argmax(dim=1, keepdim=True)
        kinds.scatter_(1, last, EOT)
        kinds[:, 0] = SOT
        return kinds

    def _is_text(self, tokens: Tensor) -> Tensor:
        """Boolean (B, T), what is no padding."""
        padding = self.encoder.config.pad_token_id
        is_text = torch.ones_like(tokens, dtype=torch.bool) if padding is None else tokens != padding
        if not is_text[:, 0].all():
            raise UserError(f"{self.name}: a text begins with padding; pad behind the text (padding_side='right')")
        return is_text


def encoder_of(model: nn.Module) -> nn.Module | None:
    """The encoder of transformers that `model` is or holds; None if there is none."""
    inside: list[Any] = [model, getattr(model, "text", None)]
    for candidate in inside:
        for encoder in (candidate, getattr(candidate, "transformer", None), getattr(candidate, "base_model", None)):
            if isinstance(encoder, nn.Module) and hasattr(encoder, "config") and _names_of(encoder) is not None:
                return encoder
    return None


def _names_of(encoder: nn.Module) -> Any:
    """Names of the parts of an encoder: those of the family whose first layer has them all; None if there is none."""
    for names in (BERT, M2M):
        layers = _part(encoder, names.layers)
        if isinstance(layers, nn.ModuleList) and len(layers) and _part(layers[0], names.output) is not None:
            return names
    return None


def _part(module: Any, path: str) -> Any:
    for name in path.split("."):
        module = getattr(module, name, None)
    return module


def _check(block: nn.Module, names: _Names, name: str) -> None:
    attention = _part(block, names.attention)
    linear = [*(_part(attention, part) for part in names.projections), _part(block, names.output)]
    if not all(isinstance(part, nn.Linear) for part in linear) or not hasattr(attention, names.heads):
        raise UserError(f"{name}: its text blocks are {type(block).__name__} without a plain softmax(q k) v")


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Context without dropout; each module has its mode again behind it."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def _seen(
    block: nn.Module, names: _Names, index: int, hidden: Tensor, see: Callable[[int, TextBlock], None], name: str
) -> Iterator[None]:
    """Context in which `see` is called after each pass through `block`."""
    attention, projection = _part(block, names.attention), _part(block, names.output)
    parts: list[tuple[Tensor, Tensor]] = []

    def attended(_: Any, inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
        parts.append(_attend(attention, names, inputs[0] if inputs else options["hidden_states"], hidden))

    def projected(_: Any, __: Any, output: Tensor) -> None:
        require_rebuilt(name, index, projection, *parts[-1], output)

    def left(_: Any, __: Any, output: Any) -> None:
        weights, values = parts.pop()
        tokens = output[0] if isinstance(output, tuple) else output
        basis = update_basis(projection.weight, weights.shape[1])
        see(index, TextBlock(weights, values, values @ basis.mT, tokens.float()))

    handles = [
        attention.register_forward_pre_hook(attended, with_kwargs=True),
        projection.register_forward_hook(projected),
        block.register_forward_hook(left),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _attend(attention: Any, names: _Names, tokens: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities (B, heads, T, T) and values (B, heads, T, K) in float32."""
    heads = getattr(attention, names.heads)
    q, k, v = (
        F.linear(tokens, part.weight, part.bias).float().unflatten(-1, (heads, -1)).transpose(1, 2)
        for part in (getattr(attention, each) for each in names.projections)
    )
    logits = ((q * q.shape[-1] ** -0.5) @ k.mT).masked_fill(hidden, -torch.inf)
    return logits.softmax(dim=-1), v
