"""Features of images that several tasks read: one ordered pass of a frozen backbone, shared through a store.

kNN, the linear probe, zero-shot classification, scores without labels and robustness read class tokens and mean patches
of the same images at the same size; evaluations by patches read all patches of the same squares. A grid runs each of
them in a process of its own; with a store, the first one that needs features computes them, and the others read the
same bits.

Rows are shared only where the pass is the same: the weights, with arm, registers and interventions; the structure that
runs them, as two models may differ in an activation alone; mean and std; the precision, the device and the versions and
code that compute; the view; the images with their order and what their file system says of them, see `state_of_file`;
and the batches, on which the last bit may depend.
"""

import hashlib
import os
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from regvit_lightning.data.imagenet import ImageFiles, ImageNet
from regvit_lightning.data.images import Transform
from regvit_lightning.data.module import Loading, Streamed
from regvit_lightning.frozen.contract import RunOptions
from regvit_lightning.frozen.module import FrozenModule, cls_or_mean
from regvit_lightning.frozen.settings import TaskSettings, ViewSettings
from regvit_lightning.frozen.trainer import Tester
from regvit_lightning.models.backbone import Backbone
from regvit_lightning.models.tokens import Tokens
from regvit_lightning.runtime import hardware, store
from regvit_lightning.runtime.store import Rows

CLASS, MEAN, REGISTERS = "class", "mean patch", "mean register"  # CLASS: CLS, or the mean patch of a model without
Vector = tuple[int, str]  # block, 0..depth-1 or negative from the end, and one of these kinds
USUAL_BLOCKS = 4  # last blocks whose class vectors the linear probe reads
USUAL_SHARE = 1 / 8  # of the store that the usual vectors of one list of images may take

# What computes the vectors, beside the weights; a change of any of these files makes all of them anew.
CODE = (
    "models/*.py",
    "models/arms/*.py",
    "data/images.py",
    "data/imagenet.py",
    "data/shifted.py",
    "data/squashed.py",
    "data/transforms.py",
    "frozen/module.py",
    "frozen/shared*.py",
    "runtime/hardware.py",
)
NOT_COMPUTED_WITH = ("kind", "read_from", "trained_with")  # facts about a model that its vectors do not depend on
BASE = Path(__file__).parents[1]
PACKAGES = ("torch", "torchvision", "timm", "numpy", "pillow")


class View(NamedTuple):
    """A view of an image: how its pixels are made, and the description that tells it from all others."""

    transform: Transform
    words: str


def usual(backbone: Backbone, blocks: int = USUAL_BLOCKS) -> list[Vector]:
    """Vectors that classifiers read: the class vectors of the last `blocks`, and the last means that the model has."""
    means = [(MEAN, backbone.has_cls), (REGISTERS, backbone.num_registers > 0)]
    first = -min(blocks, backbone.depth)
    return [*((block, CLASS) for block in range(first, 0)), *((-1, kind) for kind, there in means if there)]


class VectorModule(FrozenModule):
    """FrozenModule that reads a few vectors after the final norm of each image, in passes that can be shared.

    Args:
        backbone, precision: see `FrozenModule`.
        wanted: the vectors that it reads; empty where it reads tokens.
    """

    def __init__(self, backbone: Backbone, precision: str, wanted: Sequence[Vector] = ((-1, CLASS),)) -> None:
        super().__init__(backbone, precision)
        self.wanted = tuple(wanted)

    def vectors(self, images: Tensor) -> Tensor:
        """The wanted vectors (B, len(wanted), D), float32, of uint8 images (B, 3, H, W); stored ones as they are."""
        if images.is_floating_point():
            return images
        blocks = sorted({block for block, _ in self.wanted})
        tokens = dict(zip(blocks, self.tokens(images, blocks), strict=True))
        return torch.stack([_vector(tokens[block], kind) for block, kind in self.wanted], dim=1)

    def last_tokens(self, images: Tensor, blocks: int) -> list[Tokens]:
        """Tokens of the last `blocks` of uint8 images (B, 3, H, W), or of their stored vectors, see `as_tokens`."""
        if images.is_floating_point():
            return as_tokens(images, self.wanted)
        return self.tokens(images, blocks=range(-blocks, 0))


def _vector(tokens: Tokens, kind: str) -> Tensor:
    if kind == CLASS:
        return cls_or_mean(tokens)
    return tokens.patches.mean(dim=(1, 2)) if kind == MEAN else tokens.registers.mean(dim=1)


def as_tokens(vectors: Tensor, wanted: Sequence[Vector]) -> list[Tokens]:
    """Tokens of the blocks of `wanted`, ascending, from their vectors (B, len(wanted), D).

    CLS is the class vector; the mean stands for the patches and for the registers, one of each, whose own mean it is. A
    kind that is not wanted is empty.
    """
    there = dict(zip(wanted, vectors.unbind(dim=1), strict=True))
    tokens = []
    for block in sorted({block for block, _ in wanted}):
        register, patch = (there.get((block, kind), vectors[:, 0, :0]) for kind in (REGISTERS, MEAN))
        tokens.append(Tokens(there.get((block, CLASS)), register[:, None], patch[:, None, None]))
    return tokens


