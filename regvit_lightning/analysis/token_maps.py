"""Maps over the patches of single images: attention, norms, outliers, similarity and principal components.

Memory grows linearly with the number of patches, but for the sinks of images of moderate size. The maps are those of
Darcet et al. 2023 (arXiv 2309.16588): attention of CLS and registers (Figs. 1, 2, 9, 18, 19), norms before the final
norm (Figs. 3 and 21), components of the output (Fig. 20, here in three colours).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from regvit_lightning.analysis import components, few_images, outliers
from regvit_lightning.analysis.outliers import Rules
from regvit_lightning.analysis.questions import Answer
from regvit_lightning.analysis.views import View
from regvit_lightning.data.transforms import normalise
from regvit_lightning.errors import UserError
from regvit_lightning.models.backbone import Backbone
from regvit_lightning.models.tokens import Inside

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Point = tuple[int, int]


@dataclass(frozen=True)
class Discovered:
    """Object that an unsupervised method finds in an image.

    Attributes:
        seed: row and column of the patch that it starts from.
        box: x1, y1, x2, y2 in patches, ends excluded.
        method: the method and its setting.
    """

    seed: Point
    box: tuple[int, int, int, int]
    method: str


@dataclass(frozen=True)
class TokenMaps:
    """Maps of one image in one model, with h × w patches.

    Attributes:
        pixels: (H, W, 3) uint8, what the model sees, before normalisation.
        region: left, top, right, bottom of what the model sees, in pixels of the stored image.
        heads: (heads, h, w) attention from CLS to each patch by head, a share of 0 to 1; None for a model without CLS,
            or one that gives tokens only.
        registers: (R, h, w) attention from each register, mean over heads; None for a model that gives tokens only.
        norms: (h, w) L2 norms of the patches after the chosen block, before the final norm; of a model that gives
            tokens only, norms of these.
        outliers: (h, w) bool, norms beyond the model's cutoff.
        similarity: (h, w) cosine of the output of each patch to that of `patch`, -1 to 1.
        patch: row and column of the patch that others are compared with.
        colours: (h, w, 3) first three principal components of the output in the foreground, 0 to 1; NaN outside.
        foreground: (h, w) bool, by the first principal component of all patches.
        similarities: (h, w, h, w) cosines of all pairs of patches; None unless `Choice.all_similarities`.
        discovered: LOST's seed and box; None for a model that gives tokens only, or where all patches are alike.
        added: how many of the registers, the last of them, were added at test time, see `interventions`.
    """

    pixels: npt.NDArray[np.uint8]
    region: tuple[float, float, float, float]
    heads: Floats | None
    registers: Floats | None
    norms: Floats
    outliers: Mask
    similarity: Floats
    patch: Point
    colours: Floats
    foreground: Mask
    similarities: Floats | None = None
    discovered: Discovered | None = None
    added: int = 0

    @property
    def cls(self) -> Floats | None:
        """Attention (h, w) from CLS, mean over heads; None as for `heads`."""
        return None if self.heads is None else self.heads.mean(axis=0)


@dataclass(frozen=True)
class ModelMaps:
    """Maps of all images in one model.

    Attributes:
        model: its name.
        depth: number of blocks.
        norm_block, attention_block: block 1..depth of the norms and of the attention.
        tokens_only: the model gives tokens only, so that there is no attention.
        rule: the outlier rule in words.
        cutoff: its cutoff, from the norms of all images.
        images: maps of each image.
        answers: high norms, sinks and locality of these images, see `few_images.py`; empty for a model that gives
            tokens only.
    """

    model: str
    depth: int
    norm_block: int
    attention_block: int
    tokens_only: bool
    rule: str
    cutoff: float
    images: Sequence[TokenMaps]
    answers: Sequence[Answer] = ()

    @property
    def blocks_in_words(self) -> str:
        """Blocks of the norms and of the attention; or that there is no attention."""
        if self.tokens_only:
            return "gives tokens only: no attention, norms of its tokens"
        return f"norms after block {self.norm_block} of {self.depth}, attention of block {self.attention_block}"

    @property
    def outliers_in_words(self) -> str:
        """Number of outliers in all images: `12 of 1,369 patches beyond 3 × median = 150`."""
        count = sum(int(maps.outliers.sum()) for maps in self.images)
        total = sum(maps.outliers.size for maps in self.images)
        return f"{count:,} of {total:,} patches beyond {self.rule} = {self.cutoff:.3g}"


@dataclass(frozen=True)
class Choice:
    """What is shown of a model.

    Attributes:
        block, attention_block: blocks of norms and of attention, 0..depth-1 or negative from the end.
        patch: row and column of the patch that others are compared with.
        pixel: row and column of a pixel of the stored image in that patch, instead of `patch`; the central patch
            where both are None.
        rule: name of the outlier rule, see `Rules.words`.
        all_similarities: also give `TokenMaps.similarities`.
    """

    block: int = -1
    attention_block: int = -1
    patch: Point | None = None
    pixel: Point | None = None
    rule: str = "factor"
    all_similarities: bool = False


Discover = Callable[[Backbone, Inside], Discovered | None]


@torch.no_grad()
def measure(backbone: Backbone, views: Sequence[View], choice: Choice, discover: Discover) -> ModelMaps:
    """Maps of `views` in one model.

    Args:
        backbone: the model.
        views: of at least one image.
        choice: what is shown.
        discover: finds an object, given the inside of the last block.

    Raises:
        UserError: a block, patch or pixel outside, an unknown rule, or outputs that are not finite.
    """
    rules = Rules()
    if choice.rule not in rules.words():
        raise UserError(f"rule={choice.rule}: expected one of {', '.join(rules.words())}")
    blocks = [_block(backbone, index) for index in (choice.block, choice.attention_block)]
    images = [_maps(backbone, view, choice, blocks, discover) for view in views]
    every = torch.cat([torch.from_numpy(one.norms).flatten() for one in images])
    cutoff = rules.cutoffs(every)[choice.rule]
    marked = [_marked(one, choice.rule, cutoff) for one in images]
    words, only = rules.words()[choice.rule], not backbone.is_plain_vit
    asked = [] if only else few_images.answers(backbone, (_normalised(backbone, view) for view in views), rules)
    return ModelMaps(backbone.name, backbone.depth, blocks[0] + 1, blocks[1] + 1, only, words, cutoff, marked, asked)


def _block(backbone: Backbone, index: int) -> int:
    if not -backbone.depth <= index < backbone.depth:
        raise UserError(
            f"{backbone.name}: no block {index}: it has {backbone.depth}, 0 to {backbone.depth - 1}, or -1 …"
        )
    return index % backbone.depth


def _maps(backbone: Backbone, view: View, choice: Choice, blocks: Sequence[int], discover: Discover) -> TokenMaps:
    """Maps of one image, without the outliers, which depend on all images."""
    images = _normalised(backbone, view)
    heads = registers = discovered = None
    if backbone.is_plain_vit:
        normed_block, attended, last = backbone.inside(images, [*blocks, -1])
        stream, output = normed_block.tokens.patches[0], last.normed.patches[0]
        heads = None if attended.attention.cls is None else _array(attended.attention.cls[0])
        registers = _array(attended.attention.registers[0].mean(dim=0))
        discovered = discover(backbone, last)
    else:
        stream = output = backbone(images).patches[0]
    patch = _patch(backbone, view, choice, output.shape[:2])
    colours, foreground = components.colours(output.float().cpu())
    norms = _array(stream.float().norm(dim=-1))
    return TokenMaps(
        pixels=view.pixels.permute(1, 2, 0).numpy(),
        region=view.region,
        heads=heads,
        registers=registers,
        norms=norms,
        outliers=np.zeros(norms.shape, bool),
        similarity=_array(components.similarity(output.float(), *patch)),
        patch=patch,
        colours=_array(colours),
        foreground=foreground.numpy(),
        similarities=_array(components.all_similarities(output.float())) if choice.all_similarities else None,
        discovered=discovered,
        added=backbone.added_registers,
    )


def _normalised(backbone: Backbone, view: View) -> Tensor:
    """What a backbone sees of an image, normalised, on its device: (1, 3, H, W)."""
    device = next(backbone.parameters(), torch.empty(0)).device
    mean, std = (torch.tensor(values, device=device) for values in (backbone.mean, backbone.std))
    return normalise(view.pixels.to(device)[None], mean, std)


def _array(values: Tensor) -> Floats:
    array: Floats = values.float().cpu().numpy()
    return array


def _marked(maps: TokenMaps, rule: str, cutoff: float) -> TokenMaps:
    mask = outliers.beyond(rule, cutoff, torch.from_numpy(maps.norms)).numpy()
    return replace(maps, outliers=mask)


def _patch(backbone: Backbone, view: View, choice: Choice, grid: Sequence[int]) -> Point:
    """Row and column of the chosen patch in a grid of h rows and w columns."""
    rows, columns = grid
    if choice.pixel is not None:
        return _patch_of_pixel(backbone, view, choice.pixel, rows, columns)
    row, column = choice.patch or (rows // 2, columns // 2)
    if not (0 <= row < rows and 0 <= column < columns):
        there = f"rows 0 to {rows - 1}, columns 0 to {columns - 1}"
        raise UserError(f"{backbone.name}: no patch {row},{column}: this image has {there}")
    return row, column


def _patch_of_pixel(backbone: Backbone, view: View, pixel: Point, rows: int, columns: int) -> Point:
    left, top, right, bottom = view.region
    row, column = pixel
    if not (top <= row < bottom and left <= column < right):
        seen = f"rows {top:g} to {bottom - 1:g}, columns {left:g} to {right - 1:g}"
        raise UserError(f"{backbone.name}: no pixel {row},{column}: of this image it sees {seen}")
    return int((row - top) * rows / (bottom - top)), int((column - left) * columns / (right - left))
