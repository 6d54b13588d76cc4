"""A plain ViT as a backbone: the only module that knows how many tokens precede the patches."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import torch
from timm.layers import Attention as TimmAttention
from timm.layers import AttentionRope
from timm.models.beit import Attention as BeitAttention
from timm.models.beit import Beit
from timm.models.eva import Eva, EvaAttention
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from regvit_lightning.errors import UserError
from regvit_lightning.models import finite, head_updates, linearised, positions
from regvit_lightning.models.arms import NONE
from regvit_lightning.models.arms.rows import SHARES, SIGNED
from regvit_lightning.models.backbone import Backbone
from regvit_lightning.models.head_updates import HeadUpdates
from regvit_lightning.models.tokens import Attention, Inside, LastBlock, PrefixAttention, Projections, Tokens
from regvit_lightning.models.transform import SHARE

PLAIN = (VisionTransformer, Eva, Beit)


class ViTBackbone(Backbone):
    """A plain ViT behind the `Tokens` contract, with access to the inside of its blocks.

    Args:
        model: timm's `VisionTransformer`, `Eva` or `Beit`, or a subclass; it is frozen in place, not copied.
        name, image_size, mean, std, source, share: see `Backbone`.

    Raises:
        UserError: the model is not such a ViT, or has two class tokens.
    """

    def __init__(
        self,
        model: nn.Module,
        name: str,
        image_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        source: Path | None = None,
        share: float = SHARE,
    ) -> None:
        check_vit(model, name)
        super().__init__(model, name, image_size, mean, std, source, share)
        self.embed_dim = self.model.embed_dim
        self.depth = len(self.model.blocks)
        self.patch_size = self.model.patch_embed.feat_ratio()
        self.has_cls = self.model.cls_token is not None
        self._prefix: int = self.model.num_prefix_tokens  # number of CLS and register tokens, which precede the patches
        self.num_registers = self._prefix - self.has_cls
        self.any_size = bool(getattr(model, "dynamic_img_size", False))
        self.arm = getattr(model, "arm", NONE)
        if self.arm != NONE:  # arms without weights of their own differ in nothing else
            self.choices = {"arm": self.arm}

    def facts(self) -> dict[str, Any]:
        heads = getattr(getattr(self.model.blocks[0], "attn", None), "num_heads", None)
        facts = {**super().facts(), "heads": heads, "positions": positions.rule_of(self.model, self.any_size)}
        return facts if self.arm == NONE else {**facts, "arm": self.arm}

    def require_plain_vit(self) -> None:
        pass  # `check_vit` has ensured it

    def linears(self) -> list[nn.Linear]:
        return [module for module in self.model.blocks.modules() if isinstance(module, nn.Linear)]

    def readers(self) -> list[nn.Linear]:
        """The layer of each block that reads the neurons of its MLP: `fc2`, or `w3` of a SwiGLU, after its product.

        Raises:
            UserError: a block without such an MLP.
        """
        layers = []
        for block in self.model.blocks:
            layer = getattr(getattr(block, "mlp", None), "fc2", None)
            if not isinstance(layer, nn.Linear):
                kind = type(block).__name__
                raise UserError(f"{self.name}: no neurons: its blocks are {kind}, without an MLP of two layers")
            layers.append(layer)
        return layers

    @contextmanager
    def watching_neurons(self, see: Callable[[int, Tensor], None]) -> Iterator[None]:
        """Context manager that calls `see` with every block's index and its neurons at the patches, in every pass.

        The neurons are what the second layer of the MLP reads, (B, h w, H), see `readers`; they must not be changed.

        Raises:
            UserError: see `readers`.
        """

        def hook(index: int) -> Callable[[nn.Module, Any], None]:
            return lambda _, inputs: see(index, inputs[0][:, self._prefix :])

        handles = [layer.register_forward_pre_hook(hook(index)) for index, layer in enumerate(self.readers())]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def rewriting_registers(self, rewrite: Callable[[int, Tensor], Tensor]) -> Iterator[None]:
        if not self.num_registers:
            raise UserError(f"{self.name}: has no registers, so there is nothing to replace")

        def rewritten(block: int, output: Tensor) -> Tensor:
            cls, registers, patches = output.split(self._lengths(output), dim=1)
            return torch.cat([cls, rewrite(block, registers).to(registers), patches], dim=1)

        handles = [
            block.register_forward_hook(lambda _, __, output, index=index: rewritten(index, output))
            for index, block in enumerate(self.model.blocks)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _tokens(self, images: Tensor, blocks: Sequence[int], norm: bool) -> list[Tokens]:
        grid, chosen = self._grid(images), [self._block(index) for index in blocks]
        with _outputs(chosen) as outputs:
            self._run(images)
        return [self._split(self._final_norm(outputs[block]) if norm else outputs[block], grid) for block in chosen]

    def walk(self, images: Tensor, see: Callable[[int, Tokens], None]) -> None:
        grid = self._grid(images)

        flags = list[tuple[str, Tensor]]()

        def show(module: nn.Module, _: Any, output: Tensor) -> None:
            flags.append((f"tokens after block {stages[module] - 1}", finite.is_finite(output)))
            see(stages[module], self._split(output, grid))
            if stages[module] == self.depth:
                see(self.depth + 1, self._split(self._final_norm(output), grid))

        def embedded(_: nn.Module, __: Any, output: Tensor) -> None:
            patches = output.reshape(len(output), *grid, -1)
            see(0, Tokens(None, patches.new_zeros(len(output), 0, self.embed_dim), patches))

        stages = {block: number for number, block in enumerate(self.model.blocks, 1)}
        handles = [block.register_forward_hook(show) for block in stages]
        handles.append(self.model.patch_embed.register_forward_hook(embedded))
        try:
            self._run(images)
        finally:
            for handle in handles:
                handle.remove()
        finite.require_flags(self.name, flags)

    def last_block(self, images: Tensor) -> LastBlock:
        grid, block = self._grid(images), self.model.blocks[-1]
        attention = self._attention(block)
        with self._attention_rows(attention) as full_rows, _outputs([block]) as outputs, _input(attention) as inputs:
            self._run(images)
        q, k, v = (self._split(part, grid) for part in _project(attention, inputs[0]))
        tokens, full = self._split(outputs[block], grid), full_rows()
        where = f"after block {self.depth - 1}"
        self._require_finite([(tokens, where), *((part, "in q, k, v of the last block") for part in (q, k, v))])
        rows = getattr(attention, "rows", SHARES)
        return LastBlock(tokens, q, k, v, self._split_attention(full[..., : full.shape[-2]], grid, rows))

    def projections(self, images: Tensor, blocks: Sequence[int] = (-1,)) -> list[Projections]:
        # The pass ends before the attention of the deepest block, whose q, k and v need nothing behind its input.
        grid = self._grid(images)
        chosen = [self._attention(self._block(index)) for index in blocks]
        with ExitStack() as hooks:
            inputs = {attention: hooks.enter_context(_input(attention)) for attention in dict.fromkeys(chosen)}
            hooks.enter_context(_ending_at(self._attention(self._block(max(index % self.depth for index in blocks)))))
            self._run(images)
        parts = [[self._split(part, grid) for part in _project(one, inputs[one][0])] for one in chosen]
        named = [f"in q, k, v of block {index % self.depth}" for index in blocks]
        self._require_finite((part, where) for qkv, where in zip(parts, named, strict=True) for part in qkv)
        return [Projections(*qkv) for qkv in parts]

    def inside(self, images: Tensor, blocks: Sequence[int] = (-1,)) -> list[Inside]:
        grid, chosen = self._grid(images), [self._block(index) for index in blocks]
        attentions = [self._attention(block) for block in chosen]
        with ExitStack() as hooks, _outputs(chosen) as outputs, prefix_rows(attentions, self._prefix) as rows:
            inputs = {attention: hooks.enter_context(_input(attention)) for attention in dict.fromkeys(attentions)}
            self._run(images)
        parts = []
        for index, block, attention in zip(blocks, chosen, attentions, strict=True):
            tokens = self._split(outputs[block], grid)
            qkv = [self._split(part, grid) for part in _project(attention, inputs[attention][0])]
            where = index % self.depth
            self._require_finite([(tokens, f"after block {where}"), *((part, f"in block {where}") for part in qkv)])
            normed = self._split(self._final_norm(outputs[block]), grid)
            parts.append(Inside(tokens, normed, Projections(*qkv), self._split_rows(rows[attention], grid)))
        return parts

    def prefix_attention(self, images: Tensor, blocks: Sequence[int] = (-1,)) -> list[PrefixAttention]:
        grid, attentions = self._grid(images), [self._attention(self._block(index)) for index in blocks]
        if any(getattr(attention, "rows", SHARES) == SIGNED for attention in attentions):
            raise UserError(f"{self.name}: its attention weights may be negative, so that they are no map of shares")
        with prefix_rows(attentions, self._prefix) as rows:
            self._run(images)
        named = [f"attention of block {index % self.depth}" for index in blocks]
        kept = [rows[attention] for attention in attentions]
        finite.require_finite(self.name, list(zip(named, kept, strict=True)))
        return [self._split_rows(row, grid) for row in kept]

    def _run(self, images: Tensor) -> Tensor:
        """Pass images through all blocks; every method reads what it needs by hooks."""
        return cast(Tensor, self.model.forward_features(images))

    @contextmanager
    def _attention_rows(self, attention: Any) -> Iterator[Callable[[], Tensor]]:
        """Context manager that collects the attention (B, heads, T, T) of one block, which it yields a getter of."""
        with _unfused(attention), _outputs([attention.attn_drop]) as rows:
            yield lambda: rows[attention.attn_drop]

    def walk_heads(self, images: Tensor, see: Callable[[HeadUpdates], None]) -> None:
        self._check(images)
        for block in self.model.blocks:
            self._attention(block)
        with head_updates.showing(self.name, self.model.blocks, see):
            self._run(images)

    def linearised_blocks(self) -> Iterator[Tensor]:
        for index, block in enumerate(self.model.blocks):
            self._attention(block)
            yield linearised.linearised(block, f"{self.name}: block {index}")

    def _grid(self, images: Tensor) -> tuple[int, int]:
        self._check(images)
        height, width = images.shape[-2:]
        return height // self.patch_size, width // self.patch_size

    def _block(self, index: int) -> nn.Module:
        self._check_block(index)
        return cast(nn.Module, self.model.blocks[index])

    def _attention(self, block: nn.Module) -> Any:
        attention = getattr(block, "attn", None)
        if not isinstance(attention, (TimmAttention, AttentionRope, EvaAttention, BeitAttention)):
            raise UserError(f"{self.name}: no q, k, v: its blocks are {type(block).__name__}, without plain attention")
        return attention

    def _attentions(self) -> list[Any]:
        return [self._attention(block) for block in self.model.blocks]

    def _final_norm(self, tokens: Tensor) -> Tensor:
        # Models that pool the patches have their final norm after the pooling, as `fc_norm`.
        moved = isinstance(self.model.norm, nn.Identity)
        return (self.model.fc_norm if moved else self.model.norm)(tokens)

    def _split(self, tokens: Tensor, grid: tuple[int, int]) -> Tokens:
        cls, registers, patches = tokens.split(self._lengths(tokens), dim=1)
        return Tokens(cls[:, 0] if self.has_cls else None, registers, patches.unflatten(1, grid))

    def _split_attention(self, full: Tensor, grid: tuple[int, int], rows: str) -> Attention:
        to_patches = full[..., self._prefix :].unflatten(-1, grid)
        cls, registers, patches = to_patches.split(self._lengths(full.transpose(1, 2)), dim=2)
        return Attention(cls[:, :, 0] if self.has_cls else None, registers, patches.unflatten(2, grid), full, rows)

    def _split_rows(self, rows: Tensor, grid: tuple[int, int]) -> PrefixAttention:
        to_patches = rows[..., self._prefix : self._prefix + grid[0] * grid[1]].unflatten(-1, grid)
        cls = to_patches[:, :, 0] if self.has_cls else None
        return PrefixAttention(cls, to_patches[:, :, int(self.has_cls) :])

    def _lengths(self, tokens: Tensor) -> list[int]:
        return [int(self.has_cls), self.num_registers, tokens.shape[1] - self._prefix]


def check_vit(model: nn.Module, name: str) -> None:
    """Raise `UserError` unless `model` is a plain ViT: a sequence of CLS, registers and patches through blocks."""
    if not isinstance(model, PLAIN):
        raise UserError(f"{name}: a {type(model).__name__} is not a plain ViT (timm's VisionTransformer, Eva or Beit)")
    if hasattr(model, "dist_token"):
        raise UserError(f"{name}: a distilled DeiT has two class tokens; take the model without distillation")


@contextmanager
def _outputs(modules: Sequence[nn.Module]) -> Iterator[dict[nn.Module, Tensor]]:
    # Hooks rather than timm's `forward_intermediates`: that differs between classes and fails without prefix tokens.
    outputs: dict[nn.Module, Tensor] = {}

    def keep(module: nn.Module, _: Any, output: Tensor) -> None:
        outputs[module] = output

    handles = [module.register_forward_hook(keep) for module in dict.fromkeys(modules)]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


class _ReachedError(Exception):
    """A pass has come as far as it is read."""


@contextmanager
def _ending_at(module: nn.Module) -> Iterator[None]:
    """Context manager in which a pass ends where it reaches the module, after the hooks that the module has so far."""

    def end(*_: Any) -> None:
        raise _ReachedError

    handle = module.register_forward_pre_hook(end)
    try:
        with suppress(_ReachedError):
            yield
    finally:
        handle.remove()


@contextmanager
def _input(module: nn.Module) -> Iterator[list[Tensor]]:
    inputs: list[Tensor] = []
    handle = module.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
    try:
        yield inputs
    finally:
        handle.remove()


@contextmanager
def _unfused(attention: Any) -> Iterator[None]:
    # Fused kernels never materialise the attention matrix.
    fused, attention.fused_attn = attention.fused_attn, False
    try:
        yield
    finally:
        attention.fused_attn = fused


class _PrefixRows(TorchFunctionMode):
    """Softmax rows of the first `prefix` queries (None: all) of attention modules, from what their kernel is given.

    The kernel receives q and k after q/k norm and RoPE, and a position bias as its mask.
    """

    def __init__(self, prefix: int | None) -> None:
        super().__init__()
        self.prefix, self.running = prefix, None
        self.rows: dict[Any, Tensor] = {}

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        options = options or {}
        if self.running is not None and function is F.scaled_dot_product_attention:
            q, k = arguments[0][:, :, : self.prefix], arguments[1]
            logits = (q * q.shape[-1] ** -0.5) @ k.mT
            mask = options.get("attn_mask")
            self.rows[self.running] = (logits if mask is None else logits + mask[..., : self.prefix, :]).softmax(dim=-1)
        return function(*arguments, **options)


@contextmanager
def prefix_rows(attentions: Sequence[Any], prefix: int | None) -> Iterator[dict[Any, Tensor]]:
    """Context manager that collects rows (B, heads, prefix, T) of each of `attentions` in a forward pass.

    Keys that are no tokens stand last. Weights that are no softmax of the kernel's products are computed without it.
    """
    kernel = _PrefixRows(prefix)

    def enter(module: nn.Module, _: Any) -> None:
        kernel.running = module  # type: ignore[assignment]

    def leave(*_: Any) -> None:
        kernel.running = None

    unique = dict.fromkeys(attentions)
    explicit = [attention for attention in unique if not getattr(attention, "plain_softmax", True)]
    handles = [attention.register_forward_pre_hook(enter) for attention in unique]
    handles += [attention.register_forward_hook(leave) for attention in unique]
    try:
        with fused(unique, explicit), kernel, _outputs([one.attn_drop for one in explicit]) as weights:
            yield kernel.rows
        kernel.rows |= {attention: weights[attention.attn_drop][:, :, :prefix] for attention in explicit}
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def fused(attentions: Iterable[Any], without: Sequence[Any] = ()) -> Iterator[None]:
    """Context manager in which attention modules call PyTorch's fused kernel, but for those of `without`."""
    before = {attention: attention.fused_attn for attention in attentions}
    try:
        for attention in before:
            attention.fused_attn = attention not in without
        yield
    finally:
        for attention, fused_before in before.items():
            attention.fused_attn = fused_before


def _project(attention: Any, tokens: Tensor) -> tuple[Tensor, ...]:
    # Not by hooks on `qkv`: EVA and BEiT use its weight with separate biases and never call it.
    if attention.qkv is None:
        return attention.q_proj(tokens), attention.k_proj(tokens), attention.v_proj(tokens)
    bias = attention.qkv.bias
    if getattr(attention, "q_bias", None) is not None:
        bias = torch.cat([attention.q_bias, attention.k_bias, attention.v_bias])
    return nn.functional.linear(tokens, attention.qkv.weight, bias).chunk(3, dim=-1)