class VectorPass(VectorModule):
    """Validation pass that collects vectors.

    Attributes:
        rows: one (N, D) for each wanted vector, filled by validation.
    """

    validates_on = "images"

    def __init__(self, backbone: Backbone, precision: str, wanted: Sequence[Vector], images: int) -> None:
        super().__init__(backbone, precision, wanted)
        self.rows: list[Rows] = [np.empty((images, backbone.embed_dim), np.float32) for _ in self.wanted]
        self._filled = 0

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return self.vectors(batch[0])

    def validated(self, measured: Tensor) -> None:
        vectors = measured.cpu().numpy()
        for number, rows in enumerate(self.rows):
            rows[self._filled : self._filled + len(vectors)] = vectors[:, number]
        self._filled += len(vectors)


class Vectors(Dataset[tuple[Tensor, int]]):
    """Data set of every image once: its vectors (V, D) in place of its pixels, and its class index."""

    def __init__(self, rows: Sequence[Rows], files: ImageFiles) -> None:
        self.rows, self.files = rows, files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.from_numpy(np.stack([rows[index] for rows in self.rows])), int(self.files.labels[index])


def passes(
    module: VectorModule,
    settings: TaskSettings,
    how: RunOptions,
    validation: Sequence[ImageFiles] = (),
    test: Sequence[ImageFiles] = (),
    view: View | None = None,
) -> Streamed:
    """Ordered passes for `module` over a view of images, in batches of `settings.device_batch`.

    Without a store, on several devices, which share each pass instead, or for a module that reads tokens, they yield
    the images themselves. Otherwise they yield vectors, see `VectorModule.vectors`, that are computed here where no
    other process has done so.

    Args:
        view: None takes the evaluation view of the settings.

    Raises:
        DataError: an image cannot be read.
    """
    if view is None:
        assert isinstance(settings, ViewSettings), "the settings have an evaluation view"
        view = View(settings.view(), settings.view_in_words())
    if how.store is None or how.devices > 1 or not module.wanted:
        loading, pixels = Loading(settings.workers, settings.device_batch), view.transform
        return ImageNet(loading, validation=[(one, pixels) for one in validation], test=[(one, pixels) for one in test])
    parts = [[_vectors(module, settings, how, files, view) for files in split] for split in (validation, test)]
    return Streamed(Loading(0, settings.device_batch), validation=parts[0], test=parts[1])


def _vectors(module: VectorModule, settings: TaskSettings, how: RunOptions, files: ImageFiles, view: View) -> Vectors:
    assert how.store is not None, "without a store the pass yields images"
    backbone = module.frozen.backbone
    wanted = [(block % backbone.depth, kind) for block, kind in module.wanted]
    others = [(block % backbone.depth, kind) for block, kind in usual(backbone)]
    beside = [vector for vector in others if vector not in wanted]
    if 4 * len(files) * backbone.embed_dim * len(others) > USUAL_SHARE * how.store.most_bytes:
        beside = []
    every = [*wanted, *beside]

    def compute(missing: list[int]) -> list[Rows]:
        vectors = [every[position] for position in missing]
        collecting = VectorPass(backbone, settings.precision, vectors, len(files))
        images = ImageNet(Loading(settings.workers, settings.device_batch), validation=[(files, view.transform)])
        Tester(how).validate(collecting, images, verbose=False)
        return collecting.rows

    facts = facts_of_pass(backbone, settings, view.words, _digest(files))
    keys = [store.key({**facts, "block": block, "kind": kind}) for block, kind in every]
    return Vectors(how.store.rows(store.key(facts), keys[: len(wanted)], compute, keys[len(wanted) :]), files)


def facts_of_pass(backbone: Backbone, settings: TaskSettings, view: str, images: str) -> dict[str, Any]:
    """Everything that the features of a pass depend on, but for the block and the kind.

    Args:
        view: description of the view.
        images: digest of the images in their order.
    """
    return {
        "weights": backbone.fingerprint,
        "structure": hashlib.sha256(repr(backbone.model).encode()).hexdigest(),
        "model": {name: value for name, value in backbone.facts().items() if name not in NOT_COMPUTED_WITH},
        "registers": [backbone.num_registers, backbone.added_registers, backbone.has_cls],
        "normalisation": [backbone.mean, backbone.std],
        "precision": settings.precision,
        "device": hardware.device_name(),
        "arithmetic": [torch.backends.cpu.get_cpu_capability(), torch.get_float32_matmul_precision()],
        "code": _code(),
        "view": view,
        "images": images,
        "batch": settings.device_batch,
    }


def _digest(files: ImageFiles) -> str:
    """Digest of the images in their order: names below their folder, and the states of the files."""
    digest = hashlib.sha256()
    for index in range(len(files)):
        digest.update(state_of_file(bytes(files.paths[index]), files.path(index)))
    return digest.hexdigest()


def state_of_file(name: bytes, path: str | bytes) -> bytes:
    """Name of a file and facts that differ where its content does; one that is not there is told by who reads it.

    Size and time of modification alone do not tell apart copies that keep the time, or files of an archive of one time.
    """
    try:
        facts = os.stat(path)
    except OSError:
        return name + b"\0missing\0"
    return b"%s\0%d\0%d\0%d\0%d\0" % (name, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)


@cache
def _code() -> str:
    """Digest of the code in `CODE` and of the versions of `PACKAGES`."""
    digest = hashlib.sha256(repr([version(name) for name in PACKAGES]).encode())
    for file in sorted(file for pattern in CODE for file in BASE.glob(pattern)):
        digest.update(file.read_bytes())
    return digest.hexdigest()
