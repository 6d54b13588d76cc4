"""ImageNet kNN on frozen features: DINOv2's protocol, with exact search and k chosen on held-out train.

Source: Oquab et al. 2023 (arXiv 2304.07193), section 7.1 and dinov2/eval/knn.py. Features are CLS after the final norm,
L2-normalised; cosine similarity; weights are the softmax over the similarities to the nearest 200 (the largest k)
divided by the temperature, and the votes of a class are summed over the first k.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from regvit_lightning.data.imagenet import test_files, train_files
from regvit_lightning.data.layout import DataSettings
from regvit_lightning.frozen import shared
from regvit_lightning.frozen.contract import Metric, Outcome, RunOptions
from regvit_lightning.frozen.settings import ClassificationSettings
from regvit_lightning.frozen.shared import VectorModule
from regvit_lightning.frozen.trainer import Tester
from regvit_lightning.models.backbone import Backbone
from regvit_lightning.neighbours import search, votes
from regvit_lightning.runtime import seeds
from regvit_lightning.settings import check, number
from regvit_lightning.statistics import accuracy, accuracy_by_class, accuracy_interval, constant_accuracy
from regvit_lightning.work import ImageCounts, Pass, Work

METRICS = {"top1": Metric(), "top1_best_on_test": Metric()}
READS = "imagenet"
FOOTNOTE = ("view", "k_chosen_on")
MEAN_PATCH = "mean of patches after the final norm"


@dataclass
class KnnSettings(ClassificationSettings):
    """Settings of kNN.

    Attributes:
        neighbours: candidate values of k.
        temperature: temperature of the softmax over similarities.
        held_out_limit: maximum number of held-out images used as queries for the choice of k.
        bank_chunk: number of train features compared with a batch of queries at once; bounds memory.
    """

    neighbours: list[int] = number("[1, 1e6]")
    temperature: float = number("(0, 1e3]")
    held_out_limit: int = number("[1, 1e9]")
    bank_chunk: int = number("[1, 1e9]")

    def __post_init__(self) -> None:
        super().__post_init__()
        check(len(self.neighbours) > 0, "neighbours: expected a list such as [10,20]")


SETTINGS = KnnSettings


class KNN(VectorModule):
    """kNN classifier: validation fills the bank with train features, test classifies with it.

    Args:
        backbone, settings: source of the features, and settings of the task.
        classes: number of classes.
        train_images: number of train images; the bank is allocated once.

    Attributes:
        bank: (N, D) L2-normalised train features, float32, available after validation.
        bank_labels: (N,) class indices of the train images.
        predictions: (images, len(neighbours)) predicted classes of the test images, available after test.
        tied: boolean (images, len(neighbours)): the k-th neighbour and the next are equally similar to the test image.
        labels: (images,) class indices of the test images.
    """

    validates_on = "train images"
    shares_passes = True
    bank: Tensor
    bank_labels: Tensor
    predictions: Tensor
    tied: Tensor
    labels: Tensor

    def __init__(self, backbone: Backbone, settings: KnnSettings, classes: int, train_images: int) -> None:
        super().__init__(backbone, settings.precision)
        self.settings, self.classes, self.train_images, self._filled = settings, classes, train_images, 0
        self._outputs: list[tuple[Tensor, Tensor, Tensor]] = []

    def features(self, images: Tensor) -> Tensor:
        """L2-normalised features (B, D), float32, of uint8 images, or of stored vectors."""
        return F.normalize(self.vectors(images)[:, 0], dim=1)

    def classify(self, queries: Tensor, excluded: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Predicted classes and ties, see `KNN`, both (Q, len(neighbours)), of normalised queries (Q, D).

        Args:
            excluded: boolean (N,), images of the bank that are no one's neighbours.
        """
        settings, largest = self.settings, max(self.settings.neighbours)
        similarity, index = search(queries, self.bank, largest + 1, settings.bank_chunk, excluded)
        beyond = similarity.new_full((len(queries), 1), -torch.inf)
        further = torch.cat([similarity, beyond], dim=1)  # there is no further image where k is the whole bank
        tied = torch.stack([further[:, k - 1] == further[:, k] for k in settings.neighbours], dim=1)
        nearest, labels = similarity[:, :largest], self.bank_labels[index[:, :largest]]
        scores = (votes(nearest, labels, k, self.classes, settings.temperature) for k in settings.neighbours)
        return torch.stack([score.argmax(dim=1) for score in scores], dim=1), tied

    def on_validation_start(self) -> None:
        self.bank = torch.empty(self.train_images, self.frozen.backbone.embed_dim, device=self.device)
        self.bank_labels = torch.empty(self.train_images, dtype=torch.long, device=self.device)
        self._filled = 0

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
        return self.features(batch[0]), batch[1]

    def validated(self, measured: tuple[Tensor, Tensor]) -> None:
        rows = slice(self._filled, self._filled + len(measured[1]))
        self.bank[rows], self.bank_labels[rows] = measured
        self._filled = rows.stop

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
        return (*self.classify(self.features(batch[0])), batch[1])

    def tested(self, measured: tuple[Tensor, Tensor, Tensor]) -> None:
        self._outputs.append(measured)

    def on_test_epoch_end(self) -> None:
        self.predictions, self.tied, self.labels = (torch.cat(part) for part in zip(*self._outputs, strict=True))
        self._outputs = []

    def held_out(self, seed: int) -> Tensor:
        """Indices of the train images on which k is chosen, drawn from `seed`."""
        images, settings = len(self.bank), self.settings
        count = min(max(round(settings.held_out * images), 1), settings.held_out_limit)
        return torch.randperm(images, generator=seeds.generator(seed, "held out"))[:count].to(self.bank.device)

    def held_out_accuracy(self, held: Tensor) -> Tensor:
        """Top-1 in percent for each k (len(neighbours),), of the train images `held` against the rest of the bank."""
        excluded = torch.zeros(len(self.bank), dtype=torch.bool, device=self.bank.device)
        excluded[held] = True
        batches = held.split(self.settings.device_batch)
        predictions = torch.cat([self.classify(self.bank[batch], excluded)[0] for batch in batches])
        return accuracy(predictions, self.bank_labels[held])


