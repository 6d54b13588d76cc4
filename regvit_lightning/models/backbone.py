"""Common interface of all frozen backbones: `Tokens` for images, and a few facts about the model."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, overload

from torch import Tensor, nn

from regvit_lightning.errors import UserError
from regvit_lightning.models import finite, kinds, weights
from regvit_lightning.models.head_updates import HeadUpdates
from regvit_lightning.models.tokens import Inside, LastBlock, PrefixAttention, Projections, Tokens
from regvit_lightning.models.transform import SHARE, Transform


class Backbone(nn.Module):
    """A frozen model behind the `Tokens` contract; stays in evaluation mode inside a module that trains.

    The adapters are `ViTBackbone`, which also gives access to the inside of the blocks, and `ForeignBackbone`, which
    only returns tokens: its other methods raise `UserError`.

    Args:
        model: the model; it is frozen in place, not copied.
        name: id in records (`deit3-vitb_reg16`).
        image_size: side in pixels of the images that the model expects.
        mean, std: per channel, for images in 0..1.
        source: file of the weights, if they come from one.
        share: fraction of the resized short side that the crop of `transform` keeps.

    Attributes:
        trained_with: settings of the recipe that trained the model, where its file holds them.
        origin: path of the file or folder that the model was given as; empty for one that its name alone identifies.
        embed_dim: width D.
        depth: number of blocks whose tokens are available.
        patch_size: side in pixels of the image patch behind one patch token.
        num_registers: R.
        added_registers: those of R that were added at test time and have no parameters.
        has_cls: whether there is a CLS token.
        any_size: accepts images of any size in multiples of the patch size; else only `image_size`.
        choices: what was read otherwise than the tensors alone imply, such as `heads` that a user gave, or the `arm` of
            the model; part of the fingerprint.
        read_from: where heads, mean and std are from, and which part of the file was read.
        kind: how it was trained, a constant of `kinds`; the model's structure decides where nothing else is known.
        classifier_source: builds what `own_classifier` returns; None for a model without a classifier.
        transform: from a PIL image or uint8 pixels to (3, image_size, image_size), see `Transform`.
    """

    embed_dim: int
    depth: int
    patch_size: int
    num_registers: int
    has_cls: bool
    any_size: bool
    added_registers: int = 0
    classifier_source: "Callable[[], tuple[nn.Module, tuple[str, ...]]] | None" = None

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
        super().__init__()
        self.model: Any
        self.model = model
        self.name, self.image_size = name, image_size
        self.mean, self.std = tuple(mean), tuple(std)
        self.source = source
        self.choices: Mapping[str, Any] = {}
        self.read_from: Mapping[str, str] = {}
        self.origin = ""
        self.trained_with: dict[str, Any] = {}
        self.kind = kinds.of_module(model)
        self.transform = Transform(int(image_size / share + 1e-6), image_size, self.mean, self.std)
        self.requires_grad_(False)
        self.train(False)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of what the tokens depend on: `weights_fingerprint`, and an intervention at test time."""
        return self.weights_fingerprint

    @cached_property
    def weights_fingerprint(self) -> str:
        """Hash of the weights, see `weights.fingerprint`, and of `choices` where there are any."""
        digest = weights.fingerprint(self.model.state_dict())
        if not self.choices:
            return digest
        return hashlib.sha256(f"{digest} {json.dumps(self.choices, sort_keys=True)}".encode()).hexdigest()[:16]

    def facts(self) -> dict[str, Any]:
        """Facts about the model that records store."""
        names = ("embed_dim", "depth", "patch_size", "num_registers", "has_cls", "image_size", "kind")
        facts = {**{name: getattr(self, name) for name in names}, "mean": list(self.mean), "std": list(self.std)}
        facts["read_from"] = dict(self.read_from)
        return {**facts, "trained_with": self.trained_with} if self.trained_with else facts

    def train(self, mode: bool = True) -> "Backbone":
        """Do nothing: a frozen backbone stays in evaluation mode."""
        return super().train(False)

    @overload
    def forward(self, images: Tensor, blocks: None = None, norm: bool = True) -> Tokens: ...

    @overload
    def forward(self, images: Tensor, blocks: Sequence[int], norm: bool = True) -> list[Tokens]: ...

    def forward(self, images: Tensor, blocks: Sequence[int] | None = None, norm: bool = True) -> Tokens | list[Tokens]:
        """Tokens of the model's output, or those after each of `blocks`, in the order requested.

        Args:
            images: (B, 3, H, W), normalised by `mean` and `std`; H and W multiples of the patch size.
            blocks: indices 0..depth-1, or negative from the end; None means the last and returns its `Tokens` alone.
            norm: apply the final norm to each; else return the raw residual stream (where artifacts are measured).

        Raises:
            UserError: a shape, a size or a block that the model does not support; or a token that is not finite.
        """
        chosen = (-1,) if blocks is None else blocks
        outputs = self._tokens(images, chosen, norm)
        wheres = [f"after block {index % self.depth}" for index in chosen]
        self._require_finite(zip(outputs, wheres, strict=True))
        return outputs[0] if blocks is None else outputs

    def walk(self, images: Tensor, see: Callable[[int, Tokens], None]) -> None:
        """Call `see` with the tokens of every stage in one forward pass, with one stage in memory at a time.

        Args:
            images: as for `forward`.
            see: called with 0 and the output of the patch embedding, before position embeddings (patches only); with
                1..depth and the residual stream after each block; with depth + 1 and the last one after the final norm.

        Raises:
            UserError: a size that the model does not support, or a model without accessible blocks.
        """
        raise self._lacks("tokens of every block before the final norm")

    def last_block(self, images: Tensor) -> LastBlock:
        """Queries, keys, values and attention of the last block.

        The attention is computed without a fused kernel, for this block only: (B, heads, T, T) in memory.

        Args:
            images: as for `forward`.

        Raises:
            UserError: see `forward`; or a block whose attention is not softmax(q k) v.
        """
        raise self._lacks("q, k, v and attention")

    def projections(self, images: Tensor, blocks: Sequence[int] = (-1,)) -> list[Projections]:
        """Queries, keys and values of each of `blocks`, in the order requested, from one forward pass.

        The attention stays fused, so that memory grows linearly, not quadratically, with the number of patches. Of the
        deepest block only its q, k and v are computed, and nothing behind it.

        Args:
            images: as for `forward`.
            blocks: indices as for `forward`.

        Raises:
            UserError: see `last_block`; or a block that the model does not have.
        """
        raise self._lacks("q, k, v")

    def inside(self, images: Tensor, blocks: Sequence[int] = (-1,)) -> list[Inside]:
        """Tokens, projections and the attention of CLS and registers of each of `blocks`, from one forward pass.

        The kernels stay fused: the attention of CLS and registers is computed beside them, (1 + R) rows of T numbers
        for each head, so that memory grows linearly with the number of patches.

        Args:
            images: as for `forward`.
            blocks: indices as for `forward`, in the order of the results.

        Raises:
            UserError: see `last_block`; or a block that the model does not have.
        """
        raise self._lacks("attention")

    def walk_heads(self, images: Tensor, see: Callable[[HeadUpdates], None]) -> None:
        """Call `see` with the attention and values of all heads of every block, in order, in one forward pass.

        Fused kernels are off; (B, H, T, T) numbers of one block are in memory at a time. Call it in float32: each block
        is rebuilt from them and compared with its own output.

        Args:
            images: as for `forward`.
            see: called once for each block.

        Raises:
            UserError: see `last_block`; or a block that is not rebuilt to `head_updates.TOLERANCE`.
        """
        raise self._lacks("attention and values of its heads")

    def linearised_blocks(self) -> Iterator[Tensor]:
        """The matrix (D, D) that each block comes closest to, in order, see `linearised.linearised`.

        Raises:
            UserError: a block that is not linearised, or a model without accessible blocks.
        """
        raise self._lacks("the weights of its blocks")

    def prefix_attention(self, images: Tensor, blocks: Sequence[int] = (-1,)) -> list[PrefixAttention]:
        """Attention of CLS and the registers to the patches in each of `blocks`, from one forward pass.

        Memory is that of `inside` without tokens and projections: (1 + R) rows of T numbers for each head and block.

        Args:
            images: as for `forward`.
            blocks: indices as for `forward`, in the order of the results.

        Raises:
            UserError: see `last_block`; a block that the model does not have; or weights that may be negative.
        """
        raise self._lacks("attention")

    @contextmanager
    def rewriting_registers(self, rewrite: Callable[[int, Tensor], Tensor]) -> Iterator[None]:
        """Context manager that replaces the registers after each block by `rewrite(block, registers)` in every pass.

        Args:
            rewrite: maps the block's index 0..depth-1 and its registers (B, R, D), before the final norm, to (B, R, D).

        Raises:
            UserError: a model without registers, or without accessible blocks.
        """
        raise self._lacks("blocks whose registers could be replaced")
        yield

    def own_classifier(self) -> tuple[nn.Module, tuple[str, ...]]:
        """The whole model with the classifier that it was released with, and the sorted names of its classes' folders.

        Returns:
            A module that maps images as for `forward` to logits (B, K), and K names in the order of the logits.

        Raises:
            UserError: there is none.
        """
        if self.classifier_source is None:
            raise UserError(
                f"{self.name}: has no classifier of its own; models of timm trained on ImageNet's classes have"
            )
        return self.classifier_source()

    def require_plain_vit(self) -> None:
        """Raise, before any image is read, if the blocks of the model are not accessible.

        Raises:
            UserError: the blocks are not accessible.
        """
        raise self._lacks("q, k, v and attention of its blocks")

    @property
    def is_plain_vit(self) -> bool:
        """Whether the blocks of the model are accessible, see `require_plain_vit`."""
        try:
            self.require_plain_vit()
        except UserError:
            return False
        return True

    def linears(self) -> list[nn.Linear]:
        """Linear layers of all blocks that process every token, for counting multiply-adds.

        Raises:
            UserError: a model without accessible blocks.
        """
        raise self._lacks("blocks whose multiply-adds could be counted")

    def _tokens(self, images: Tensor, blocks: Sequence[int], norm: bool) -> list[Tokens]:
        """Adapter's implementation of `forward` for the requested blocks."""
        raise NotImplementedError

    def _require_finite(self, outputs: Iterable[tuple[Tokens, str]]) -> None:
        finite.require_finite(self.name, [part for tokens, where in outputs for part in finite.parts(tokens, where)])

    def _lacks(self, what: str) -> UserError:
        return UserError(f"{self.name}: gives tokens only, but this needs {what}, which only a plain ViT has")

    def _check(self, images: Tensor) -> None:
        shape, batch = tuple(images.shape), "a batch of images (B, 3, H, W)"
        if images.ndim == 3:
            raise UserError(f"{self.name}: takes {batch}, not one of {shape}: add a batch dimension, images[None]")
        if images.ndim != 4 or images.shape[1] != 3:
            raise UserError(f"{self.name}: takes {batch}, not {shape}")
        if not images.is_floating_point():
            raise UserError(f"{self.name}: takes normalised floats, as its transform gives them, not {images.dtype}")
        height, width = images.shape[-2:]
        if not self.any_size and (height, width) != (self.image_size, self.image_size):
            raise UserError(f"{self.name}: takes images of {self.image_size} px only, not {height} x {width}")
        if height % self.patch_size or width % self.patch_size:
            raise UserError(
                f"{self.name}: images of {height} x {width} px are not a multiple of the patch size {self.patch_size}"
            )

    def _check_block(self, index: int) -> None:
        if not -self.depth <= index < self.depth:
            raise UserError(f"{self.name}: no block {index}: it has {self.depth}, numbered 0 to {self.depth - 1}")
