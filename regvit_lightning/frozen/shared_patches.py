"""Patches of test images that several evaluations by patches read, shared through a store as `shared` shares vectors.

All patches of an image are hundreds of times its vectors. So they are shared where those of a whole list are few bytes;
of larger ones, reading and checking a file would take as long as a GPU takes to compute them.
"""

import hashlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from regvit_lightning.data.module import Loading
from regvit_lightning.data.squashed import Squashed, SquashedImages
from regvit_lightning.frozen import shared
from regvit_lightning.frozen.contract import RunOptions
from regvit_lightning.frozen.module import FrozenModule
from regvit_lightning.frozen.settings import TaskSettings
from regvit_lightning.frozen.trainer import Tester
from regvit_lightning.models.backbone import Backbone
from regvit_lightning.runtime import store
from regvit_lightning.runtime.store import Rows

PATCHES = "patches"  # the kind, beside those of `shared`
MOST_BYTES = 2**30  # of the patches of a list of images


class PatchPass(FrozenModule):
    """Validation pass that collects the patches after the final norm.

    Attributes:
        rows: (N, h, w, D), filled by validation.
    """

    validates_on = "images"

    def __init__(self, backbone: Backbone, precision: str, images: int, side: int) -> None:
        super().__init__(backbone, precision)
        grid = side // backbone.patch_size
        self.rows: Rows = np.empty((images, grid, grid, backbone.embed_dim), np.float32)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> Any:
        return batch["index"], self.tokens(batch["image"])[0].patches

    def validated(self, measured: tuple[Tensor, Tensor]) -> None:
        index, patches = measured
        self.rows[index.cpu().numpy()] = patches.cpu().numpy()


class StoredPatches(SquashedImages):
    """Ordered passes whose batches have the patches of the images (B, h, w, D), float32, as `image`.

    Args:
        loading, train, test: as for `SquashedImages`.
        rows: patches (N, h, w, D) of the images of `train` and `test`, by their index.
    """

    def __init__(self, loading: Loading, train: Squashed | None, test: Squashed | None, rows: Rows) -> None:
        super().__init__(loading, train, test)
        self.rows = rows

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Move a batch to the device with the patches in place of the pixels."""
        patches = torch.from_numpy(np.array(self.rows[batch["index"].numpy()]))
        return super().transfer_batch_to_device({**batch, "image": patches}, device, dataloader_idx)


def passes(
    backbone: Backbone,
    settings: TaskSettings,
    how: RunOptions,
    validation: Squashed | None = None,
    test: Squashed | None = None,
) -> SquashedImages:
    """Ordered passes over the same whole images, for validation, test or both.

    They yield the images; with a store, on one device and where their patches are few bytes, they yield patches that
    are computed here where no other process has done so.

    Raises:
        DataError: an image or a mask cannot be read, or they do not fit.
    """
    loading = Loading(settings.workers, settings.device_batch)
    images = test if validation is None else validation
    assert images is not None and not images.scale, "whole images are read"  # noqa: PT018
    size = 4 * len(images) * (images.side // backbone.patch_size) ** 2 * backbone.embed_dim
    if how.store is None or how.devices > 1 or size > MOST_BYTES:
        return SquashedImages(loading, validation, test)

    def compute(missing: list[int]) -> list[Rows]:
        collecting = PatchPass(backbone, settings.precision, len(images), images.side)
        Tester(how).validate(collecting, SquashedImages(loading, images, None), verbose=False)
        return [collecting.rows]

    facts = shared.facts_of_pass(backbone, settings, f"squashed to {images.side}", _digest(images))
    key = store.key({**facts, "kind": PATCHES})
    (rows,) = how.store.rows(key, [key], compute)
    return StoredPatches(loading, validation, test, rows)


def _digest(images: Squashed) -> str:
    """Digest of the images in their order: their paths, and the states of the files."""
    digest = hashlib.sha256()
    for path in images.paths[:, 0]:
        digest.update(shared.state_of_file(bytes(path), bytes(path)))
    return digest.hexdigest()
