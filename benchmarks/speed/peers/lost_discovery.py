"""Object discovery by LOST: `lost` of valeoai/LOST on the same features, and its way from images to boxes."""

from pathlib import Path

import numpy as np
import torch

from benchmarks.speed.peers import discovery, pairs
from benchmarks.speed.timing import Measurement
from regvit_lightning.tasks.discovery.lost import LOST, Choice, choice


def rows(checkouts: Path) -> list[Measurement]:
    """On features, and end to end."""
    pairs.without("skimage.io")
    discovery.find_dino(checkouts)
    return [on_features(), end_to_end()]


def on_features(images: int = 16, height: int = 30, width: int = 40, channels: int = 384) -> Measurement:
    """The algorithm on given keys; the number of images with the same box is shown."""
    from object_discovery import lost

    maps = discovery.structured(images, height, width, channels)
    ours = LOST([Choice("k", -1, False, False, 0.0)], 100)

    def theirs() -> list[np.ndarray]:
        return [lost(one.flatten(0, 1)[None], [height, width], [1, 1], (3, height, width))[0] for one in maps]

    with torch.inference_mode():
        boxes = ours([maps]).boxes[:, 0].cpu().numpy()
        same = sum(np.array_equal(*pair) for pair in zip(boxes, theirs(), strict=True))
        return pairs.beside(
            f"LOST / the original, {height} × {width}, D {channels}",
            lambda: ours([maps]),
            theirs,
            "≥ 1",
            f"the same box in {same} of {images} images",
        )


def end_to_end() -> Measurement:
    """120 rendered images from files to boxes; CorLoc is not computed on either side."""
    from object_discovery import lost

    ours = discovery.our_cell("lost_voc07", lambda backbone, cell: LOST([choice(backbone, cell)], cell.k))
    patch = discovery.PATCH
    theirs = discovery.their_loop(
        lambda keys, grid: lost(keys[:, 1:], list(grid), [patch, patch], (3, patch * grid[0], patch * grid[1]))[0]
    )
    return pairs.beside("LOST end to end / the original, ViT-S/8", ours, theirs, "≥ 3", "120 images", pairs=1)
