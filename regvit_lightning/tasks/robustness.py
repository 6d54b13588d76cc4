"""Robustness of ImageNet classifiers on frozen features: V2, A, R, Sketch, ObjectNet and ReaL, without any training.

The classifier is the linear head that `imagenet_linear` has chosen and kept for the same model and seed, and, for a
model with registers, its head on CLS and the mean of the registers (arXiv 2501.04784); or the model's own, as timm
releases it. Classes that a set does not have are no candidates: 200 remain for ImageNet-A and for ImageNet-R, those of
113 objects for ObjectNet. Sources: Recht et al. 2019 (V2, 1902.10811), Hendrycks et al. 2021 (1907.07174 for A,
2006.16241 for R), Wang et al. 2019 (Sketch, 1905.13549), Barbu et al. 2019 (ObjectNet), Beyer et al. 2020 (ReaL,
2006.07159).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from timm.data import resolve_model_data_config
from torch import Tensor, nn
from torch.nn import functional as F

from regvit_lightning.data import shifted
from regvit_lightning.data.layout import DataSettings
from regvit_lightning.data.shifted import ShiftedImages, shifted_images
from regvit_lightning.data.transforms import centre_crop, normalise, released_view
from regvit_lightning.figures import examples
from regvit_lightning.figures.examples import Classified
from regvit_lightning.frozen import kept_heads, shared
from regvit_lightning.frozen.contract import Metric, Outcome, RunOptions
from regvit_lightning.frozen.kept_heads import KeptHead, KeptHeads
from regvit_lightning.frozen.settings import TaskSettings
from regvit_lightning.frozen.shared import Vector, VectorModule, View
from regvit_lightning.frozen.trainer import Tester
from regvit_lightning.models.backbone import Backbone
from regvit_lightning.settings import MISSING, check
from regvit_lightning.statistics import accuracy_by_class, accuracy_interval
from regvit_lightning.tasks.linear import inputs, register_inputs
from regvit_lightning.work import ImageCounts, Pass, Work

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METRICS = {"top1": Metric()}
READS = "shifted"
FOOTNOTE = ("head", "view", "candidates")
TRAINED_BY = "imagenet_linear"
METRIC_OF = {"linear": "top1", "registers": "top1_registers", "own": "top1"}
SHOWN = 4  # images of each kind in the picture


@dataclass
class RobustnessSettings(TaskSettings):
    """Settings of robustness.

    Attributes:
        images: name of a set of shifted images.
        head: `linear`, those that `imagenet_linear` keeps; or `own`, the classifier that the model was released with.
    """

    images: str = MISSING
    head: str = MISSING

    @property
    def named_set(self) -> str:
        return self.images

    @property
    def reads_head_of(self) -> str:
        return TRAINED_BY if self.head == "linear" else ""

    @property
    def needs_classifier(self) -> bool:
        return self.head == "own"

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.head in ("linear", "own"), f"head={self.head}: expected linear or own")


SETTINGS = RobustnessSettings


class Classifiers(VectorModule):
    """A pass that classifies images with one or two heads, among the candidates of their set.

    Args:
        backbone, precision, wanted: see `VectorModule`.
        candidates: indices of the classes to choose among.

    Attributes:
        predictions: (images, heads) class indices, available after test.
        confidences: (images,) softmax over the candidates of the first head's prediction, in 0..1.
        names: names of the heads, keys of `METRIC_OF`.
    """

    shares_passes = True
    predictions: Tensor
    confidences: Tensor
    names: Sequence[str]

    def __init__(
        self, backbone: Backbone, precision: str, candidates: Sequence[int], wanted: Sequence[Vector] = ()
    ) -> None:
        super().__init__(backbone, precision, wanted)
        self.register_buffer("candidates", torch.tensor(candidates), persistent=False)
        self._rows: list[tuple[Tensor, Tensor]] = []

    def logits(self, images: Tensor) -> list[Tensor]:
        """Logits (B, K) of each head, float32, for uint8 images (B, 3, H, W) or their stored vectors."""
        raise NotImplementedError

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
        among = [one[:, self.candidates] for one in self.logits(batch[0])]  # type: ignore[index]
        best = torch.stack([one.argmax(dim=1) for one in among], dim=1)
        confidences = among[0].softmax(dim=1).amax(dim=1)
        return self.candidates[best].cpu(), confidences.cpu()  # type: ignore[index]

    def tested(self, measured: tuple[Tensor, Tensor]) -> None:
        self._rows.append(measured)

    def on_test_epoch_end(self) -> None:
        self.predictions, self.confidences = (torch.cat(part) for part in zip(*self._rows, strict=True))
        self._rows = []


class KeptClassifiers(Classifiers):
    """The heads that `imagenet_linear` keeps, on tokens of the last blocks from one forward pass."""

    def __init__(
        self, backbone: Backbone, precision: str, candidates: Sequence[int], heads: Mapping[str, KeptHead]
    ) -> None:
        blocks = max(int(head.facts["blocks"]) for head in heads.values())
        super().__init__(backbone, precision, candidates, shared.usual(backbone, blocks))
        self.names, self.facts, self.blocks = list(heads), [head.facts for head in heads.values()], blocks
        self.weights = nn.ParameterList([head.weight for head in heads.values()]).requires_grad_(False)
        self.biases = nn.ParameterList([head.bias for head in heads.values()]).requires_grad_(False)

    def logits(self, images: Tensor) -> list[Tensor]:
        tokens, every = self.last_tokens(images, self.blocks), []
        for facts, weight, bias in zip(self.facts, self.weights, self.biases, strict=True):
            own = register_inputs(tokens) if facts["registers"] else inputs(tokens, facts["blocks"], facts["avgpool"])
            every.append(F.linear(own, weight, bias))
        return every


class OwnClassifier(Classifiers):
    """The classifier that the model was released with."""

    names = ("own",)

    def __init__(self, backbone: Backbone, precision: str, candidates: Sequence[int], classifier: nn.Module) -> None:
        super().__init__(backbone, precision, candidates)
        self.classifier = classifier.requires_grad_(False).eval()

    def logits(self, images: Tensor) -> list[Tensor]:
        with self.frozen.autocast(images):
            return [self.classifier(normalise(images, self.mean, self.std)).float()]


def work(settings: RobustnessSettings, images: ImageCounts) -> Work:
    """Work: every image once, at the usual size."""
    return Work([Pass(images[settings.images][0], settings.untrained_size, settings.untrained_size)])


def run(
    backbone: Backbone,
    data: DataSettings,
    settings: RobustnessSettings,
    how: RunOptions = RunOptions(),  # noqa: B008
) -> Outcome:
    """Top-1 of the kept head, or of the model's own, on a set of shifted images.

    Raises:
        UserError: there is no such head; the message has the command that makes it.
        DataError: the data is missing, incomplete or unreadable, or has a class that the head does not know.
    """
    if settings.head == "own":
        classifier, classes = backbone.own_classifier()
        view, view_in_words = _released_view(backbone, classifier)
        images = shifted_images(data, settings.images, classes)
        module: Classifiers = OwnClassifier(backbone, settings.precision, images.candidates, classifier)
        facts: dict[str, object] = {"head": f"the model's own, of {len(classes):,} classes"}
    else:
        trained = how.folder and how.folder.parent / TRAINED_BY
        kept = kept_heads.read(trained, TRAINED_BY, backbone, how.seed)
        classes, view = kept.classes, centre_crop(kept.resize, kept.crop)
        view_in_words = f"resize {kept.resize}, centre crop {kept.crop}, bicubic"
        images = shifted_images(data, settings.images, classes)
        module = KeptClassifiers(backbone, settings.precision, images.candidates, kept.heads)
        facts = {**_facts(kept), "heads_digest": trained and kept_heads.digest(trained)}
    border = f", without {images.border} px of border" if images.border else ""
    seen = View(images.view(view), f"{view_in_words}{border}")
    Tester(how).test(module, shared.passes(module, settings, how, test=[images.files], view=seen), verbose=False)
    facts["view"] = seen.words
    return _outcome(module, images, classes, facts, how.seed, view)


def _released_view(backbone: Backbone, classifier: nn.Module) -> tuple[shifted.Transform, str]:
    """The view that a model of timm was released with, and its description.

    Raises:
        SettingsError: it pads images, or interpolates otherwise.
    """
    config, resize, crop = resolve_model_data_config(classifier), backbone.transform.resize, backbone.transform.crop
    mode, interpolation = config["crop_mode"], config["interpolation"]
    squashed = "both sides to " if mode == "squash" else ""
    words = f"resize {squashed}{resize}, centre crop {crop}, {interpolation}"
    return released_view(resize, crop, mode, interpolation), words


def _facts(kept: KeptHeads) -> dict[str, object]:
    of_each = {f"head_{name}" * (name != "linear") or "head": dict(head.facts) for name, head in kept.heads.items()}
    return {**of_each, "head_chosen_on": kept.chosen_on, "trained_by": TRAINED_BY}


def _outcome(
    module: Classifiers,
    images: ShiftedImages,
    classes: Sequence[str],
    facts: Mapping[str, object],
    seed: int,
    view: shifted.Transform,
) -> Outcome:
    right = shifted.right(module.predictions.numpy(), images.accepted)
    scores = {METRIC_OF[name]: torch.from_numpy(100.0 * right[:, column]) for column, name in enumerate(module.names)}
    many = sum(len(set(own)) > 1 for own in images.accepted)
    return Outcome(
        metrics={name: one.mean().item() for name, one in scores.items()},
        images=len(right),
        intervals={name: accuracy_interval(one, seed) for name, one in scores.items()},
        scores=scores,
        per_class=accuracy_by_class(scores["top1"], torch.from_numpy(images.files.labels), images.files.classes),
        floors={
            "chance": {"top1": shifted.chance(images)},
            "most frequent class": {"top1": shifted.most_frequent(images)},
        },
        protocol={
            **facts,
            "candidates": f"{len(images.candidates):,} of {len(classes):,} classes",
            "images_with_several_right_classes": many,
            "images_left_out": images.left_out,
        },
        picture=_picture(module, images, classes, right[:, 0], view),
    )


def _picture(
    module: Classifiers, images: ShiftedImages, classes: Sequence[str], right: np.ndarray, view: shifted.Transform
) -> "Figure":
    """The most confident mistakes and hits of the first head."""
    order = torch.argsort(module.confidences, descending=True, stable=True).tolist()
    rows = {}
    for title, wanted in (("most confident mistakes", False), ("most confident hits", True)):
        shown = [index for index in order if right[index] == wanted][:SHOWN]
        rows[title] = [_example(module, images, classes, index, images.view(view)) for index in shown]
    return examples.classified(rows)


def _example(
    module: Classifiers, images: ShiftedImages, classes: Sequence[str], index: int, view: shifted.Transform
) -> Classified:
    pixels = view(images.files.open(index)).permute(1, 2, 0).numpy()
    truth, predicted = images.accepted[index][0], classes[int(module.predictions[index, 0])]
    return Classified(pixels, classes[truth], predicted, float(module.confidences[index]))