def work(settings: KnnSettings, images: ImageCounts) -> Work:
    """Work: train and test images once each; train features stay in memory."""
    train, test = images["imagenet"]
    return Work([Pass(train + test, settings.crop, settings.crop)], kept=train)


def run(backbone: Backbone, data: DataSettings, settings: KnnSettings, how: RunOptions = RunOptions()) -> Outcome:  # noqa: B008
    """Top-1 of kNN for the k chosen on held-out train (of equals the first), for every k, and for the best k on test.

    Raises:
        DataError: the data is missing, incomplete or unreadable.
        SettingsError: train has fewer images than the largest k.
    """
    train, test = train_files(data), test_files(data)
    largest, kept = max(settings.neighbours), len(train) - round(settings.held_out * len(train))
    left = f"the {kept} of {len(train)} train images that are left when {settings.held_out:.0%} are held out"
    check(largest <= kept, f"neighbours: k={largest} is above {left}; give a list such as neighbours=[10,20]")
    module = KNN(backbone, settings, len(train.classes), len(train))
    images = shared.passes(module, settings, how, validation=[train], test=[test])
    trainer = Tester(how)
    trainer.validate(module, images, verbose=False)
    trainer.test(module, images, verbose=False)
    return _outcome(module, train.classes, how.seed)


@torch.inference_mode()
def _outcome(module: KNN, classes: Sequence[str], seed: int) -> Outcome:
    settings, held = module.settings, module.held_out(seed)
    chosen = int(module.held_out_accuracy(held).argmax())
    on_test = accuracy(module.predictions, module.labels)
    right = 100.0 * (module.predictions == module.labels[:, None])
    scores = {"top1": right[:, chosen], "top1_best_on_test": right[:, int(on_test.argmax())]}
    by_k = {f"top1_k{k}": on_test[i].item() for i, k in enumerate(settings.neighbours)}
    return Outcome(
        metrics={"top1": on_test[chosen].item(), "top1_best_on_test": on_test.max().item(), **by_k},
        images=len(module.labels),
        intervals={"top1": accuracy_interval(scores["top1"], seed)},
        scores=scores,
        per_class=accuracy_by_class(scores["top1"], module.labels, classes),
        floors={"most frequent class": dict.fromkeys(("top1", "top1_best_on_test"), constant_accuracy(module.labels))},
        protocol={
            "k": settings.neighbours[chosen],
            "k_chosen_on": settings.chosen_on(len(held)),
            "held_out_images": len(held),
            "caveat": settings.caveat(f"{len(settings.neighbours)} values of k", len(held)),
            "temperature": settings.temperature,
            "feature": "CLS after the final norm" if module.frozen.backbone.has_cls else MEAN_PATCH,
            "view": settings.view_in_words(),
            "train_images": len(module.bank),
            "ties": "equally similar in float32: the train image listed first",
            "tied_images": int(module.tied[:, chosen].sum()),
        },
    )
