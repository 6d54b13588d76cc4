"""Segmentation by nearest patches, CAPI's protocol: each pixel gets the most frequent label of its patch's neighbours.

Source: Darcet et al. 2025 (arXiv 2502.08769) and capi/eval_segmentation.py. Patches after the final norm, standardised;
number of neighbours and metric are chosen on 10 % of train; a pixel's label is the mode over the pixels at its position
in the nearest train patches.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from regvit_lightning.data.image_sets import IGNORED
from regvit_lightning.data.layout import DataSettings
from regvit_lightning.data.module import Loading
from regvit_lightning.data.squashed import Squashed, SquashedImages
from regvit_lightning.frozen import shared_patches
from regvit_lightning.frozen.contract import Outcome, RunOptions
from regvit_lightning.frozen.trainer import Tester
from regvit_lightning.models.backbone import Backbone
from regvit_lightning.neighbours import search_fast
from regvit_lightning.runtime import seeds
from regvit_lightning.runtime.onednn import FastLinear
from regvit_lightning.settings import MISSING, check, number
from regvit_lightning.statistics import miou
from regvit_lightning.tasks.patches import protocol
from regvit_lightning.tasks.patches.label_maps import labels_of_pixels, modes
from regvit_lightning.tasks.patches.memory import MemoryModule, masked_images, outcome
from regvit_lightning.tasks.patches.protocol import MaskedSettings
from regvit_lightning.tasks.segmentation import areas
from regvit_lightning.work import ImageCounts, Pass, Work

METRICS = protocol.METRICS
READS = protocol.READS
FOOTNOTE = ("view", "memory", "scored_at", "k_chosen_on")
DISTANCES = ("cosine", "l2")
CANDIDATES = "candidates"  # name in what a step measures of the areas of every candidate
AT_ONCE = 512  # patches whose neighbours' labels are counted at a time, which bounds memory


@dataclass
class PatchKnnSettings(MaskedSettings):
    """Settings of segmentation by nearest patches.

    Attributes:
        memory: maximum number of train patches in the memory, spread evenly over the train images.
        neighbours: candidate values of k.
        distances: candidate metrics, of cosine and l2.
        held_out: share of the train images on which k and metric are chosen.
        held_out_limit: maximum number of those images.
        bank_chunk: patches of the memory compared with the queries at once; bounds memory.
    """

    memory: int = number("[1, 1e9]")
    neighbours: list[int] = number("[1, 1e5]")
    distances: list[str] = MISSING
    held_out: float = number("(0, 1)")
    held_out_limit: int = number("[1, 1e9]")
    bank_chunk: int = number("[1, 1e9]")

    def __post_init__(self) -> None:
        super().__post_init__()
        check(len(self.neighbours) > 0, "neighbours: expected a list such as [10,30]")
        known = len(self.distances) > 0 and set(self.distances) <= set(DISTANCES)
        check(known, f"distances={self.distances}: expected a list of {' and '.join(DISTANCES)}")


SETTINGS = PatchKnnSettings


class Candidate(NamedTuple):
    """One setting of the search: k, and the metric."""

    k: int
    distance: str


class PatchKNN(MemoryModule):
    """Validation fills the memory; test labels images with each of `candidates`.

    Args:
        backbone, settings, classes: as for `PatchModule`.
        views, side, seed: as for `MemoryModule`.

    Attributes:
        candidates: settings with which test labels the images; that of the first goes into `areas`.
        excluded: boolean (N,), patches of the memory that are no one's neighbours, or None.
        of_candidates: (candidates, images, 3, classes), areas at the size of the input, available after test.
    """

    of_candidates: Tensor

    def __init__(
        self, backbone: Backbone, settings: PatchKnnSettings, classes: int, views: int, side: int, seed: int
    ) -> None:
        super().__init__(backbone, settings, classes, settings.memory, views, side, seed)
        self.settings = settings
        self.candidates = [Candidate(k, distance) for distance in settings.distances for k in settings.neighbours]
        self.excluded: Tensor | None = None
        self._of_candidates: list[Tensor] = []

    def standardise(self) -> None:
        """Standardise the memory in place: mean 0 and deviation 1 of each feature; one that is constant becomes 0."""
        features = self.memory.features
        parts = features.split(self.settings.bank_chunk)
        count = len(features)
        self.centre = torch.stack([part.double().sum(dim=0) for part in parts]).sum(dim=0) / count
        squares = torch.stack([(part.double() - self.centre).square().sum(dim=0) for part in parts]).sum(dim=0)
        deviation = (squares / count).sqrt()
        self.spread = torch.where(deviation > 0, deviation, 1.0)
        for part in parts:
            part.copy_((part.double() - self.centre) / self.spread)
        squared = torch.cat([part.double().square().sum(dim=1) for part in parts])
        inverse = squared.clamp(min=torch.finfo(torch.float32).tiny).rsqrt().float()
        self.terms: dict[str, tuple[Tensor | None, Tensor | None]] = {
            "l2": (None, (-squared / 2).float()),
            "cosine": (inverse, None),
        }

    def labels(self, features: Tensor, candidates: list[Candidate]) -> list[Tensor]:
        """Labels (Q, P²) of the pixels of patches with features (Q, D) before standardisation, for each candidate."""
        queries = ((features.double() - self.centre) / self.spread).float()
        largest = max(candidate.k for candidate in candidates)
        arguments = queries, self.memory.features, largest, self.settings.bank_chunk, self.excluded
        wanted = dict.fromkeys(candidate.distance for candidate in candidates)
        with FastLinear():
            nearest = {distance: search_fast(*arguments, *self.terms[distance])[1] for distance in wanted}
        return [self._modes(nearest[distance][:, :k]) for k, distance in candidates]

    def _modes(self, index: Tensor) -> Tensor:
        most = int(self.seen.argmax())
        return torch.cat([modes(self.memory.pixels[some], most) for some in index.split(AT_ONCE)])

    def squares(self, images: Tensor) -> list[Tensor]:
        """Predicted labels (B, S, S) of uint8 images, for each candidate."""
        features = self.features(images)
        found = self.labels(features.flatten(0, 2), self.candidates)
        return [labels_of_pixels(one.view(*features.shape[:3], -1)) for one in found]

    def on_test_start(self) -> None:
        super().on_test_start()
        self._of_candidates = []

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> Any:
        squares, truths, measured = self.squares(batch["image"]), batch["labels"], []
        for number_, (mask, labels) in enumerate(zip(batch["mask"], truths, strict=True)):
            every = torch.stack([areas(square[number_], labels, self.classes) for square in squares])
            best = labels.masked_fill(labels == IGNORED, int(self.seen.argmax()))
            own, ceiling = (self.from_labels(square, mask) for square in (squares[0][number_], best))
            measured.append({CANDIDATES: every.cpu(), **self.scored(own, ceiling, mask, labels)})
        return measured

    def tested(self, measured: list[dict[str, Tensor]]) -> None:
        self._of_candidates += [one.pop(CANDIDATES) for one in measured]
        super().tested(measured)

    def on_test_epoch_end(self) -> None:
        super().on_test_epoch_end()
        self.of_candidates = torch.stack(self._of_candidates, dim=1)

    @torch.inference_mode()
    def example(self, sample: dict[str, Any]) -> np.ndarray:
        """Prediction (H, W), uint8, at the size of the mask, of one sample of the data set."""
        square = self.squares(sample["image"][None].to(self.device))[0][0]
        own: np.ndarray = self.from_labels(square, sample["mask"])[0].cpu().numpy()
        return own


def held_out_images(images: int, settings: PatchKnnSettings, seed: int) -> list[int]:
    """Ascending indices of the train images on which the candidates are compared, drawn from `seed`."""
    count = min(max(round(settings.held_out * images), 1), settings.held_out_limit)
    return sorted(torch.randperm(images, generator=seeds.generator(seed, "held out"))[:count].tolist())


def work(settings: PatchKnnSettings, images: ImageCounts) -> Work:
    """Work: every train and test image once, held-out ones twice; the patches of the memory stay on the device."""
    train, test = images[settings.section]
    again = min(max(round(settings.held_out * train), 1), settings.held_out_limit)
    kept = min(settings.memory, train * (settings.size // protocol.USUAL_PATCH) ** 2)
    return Work([Pass(train + again + test, settings.size, settings.size)], kept=kept)


def run(
    backbone: Backbone,
    data: DataSettings,
    settings: PatchKnnSettings,
    how: RunOptions = RunOptions(),  # noqa: B008
) -> Outcome:
    """mIoU of labels copied from the nearest train patches, with k and metric chosen on held-out train images.

    Raises:
        DataError: the data is missing, incomplete or unreadable, or a mask does not fit.
        SettingsError: the memory has less than one patch for each train image, or fewer patches than neighbours.
    """
    read = masked_images(backbone, data, settings)
    held = held_out_images(len(read.train), settings, how.seed)
    learnt = Squashed(read.train, read.layout, read.side)
    loading = Loading(settings.workers, settings.device_batch)
    module = PatchKNN(backbone, settings, read.layout.classes, len(read.train), read.side, how.seed)
    trainer = Tester(how)
    trainer.validate(module, SquashedImages(loading, learnt, None), verbose=False)
    module.excluded = torch.isin(module.memory.images, torch.tensor(held, device=module.memory.images.device))
    _check_neighbours(module, len(held))
    with torch.inference_mode():
        module.standardise()
    asked = Squashed([read.train[index] for index in held], read.layout, read.side)
    trainer.test(module, SquashedImages(loading, None, asked), verbose=False)
    chosen = _choose(module)
    trainer.test(module, shared_patches.passes(backbone, settings, how, test=read.tested), verbose=False)
    return outcome(module, read, module.example, _protocol(module, len(read.train), held, chosen), how.seed)


def _check_neighbours(module: PatchKNN, held: int) -> None:
    assert module.excluded is not None, "the held-out images are known"
    left, largest = int((~module.excluded).sum()), max(module.settings.neighbours)
    words = f"the {left:,} labelled patches that are left when {held:,} images are held out"
    check(largest <= left, f"neighbours: k={largest} is above {words}; give a list such as neighbours=[1,3]")


def _choose(module: PatchKNN) -> list[float]:
    """Keep the candidate with the best mIoU on the images just tested, with all patches; returns the mIoU of each."""
    totals = module.of_candidates.sum(dim=1)
    on_held_out = [miou(total.numpy()) for total in totals]
    best = int(np.nan_to_num(on_held_out, nan=-1.0).argmax())
    module.candidates, module.excluded = [module.candidates[best]], None
    return on_held_out


def _protocol(module: PatchKNN, train_images: int, held: list[int], on_held_out: list[float]) -> dict[str, Any]:
    settings, (k, distance) = module.settings, module.candidates[0]
    every = [f"{name}, k={value}" for name in settings.distances for value in settings.neighbours]
    chosen_on = f"{settings.held_out:.0%} of train, held out: {len(held):,} images"
    return {
        "method": "patch kNN, as in CAPI",
        "feature": "patches after the final norm, standardised over the memory",
        "k": k,
        "distance": distance,
        "k_chosen_on": chosen_on,
        "miou_held_out": {name: round(of, 2) for name, of in zip(every, on_held_out, strict=True)},
        "memory": f"{module.memory.filled:,} patches, at most {module.per_image} of an image; whole images of train",
        "memory_patches": module.memory.filled,
        "search": "exact",
        "patch_labels": "of each pixel; the mode of the neighbours' pixels at its position, of equals the lowest class",
        "differs": "unlabelled pixels do not vote; features are standardised once, held-out images among them",
        "train_images": train_images,
    }
