"""Search for register neurons: the MLP neurons that are active where patches have an outlying norm, and only there.

Source: Jiang et al. 2025 (arXiv 2506.08010). Their score of a neuron is its mean |activation| over the outlier patches
of an image, averaged over the images that have any; the highest of the blocks up to one are taken. Added here: the
contrast with the other patches, which leaves out neurons that are active everywhere; block, threshold and last block of
the search from the norms, where they are not given; and a refusal where no block makes artifacts, because some neuron
always scores highest.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from regvit_lightning.analysis.norms import NormPass, Norms
from regvit_lightning.analysis.outliers import Rules, at_factor
from regvit_lightning.analysis.verdict import high_norms
from regvit_lightning.data.transforms import normalise
from regvit_lightning.errors import UserError
from regvit_lightning.frozen.module import FrozenModule
from regvit_lightning.models.interventions import WithRegister
from regvit_lightning.models.register_neurons import MeanRegister, RegisterNeurons
from regvit_lightning.models.vit_backbone import ViTBackbone

ACTIVATION, CONTRAST = "activation", "contrast"
SCORES = {
    ACTIVATION: "mean |activation| at outliers, as published",
    CONTRAST: "mean |activation| at outliers minus that at other patches",
}
PRECISION = "32-true"
WIDE, OF_WIDE, OF_OTHERS = 1024, 50, 10  # the published numbers of neurons: 50 for ViT-L, 10 for ViT-B
RULES = Rules()


@dataclass(frozen=True)
class Search:
    """Settings of a search.

    Attributes:
        score: `activation` or `contrast`, see `SCORES`.
        detect: index of the block after which outliers are looked for, or negative from the end; None takes the one
            with the largest norm relative to the median.
        threshold: norm above which a patch is an outlier there; None takes `Rules.factor` × the median.
        first_block, top_block: first and last block whose neurons are taken, from 0; None for the last takes the first
            block after which half of the outliers have their high norm.
        top_k: number of neurons; None takes `OF_WIDE` from width `WIDE` on, else `OF_OTHERS`.
    """

    score: str = CONTRAST
    detect: int | None = None
    threshold: float | None = None
    first_block: int = 0
    top_block: int | None = None
    top_k: int | None = None


@dataclass(frozen=True)
class Outliers:
    """Outlier patches of a model.

    Attributes:
        block: index of the block after which they were looked for.
        threshold: norm above which they lie there.
        masks: (N, h, w) boolean.
        top_block: the last block whose neurons are taken.
        max_over_median: largest norm relative to the median of all patches, after each block.
    """

    block: int
    threshold: float
    masks: Tensor
    top_block: int
    max_over_median: Sequence[float]

    @property
    def images(self) -> int:
        """Number of images with an outlier."""
        return int(self.masks.flatten(1).any(dim=1).sum())


@dataclass(frozen=True)
class Scored:
    """One neuron: its mean |activation| at outlier patches and at all others, of the images that have outliers."""

    block: int
    neuron: int
    activation: float
    elsewhere: float


def detect(model: str, norms: Norms, search: Search) -> Outliers:
    """Outlier patches by the settings of a search.

    Args:
        model: its name, for messages.
        norms: of the images of the search.

    Raises:
        UserError: no norm reaches `Rules.factor` × median after any block, so that there is nothing to repair; no norm
            exceeds the threshold; or a block that the model does not have.
    """
    largest = [high.max_over_median for high in high_norms(norms, RULES)]
    most = max(range(norms.depth), key=lambda block: largest[block])
    if largest[most] < RULES.factor:
        reach = f"the largest norm of a patch is {largest[most]:.2f} × median, after block {most} of {norms.depth}"
        why = "no neurons are kept, as a search would return neurons that are active everywhere"
        raise UserError(f"{model}: nothing to repair: {reach}, and artifacts exceed {RULES.factor:g} ×; {why}")
    block = most if search.detect is None else _block(model, "detect", search.detect, norms.depth)
    at = norms.raw[:, block]
    threshold = float(at_factor(at, RULES.factor)) if search.threshold is None else search.threshold
    masks = (at > threshold) & ~(norms.embedded > at_factor(norms.embedded, RULES.factor))
    if not masks.any():
        advice = f"the largest is {float(at.max()):.4g}, the median {float(at.median()):.4g}: give another threshold="
        raise UserError(f"{model}: no norm above threshold={threshold:.4g} after block {block}: {advice} or detect=")
    top = _emergence(norms, masks, block) if search.top_block is None else search.top_block
    top = _block(model, "top_block", top, norms.depth)
    if search.first_block > top:
        raise UserError(f"first_block={search.first_block}: the last block of the search is {top}")
    return Outliers(block, threshold, masks, top, largest)


def _emergence(norms: Norms, masks: Tensor, detect: int) -> int:
    """First block after which half of the outliers have a high norm."""
    shares = [float((at[masks] > at_factor(at, RULES.factor)).double().mean()) for at in norms.raw.unbind(1)]
    return next((block for block, share in enumerate(shares) if share >= 0.5), detect)


def require_blocks(model: str, search: Search, depth: int) -> None:
    """Raise `UserError` where the settings name a block that a model of this depth does not have."""
    for key in ("detect", "first_block", "top_block"):
        if (index := getattr(search, key)) is not None:
            _block(model, key, index, depth)


def _block(model: str, key: str, index: int, depth: int) -> int:
    if not -depth <= index < depth:
        raise UserError(f"{model}: {key}={index}: it has {depth} blocks, numbered 0 to {depth - 1}")
    return index % depth


class NeuronPass(FrozenModule):
    """Test pass over uint8 images: scores of all neurons; images without an outlier are skipped.

    Args:
        backbone: the plain model.
        masks: (N, h, w) outliers of the images, in their order.

    Attributes:
        activation, elsewhere: (depth, H) mean |activation| at outliers, and at all other patches.
    """

    def __init__(self, backbone: ViTBackbone, masks: Tensor) -> None:
        super().__init__(backbone, PRECISION)
        self.masks, self.seen, self.counted = masks, 0, 0
        self.totals: dict[int, Tensor] = {}  # (2, H) float64 by block

    @property
    def activation(self) -> Tensor:
        return torch.stack([self.totals[block][0] for block in sorted(self.totals)]) / self.counted

    @property
    def elsewhere(self) -> Tensor:
        return torch.stack([self.totals[block][1] for block in sorted(self.totals)]) / self.counted

    def test_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        masks = self.masks[self.seen : self.seen + len(batch[0])].flatten(1)
        self.seen += len(batch[0])
        having = masks.any(dim=1)
        if not having.any():
            return
        self.counted += int(having.sum())
        weights = torch.stack([_shares(masks[having]), _shares(~masks[having])], dim=1).to(batch[0].device)

        def see(block: int, neurons: Tensor) -> None:
            means = (weights @ neurons.float().abs()).sum(dim=0).cpu().double()
            self.totals[block] = self.totals[block] + means if block in self.totals else means

        backbone: ViTBackbone = self.frozen.backbone  # type: ignore[assignment]
        images = normalise(batch[0][having.to(batch[0].device)], self.mean, self.std)
        with self.frozen.autocast(images), backbone.watching_neurons(see):
            backbone(images)


def _shares(masks: Tensor) -> Tensor:
    """Weights (B, T) of a mean over the tokens of each mask (B, T); 0 where it is empty."""
    return masks.float() / masks.sum(dim=1, keepdim=True).clamp(min=1)


def ranked(activation: Tensor, elsewhere: Tensor, score: str, first: int, top: int) -> list[Scored]:
    """Neurons of the blocks `first` to `top` by descending score; equal ones by block and index.

    Args:
        activation, elsewhere: (depth, H), see `NeuronPass`.
        score: a key of `SCORES`.
    """
    scores = activation - elsewhere if score == CONTRAST else activation
    width = scores.shape[1]
    order = scores[first : top + 1].flatten().sort(descending=True, stable=True).indices.tolist()
    indices = [(first + index // width, index % width) for index in order]
    return [Scored(block, j, float(activation[block, j]), float(elsewhere[block, j])) for block, j in indices]


def top_k(search: Search, width: int) -> int:
    """Number of neurons to take from a model of this width."""
    return search.top_k or (OF_WIDE if width >= WIDE else OF_OTHERS)


def listed(chosen: Sequence[Scored], weights: str, source: str) -> RegisterNeurons:
    """The list of the chosen neurons, by block in descending order of their scores."""
    blocks: dict[int, list[int]] = {}
    for one in chosen:
        blocks.setdefault(one.block, []).append(one.neuron)
    return RegisterNeurons({block: tuple(blocks[block]) for block in sorted(blocks)}, weights, source)


class RegisterPass(NormPass):
    """Test pass that measures norms of a model with a test-time register, and the mean of its key and value.

    Attributes:
        mean_register: available after test.
    """

    mean_register: MeanRegister

    def __init__(self, backbone: WithRegister) -> None:
        super().__init__(backbone, PRECISION)
        self.totals: dict[int, Tensor] = {}  # (2, heads, d) float64 by block

    def test_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        backbone: WithRegister = self.frozen.backbone  # type: ignore[assignment]
        with backbone.watching_register(self._add_register):
            super().test_step(batch, batch_idx)

    def _add_register(self, block: int, key: Tensor, value: Tensor) -> None:
        total = torch.stack([key, value]).double().sum(dim=1).cpu()
        self.totals[block] = self.totals[block] + total if block in self.totals else total

    def on_test_epoch_end(self) -> None:
        super().on_test_epoch_end()
        means = torch.stack([self.totals[block] for block in sorted(self.totals)]).float() / len(self.norms)
        self.mean_register = MeanRegister(means[:, 0].contiguous(), means[:, 1].contiguous())


@dataclass(frozen=True)
class Effect:
    """Norms of a model with an intervention on the images of the search.

    Attributes:
        max_over_median: largest norm of a patch relative to the median, after the block where that is largest.
        outliers: share in percent of the patches above `Outliers.threshold` after its block.
        register: mean norm of the register after that block; None for a model without one.
    """

    max_over_median: float
    outliers: float
    register: float | None


def effect(norms: Norms, detected: Outliers) -> Effect:
    """Effect of an intervention, from the norms of the changed model (or of the plain one)."""
    largest = max(high.max_over_median for high in high_norms(norms, RULES))
    share = 100 * float((norms.raw[:, detected.block] > detected.threshold).double().mean())
    added = norms.registers[:, detected.block]
    return Effect(largest, share, float(added[:, -1].mean()) if added.shape[1] else None)
