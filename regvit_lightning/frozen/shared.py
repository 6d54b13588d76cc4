"""Vectors of images that several tasks read: one ordered pass of a frozen backbone, shared through a store.

kNN, the linear probe and zero-shot classification read class tokens and mean patches of the same images at the same
size. A grid runs each of them in a process of its own; with a store, the first one that needs a vector computes it, and
the others read the same bits.

Rows are shared only where the pass is the same: the weights, with arm, registers and interventions; the structure that
runs them, as two models may differ in an activation alone; mean and std; the precision, the device and the versions and
code that compute; the view; the images with their order, sizes and times of change; and the batches, on which the last
bit may depend.
"""

import hashlib
import os
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from regvit_lightning.data.imagenet import ImageFiles, ImageNet
from regvit_lightning.data.module import Loading, Streamed
from regvit_lightning.frozen.contract import RunOptions
from regvit_lightning.frozen.module import FrozenModule, cls_or_mean
from regvit_lightning.frozen.settings import ViewSettings
from regvit_lightning.frozen.trainer import tester
from regvit_lightning.models.backbone import Backbone
from regvit_lightning.models.tokens import Tokens
from regvit_lightning.runtime import hardware, store
from regvit_lightning.runtime.store import Rows

CLASS, MEAN, REGISTERS = "class", "mean patch", "mean register"  # CLASS: CLS, or the mean patch of a model without
Vector = tuple[int, str]  # block, 0..depth-1 or negative from the end, and one of these kinds

# What computes the vectors, beside the weights; a change of any of these files makes all of them anew.
CODE = (
    "models/*.py",
    "models/arms/*.py",
    "data/images.py",
    "data/imagenet.py",
    "data/transforms.py",
    "frozen/module.py",
    "frozen/shared.py",
    "runtime/hardware.py",
)
NOT_COMPUTED_WITH = ("kind", "read_from", "trained_with")  # facts about a model that its vectors do not depend on
BASE = Path(__file__).parents[1]
PACKAGES = ("torch", "torchvision", "timm", "numpy", "pillow")


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
    settings: ViewSettings,
    how: RunOptions,
    validation: Sequence[ImageFiles] = (),
    test: Sequence[ImageFiles] = (),
) -> Streamed:
    """Ordered passes for `module` over the evaluation view of images, in batches of `settings.device_batch`.

    Without a store, on several devices, which share each pass instead, or for a module that reads tokens, they yield
    the images themselves. Otherwise they yield vectors, see `VectorModule.vectors`, that are computed here where no
    other process has done so.

    Raises:
        DataError: an image cannot be read.
    """
    loading = Loading(settings.workers, settings.device_batch)
    if how.store is None or how.devices > 1 or not module.wanted:
        view = settings.view()
        return ImageNet(loading, validation=[(part, view) for part in validation], test=[(part, view) for part in test])
    parts = [[_vectors(module, settings, how, files) for files in split] for split in (validation, test)]
    return Streamed(Loading(0, settings.device_batch), validation=parts[0], test=parts[1])


def _vectors(module: VectorModule, settings: ViewSettings, how: RunOptions, files: ImageFiles) -> Vectors:
    backbone = module.frozen.backbone

    def compute(missing: list[int]) -> list[Rows]:
        wanted = [module.wanted[position] for position in missing]
        collecting = VectorPass(backbone, settings.precision, wanted, len(files))
        loading = Loading(settings.workers, settings.device_batch)
        images = ImageNet(loading, validation=[(files, settings.view())])
        tester(how).validate(collecting, images, verbose=False)
        return collecting.rows

    assert how.store is not None, "without a store the pass yields images"
    facts = _facts(backbone, settings, files)
    keys = [store.key({**facts, "block": block % backbone.depth, "kind": kind}) for block, kind in module.wanted]
    return Vectors(how.store.rows(keys, compute), files)


def _facts(backbone: Backbone, settings: ViewSettings, files: ImageFiles) -> dict[str, Any]:
    """Everything that the vectors of a pass depend on, but for the block and the kind."""
    return {
        "weights": backbone.fingerprint,
        "structure": hashlib.sha256(repr(backbone.model).encode()).hexdigest(),
        "model": {name: value for name, value in backbone.facts().items() if name not in NOT_COMPUTED_WITH},
        "registers": [backbone.num_registers, backbone.added_registers, backbone.has_cls],
        "normalisation": [backbone.mean, backbone.std],
        "precision": settings.precision,
        "device": hardware.device_name(),
        "code": _code(),
        "view": settings.view_in_words(),
        "images": _digest(files),
        "batch": settings.device_batch,
    }


def _digest(files: ImageFiles) -> str:
    """Digest of the images in their order: names below their folder, sizes, and times of change in nanoseconds."""
    digest = hashlib.sha256()
    for index in range(len(files)):
        facts = os.stat(files.path(index))
        digest.update(b"%s\0%d\0%d\0" % (bytes(files.paths[index]), facts.st_size, facts.st_mtime_ns))
    return digest.hexdigest()


@cache
def _code() -> str:
    """Digest of the code in `CODE` and of the versions of `PACKAGES`."""
    digest = hashlib.sha256(repr([version(name) for name in PACKAGES]).encode())
    for file in sorted(file for pattern in CODE for file in BASE.glob(pattern)):
        digest.update(file.read_bytes())
    return digest.hexdigest()
