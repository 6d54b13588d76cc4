"""ImageNet kNN on frozen features: DINOv2's protocol, with exact search and k chosen on held-out train.

Source: Oquab et al. 2023 (arXiv 2304.07193), section 7.1 and dinov2/eval/knn.py. Features are CLS after the final norm,
L2-normalised; cosine similarity; weights are the softmax over the similarities to the nearest 200 (the largest k)
divided by the temperature, and the votes of a class are summed over the first k.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from regvit_lightning.data.imagenet import ImageNet, test_files, train_files
from regvit_lightning.data.layout import DataSettings
from regvit_lightning.data.module import Loading
from regvit_lightning.frozen.contract import Metric, Outcome, RunOptions
from regvit_lightning.frozen.module import FrozenModule, cls_or_mean
from regvit_lightning.frozen.settings import ClassificationSettings
from regvit_lightning.frozen.trainer import tester
from regvit_lightning.models.backbone import Backbone
from regvit_lightning.neighbours import search, votes
from regvit_lightning.runtime import seeds
from regvit_lightning.settings import check, number
from regvit_lightning.statistics import accuracy, bootstrap
from regvit_lightning.work import ImageCounts, Pass, Work

METRICS = {"top1": Metric(), "top1_best_on_test": Metric()}
READS = "imagenet"
FOOTNOTE = ("view", "k_chosen_on")


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


class KNN(FrozenModule):
    """kNN classifier: validation fills the bank with train features, test classifies with it.

    Attributes:
        bank: (N, D) L2-normalised train features, available after validation.
        bank_labels: (N,) class indices of the train images.
        predictions: (images, len(neighbours)) predicted classes of the test images, available after test.
        labels: (images,) class indices of the test images.
    """

    validates_on = "train images"
    bank: Tensor
    bank_labels: Tensor
    predictions: Tensor
    labels: Tensor

    def __init__(self, backbone: Backbone, settings: KnnSettings, classes: int) -> None:
        super().__init__(backbone, settings.precision)
        self.settings, self.classes = settings, classes
        self._features: list[Tensor] = []
        self._labels: list[Tensor] = []

    def features(self, images: Tensor) -> Tensor:
        """L2-normalised features (B, D), float32, of uint8 images."""
        return F.normalize(cls_or_mean(self.tokens(images)[0]), dim=1)

    def classify(self, queries: Tensor, bank: Tensor, bank_labels: Tensor) -> Tensor:
        """Predicted classes (Q, len(neighbours)) of normalised queries (Q, D)."""
        settings = self.settings
        similarity, index = search(queries, bank, max(settings.neighbours), settings.bank_chunk)
        near = bank_labels[index]
        scores = (votes(similarity, near, k, self.classes, settings.temperature) for k in settings.neighbours)
        return torch.stack([score.argmax(dim=1) for score in scores], dim=1)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._features.append(self.features(batch[0]))
        self._labels.append(batch[1])

    def on_validation_epoch_end(self) -> None:
        self.bank, self.bank_labels = torch.cat(self._features), torch.cat(self._labels)
        self._features, self._labels = [], []

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._features.append(self.classify(self.features(batch[0]), self.bank, self.bank_labels))
        self._labels.append(batch[1])

    def on_test_epoch_end(self) -> None:
        self.predictions, self.labels = torch.cat(self._features), torch.cat(self._labels)

    def held_out_accuracy(self, seed: int) -> Tensor:
        """Top-1 in percent for each k (len(neighbours),), for held-out train images against the rest of the bank."""
        count = min(round(self.settings.held_out * len(self.bank)), self.settings.held_out_limit)
        order = torch.randperm(len(self.bank), generator=seeds.generator(seed, "held out")).to(self.bank.device)
        held, kept = order[:count], order[count:]
        bank, labels = self.bank[kept], self.bank_labels[kept]
        batches = held.split(self.settings.device_batch)
        predictions = torch.cat([self.classify(self.bank[batch], bank, labels) for batch in batches])
        return accuracy(predictions, self.bank_labels[held], self.classes)


def work(settings: KnnSettings, images: ImageCounts) -> Work:
    """Work: train and test images once each; train features stay in memory."""
    train, test = images["imagenet"]
    return Work([Pass(train + test, settings.crop, settings.crop)], kept=train)


def run(backbone: Backbone, data: DataSettings, settings: KnnSettings, how: RunOptions = RunOptions()) -> Outcome:  # noqa: B008
    """Top-1 of kNN for the k chosen on held-out train, for every k, and for the best k on test.

    Raises:
        DataError: the data is missing, incomplete or unreadable.
        SettingsError: train has fewer images than the largest k.
    """
    train, test = train_files(data), test_files(data)
    largest, kept = max(settings.neighbours), len(train) - round(settings.held_out * len(train))
    left = f"the {kept} of {len(train)} train images that are left when {settings.held_out:.0%} are held out"
    check(largest <= kept, f"neighbours: k={largest} is above {left}; give a list such as neighbours=[10,20]")
    view = settings.view()
    loading = Loading(settings.workers, settings.device_batch)
    images = ImageNet(loading, validation=[(train, view)], test=[(test, view)])
    module = KNN(backbone, settings, len(train.classes))
    judging = tester(how)
    judging.validate(module, images, verbose=False)
    judging.test(module, images, verbose=False)

    chosen = int(module.held_out_accuracy(how.seed).argmax())
    on_test = accuracy(module.predictions, module.labels, module.classes)
    right = 100.0 * (module.predictions == module.labels[:, None])
    scores = {"top1": right[:, chosen], "top1_best_on_test": right[:, int(on_test.argmax())]}
    by_k = {f"top1_k{k}": on_test[i].item() for i, k in enumerate(settings.neighbours)}
    return Outcome(
        metrics={"top1": on_test[chosen].item(), "top1_best_on_test": on_test.max().item(), **by_k},
        images=len(test),
        intervals={"top1": bootstrap(scores["top1"], how.seed)},
        scores=scores,
        protocol={
            "k": settings.neighbours[chosen],
            "k_chosen_on": f"{settings.held_out:.0%} of train, held out",
            "temperature": settings.temperature,
            "feature": "CLS after the final norm" if backbone.has_cls else "mean of patches after the final norm",
            "view": settings.view_in_words(),
            "train_images": len(train),
        },
    )
