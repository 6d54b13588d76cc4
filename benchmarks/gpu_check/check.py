"""What every part is given: the device, the sizes, the folder of the small data, and what earlier parts found."""

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from regvit_lightning.data.image_sets import Segmentation
from regvit_lightning.data.layout import DataSettings


@dataclass(frozen=True)
class Trained:
    """A model that is trained on random images.

    Attributes:
        model: name of the register ViT.
        size: side of the images in pixels.
        batch: images per step.
    """

    model: str
    size: int
    batch: int


@dataclass(frozen=True)
class Step:
    """A step of a recipe on random images.

    Attributes:
        model: name of the register ViT.
        batch: images per step.
        words: settings of the recipe.
        least: MFU that an H100 should reach; None for none.
    """

    model: str
    batch: int
    words: tuple[str, ...] = ()
    least: float | None = None


@dataclass(frozen=True)
class Scale:
    """Sizes of the measurements.

    Attributes:
        matrix: side of the matrix product.
        recipe_steps: steps of each recipe that are compared with the CPU's.
        warm_up, timed, watched: steps before, in and after the timed part; in the last ones waits are counted.
        steps: by recipe.
        trained: models for forward and backward passes.
        bank: train images of kNN; `queries` of a batch.
        lost: side of the grid of patches and images of a batch.
        width, classes: of the features and heads.
        evaluated: model of the cells, which are short where `variant` is `mini`.
        images: train images of each of 16 classes in the small data.
        side: larger side of its VOC images in pixels.
        read: images of a batch that is read; `reading` seconds are timed.
    """

    matrix: int
    recipe_steps: int
    warm_up: int
    timed: int
    watched: int
    steps: Mapping[str, Step]
    trained: tuple[Trained, ...]
    bank: int
    queries: int
    lost: tuple[int, int]
    width: int
    classes: int
    evaluated: str
    variant: str
    images: int
    side: int
    read: int
    reading: float


FULL = Scale(
    matrix=8192,
    recipe_steps=20,
    warm_up=4,
    timed=12,
    watched=2,
    steps={
        "dinov2": Step("vitl14_reg4", 64, least=0.45),
        "deit3": Step("vitb_reg4", 256, least=0.50),
        "openclip": Step("vitb_reg4", 256),
    },
    trained=(
        Trained("vits14_reg4", 224, 512),
        Trained("vitb14_reg4", 224, 256),
        Trained("vitl14_reg4", 224, 128),
        Trained("vits14_reg4", 518, 64),
        Trained("vitb14_reg4", 518, 32),
        Trained("vitl14_reg4", 518, 16),
    ),
    bank=1_281_167,
    queries=256,
    lost=(37, 32),
    width=1024,
    classes=1000,
    evaluated="vitl14_reg4",
    variant="",
    images=400,
    side=500,
    read=64,
    reading=6.0,
)
SMALL_HEADS = ("prototypes=64", "ibot_prototypes=64", "head_hidden=64", "image_size=32", "local_size=16", "group=2")
TINY = Scale(
    matrix=256,
    recipe_steps=2,
    warm_up=1,
    timed=1,
    watched=1,
    steps={
        "dinov2": Step("vitn_reg1", 4, (*SMALL_HEADS, "local_crops=2", "device_batch=4"), 0.45),
        "deit3": Step("vitn_reg1", 4, ("image_size=32",), 0.50),
        "openclip": Step("vitn_reg1", 4, ("image_size=32", "text_width=64", "text_layers=1", "text_heads=1")),
    },
    trained=(Trained("vitn_reg1", 32, 2), Trained("vitn_reg1", 48, 2)),
    bank=512,
    queries=8,
    lost=(6, 2),
    width=32,
    classes=8,
    evaluated="vitn_reg1",
    variant="mini",
    images=6,
    side=100,
    read=2,
    reading=0.2,
)
SCALES = {"full": FULL, "tiny": TINY}


@dataclass(frozen=True)
class Check:
    """What a part is given.

    Attributes:
        device: `cuda` or `cpu`.
        size: name of the scale.
        folder: folder of the small data and of runs; deleted at the end.
        known: facts of the lines so far, by the name of the line.
    """

    device: str
    size: str
    folder: Path
    known: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def scale(self) -> Scale:
        """Sizes of the measurements."""
        return SCALES[self.size]

    @property
    def cores(self) -> int:
        """Processors for reading images: all of them; none in the trial, where a process would cost more."""
        from regvit_lightning.data import workers

        return 0 if self.size == "tiny" else workers.processors()

    def fact(self, line: str, name: str) -> Any:
        """A fact of an earlier line; None if there is none."""
        return self.known.get(line, {}).get(name)

    def data(self) -> DataSettings:
        """The small rendered data; `small_data` writes it."""
        return DataSettings(
            name="tiny",
            root=str(self.folder / "data"),
            variant="mini",
            imagenet22k="imagenet",
            pairs="shards/train-*.tar",
            segmentation=Segmentation(vocabulary="rendered"),
        )

    @property
    def photographs(self) -> Path:
        """Folder of JPEGs of ImageNet's mean size, in ImageNet's layout."""
        return self.folder / "photographs"


def compiling(check: Check) -> AbstractContextManager[Any]:
    """Context for compiled blocks; in the trial they are traced, but not given to a compiler, which takes minutes."""
    import torch

    if check.size != "tiny":
        return nullcontext()
    return mock.patch.object(torch, "compile", partial(torch.compile, backend="eager"))


def threads() -> int:
    """Processors of this machine, for processes that render."""
    return os.cpu_count() or 1
