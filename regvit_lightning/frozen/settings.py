"""Settings shared by the frozen evaluations."""

import math
from dataclasses import dataclass

from regvit_lightning.data.images import Transform
from regvit_lightning.data.transforms import centre_crop
from regvit_lightning.runtime import hardware
from regvit_lightning.settings import MISSING, check, number


@dataclass
class TaskSettings:
    """Settings common to all frozen evaluations.

    Attributes:
        module: file of `regvit_lightning/tasks/` with the task's `SETTINGS` and `run`.
        version: version of the protocol; raised whenever a change to the code or the YAML changes numbers.
        precision: of the frozen features: bf16-mixed, 16-mixed or 32-true; auto takes bf16-mixed where the hardware
            supports it, and 32-true elsewhere.
        workers: data loading processes per device.
        device_batch: images per forward pass of the backbone on one device.
        untrained_size: side in pixels of the images for which untrained backbones are built.
    """

    module: str = MISSING
    version: int = number("[1, 1e4]")
    precision: str = MISSING
    workers: int = number("[0, 256]")
    device_batch: int = number("[1, 1e5]")
    untrained_size: int = number("[1, 1e4]")

    @property
    def named_set(self) -> str:
        """Name of the set with boxes, masks or keypoints, or of videos, that the task reads; empty for other images."""
        return ""

    @property
    def reads_head_of(self) -> str:
        """The task whose kept heads this one reads, of the same model and seed; empty for all others."""
        return ""

    @property
    def needs_classifier(self) -> bool:
        """Whether the model needs a classifier of its own: a grid skips those that have none."""
        return False

    def __post_init__(self) -> None:
        self.precision = hardware.precision(self.precision)


@dataclass
class ViewSettings(TaskSettings):
    """Settings of the evaluations on ImageNet.

    Attributes:
        resize: short side in pixels before the centre crop of the evaluation view.
        crop: side of that crop in pixels.
    """

    resize: int = number("[1, 1e4]")
    crop: int = number("[1, 1e4]")

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.resize >= self.crop, f"resize={self.resize}: must be at least crop={self.crop}")

    def view(self) -> Transform:
        """Evaluation transform of an image, the same for train and test."""
        return centre_crop(self.resize, self.crop)

    def view_in_words(self) -> str:
        """Description of the evaluation view for the record."""
        return f"resize {self.resize}, centre crop {self.crop}, bicubic"


@dataclass
class ClassificationSettings(ViewSettings):
    """Settings of the evaluations on ImageNet that select hyperparameters.

    Attributes:
        held_out: share of the train images held out for that selection.
    """

    held_out: float = number("(0, 1)")

    def chosen_on(self, images: int) -> str:
        """What a choice was made on, for the record: the share of train, and how well `images` images measure."""
        return f"{self.held_out:.0%} of train, held out: {images:,} images, ±{uncertainty(images):.1f} points"

    def caveat(self, candidates: str, images: int) -> str:
        """Warning for the record where `images` images cannot tell the `candidates` apart; empty where they can."""
        if uncertainty(images) <= TELLING:
            return ""
        known = f"where an accuracy is known to ±{uncertainty(images):.1f} points only"
        return f"one of {candidates} is chosen on {images:,} held-out images, {known}"


TELLING = 1.0  # points: a choice between accuracies that are known less well than this is named as uncertain


def uncertainty(images: int) -> float:
    """Half the width in points of the 95 % interval of an accuracy of 50 % on so many images (normal approximation)."""
    return 98.0 / math.sqrt(images)
