"""Object discovery by TokenCut: `ncut` of YangtaoWANG95/TokenCut, a dense eigensolver, and its way to boxes."""

from pathlib import Path

import numpy as np
import torch

from benchmarks.speed.peers import discovery, pairs
from benchmarks.speed.timing import Measurement
from regvit_lightning import settings
from regvit_lightning.tasks.discovery import normalised_cut

THRESHOLD = 0.2  # theirs


def rows(checkouts: Path) -> list[Measurement]:
    """On features of two sizes, and end to end."""
    pairs.without("skimage.io", "skimage.transform")
    discovery.find_dino(checkouts)
    return [on_features(1, 30, 40), on_features(1, 48, 64), end_to_end()]


def on_features(images: int, height: int, width: int, channels: int = 384) -> Measurement:
    """The algorithm on given keys; the number of images with the same box is shown."""
    from object_discovery import ncut

    chosen = settings.load_settings("tasks", "tokencut_voc07")[1]
    maps = discovery.structured(images, height, width, channels)

    def theirs() -> list[np.ndarray]:
        keys = torch.nn.functional.pad(maps.flatten(1, 2), (0, 0, 1, 0))  # with a CLS, which they leave out
        return [ncut(one[None], [height, width], [1, 1], (3, height, width), chosen.threshold)[0] for one in keys]

    with torch.inference_mode():
        boxes = normalised_cut.cut(maps, chosen.threshold, chosen.weak).boxes.cpu().numpy()
        same = sum(np.array_equal(*pair) for pair in zip(boxes, theirs(), strict=True))
        return pairs.beside(
            f"TokenCut / the original, {height} × {width}, D {channels}",
            lambda: normalised_cut.cut(maps, chosen.threshold, chosen.weak),
            theirs,
            "≥ 20",
            f"the same box in {same} of {images} images",
            pairs=1,
        )


def end_to_end() -> Measurement:
    """120 rendered images from files to boxes; CorLoc is not computed on either side."""
    from object_discovery import ncut

    from regvit_lightning.tasks.discovery.tokencut import TokenCut

    patch = discovery.PATCH
    ours = discovery.our_cell(
        "tokencut_voc07", lambda backbone, cell: TokenCut(cell.source(backbone), cell.threshold, cell.weak)
    )
    theirs = discovery.their_loop(
        lambda keys, grid: ncut(keys, list(grid), [patch, patch], (3, patch * grid[0], patch * grid[1]), THRESHOLD)[0]
    )
    return pairs.beside("TokenCut end to end / the original, ViT-S/8", ours, theirs, "", "120 images", pairs=1)
