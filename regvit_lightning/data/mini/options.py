"""Options of the rendered data set: how many images of each part, their sizes, and how they are painted."""

from dataclasses import asdict, dataclass
from typing import Any

from regvit_lightning.settings import SEEDS, number

LATER = ("plain", "films", "keypoints", "scans", "landmarks", "shifted")  # options after version 5 of the rendered data


@dataclass
class MiniSettings:
    """Sizes of the data set. The defaults take about half a minute on two cores; all sizes are numbers of images.

    Attributes:
        seed: seed of every image.
        imagenet_train, imagenet_val: images per class.
        ade_train, ade_val, nyu_train, nyu_test, voc2007, voc2012, coco: images.
        films: videos of 12 frames.
        keypoints: images of each class with keypoints, of which all ordered pairs are matched.
        scans: RGB-D videos of 9 frames.
        shifted: images of each class in each of the sets that test classifiers elsewhere.
        landmarks: objects to be found, each in 10 views of its scene, the first of which is the query.
        shards_train, shards_val: image-text pairs; `shard_pairs` of them in each shard.
        imagenet_side: pixels, of ImageNet and the image-text pairs.
        ade_side, voc_side: pixels of the larger side; `voc_side` is that of VOC and COCO.
        plain: share of scenes whose wall or sky has no texture. Everything else of such a scene, its light and grain
            included, is the same as in one with texture, and so are its labels: the wall keeps its class.
    """

    seed: int = number(SEEDS, 0)
    imagenet_train: int = number("[1, 1e7]", 300)
    imagenet_val: int = number("[1, 1e7]", 60)
    ade_train: int = number("[1, 1e7]", 320)
    ade_val: int = number("[1, 1e7]", 80)
    nyu_train: int = number("[1, 1e7]", 160)
    nyu_test: int = number("[1, 1e7]", 40)
    voc2007: int = number("[1, 1e7]", 120)
    voc2012: int = number("[1, 1e7]", 120)
    coco: int = number("[1, 1e7]", 120)
    shards_train: int = number("[1, 1e7]", 4800)
    shards_val: int = number("[1, 1e7]", 320)
    shard_pairs: int = number("[1, 1e6]", 160)
    imagenet_side: int = number("[16, 4096]", 96)
    ade_side: int = number("[16, 4096]", 200)
    voc_side: int = number("[16, 4096]", 160)
    plain: float = number("[0, 1]", 0.0)
    films: int = number("[1, 1e5]", 16)
    keypoints: int = number("[2, 1e3]", 3)
    scans: int = number("[1, 1e4]", 6)
    shifted: int = number("[1, 1e6]", 10)
    landmarks: int = number("[2, 1e4]", 32)

    def described(self) -> dict[str, Any]:
        """Values by name as kept beside the images; without those of `LATER` that are the default.

        Sets that were rendered before an option of `LATER` came lack it, and are the same without it.
        """
        usual = MiniSettings()
        skipped = {name for name in LATER if getattr(self, name) == getattr(usual, name)}
        return {key: value for key, value in asdict(self).items() if key not in skipped}
