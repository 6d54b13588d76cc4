"""Number of images of each data set, without opening any: as published, as rendered, or as listed on disk."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

from benchmarks.data.checks import checks_of
from regvit_lightning.data.image_sets import SPAIR
from regvit_lightning.data.layout import DataError, DataSettings
from regvit_lightning.data.mini.films import SCAN_FRAMES
from regvit_lightning.data.mini.options import MiniSettings
from regvit_lightning.data.mini.parts import PARTS
from regvit_lightning.data.mini.scenes import CLASSES
from regvit_lightning.data.mini.shifted import SHIFTS
from regvit_lightning.data.rgbd_pairs import GAPS
from regvit_lightning.errors import UserError

# Parts of the rendered data for each name in `DataSettings.counts`.
RENDERED = {
    "imagenet": ("imagenet train", "imagenet val"),
    "imagenet22k": ("imagenet train",),
    "segmentation": ("ade training", "ade validation"),
    "depth": ("nyu train", "nyu test"),
    "voc07": ("VOC2007",),
    "voc12": ("VOC2012",),
    "coco20k": ("coco",),
    "pairs": ("shards train",),
    "scenes": ("ade validation",),
    "davis2017": ("films",),
    "davis2016": ("films",),
    "imagenet_val": ("imagenet val",),
    "imagenet_real": ("imagenet val",),
    **{name: (name,) for name in SHIFTS},
    "roxford5k": ("landmarks",),
    "rendered": ("imagenet train", "imagenet val"),
    "rendered_voc": ("VOC2007",),
}


def rendered_pairs(name: str, rendering: MiniSettings) -> list[int]:
    """Pairs and groups of a rendered set with keypoints: all ordered pairs of a class, or frames so far apart."""
    if name == "spair71k":
        return [len(CLASSES) * rendering.keypoints * (rendering.keypoints - 1), len(CLASSES)]
    return [rendering.scans * sum(max(SCAN_FRAMES - gap, 0) for gap in GAPS), len(GAPS)]


class Counts(Mapping[str, Sequence[int]]):
    """Image counts of one collection of data sets, computed lazily.

    Args:
        data: the collection.
        given: counts of data sets that are absent and whose size is unpublished.

    Raises:
        UserError: a requested count cannot be determined.
    """

    def __init__(self, data: DataSettings, given: Mapping[str, int]) -> None:
        self.data, self.given = data, given
        self._count = cache(self._find)

    def __getitem__(self, name: str) -> Sequence[int]:
        return self._count(name)

    def __iter__(self) -> Iterator[str]:
        data = self.data
        sets = [*data.discovery, *data.videos, *data.masked, *data.keypoints, *data.salient]
        sets += [*data.shifted, *data.retrieval, *data.classified]
        return iter(dict.fromkeys([*RENDERED, *SPAIR, *sets]))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def _find(self, name: str) -> Sequence[int]:
        if name in self.given:
            return [self.given[name]]
        if name in self.data.counts:
            return self.data.counts[name]
        if self.data.rendered and name in RENDERED:
            return [PARTS[part][1](self.data.rendering) for part in RENDERED[name]]
        if name in self.data.keypoints:
            return self._pairs(name)
        parts = [check for title, check in checks_of(self.data).items() if title.split()[0] == name]
        if not parts:
            raise UserError(f"{name}: data {self.data.name} has no such images")
        try:
            return [check(self.data) for check in parts]
        except DataError as error:
            hint = f"; give {name}=<number of images>" if name == "pairs" else ""
            raise UserError(f"{name} in {Path(self.data.root)} cannot be counted: {error}{hint}") from None

    def _pairs(self, name: str) -> Sequence[int]:
        """Pairs and groups of a set with keypoints."""
        from regvit_lightning.data.keypoints import keypoint_pairs

        if self.data.rendered and name in SPAIR:
            return rendered_pairs(name, self.data.rendering)
        try:
            pairs = keypoint_pairs(self.data, name)
        except DataError as error:
            raise UserError(f"{name} in {Path(self.data.root)} cannot be counted: {error}") from None
        return [len(pairs), len({pair.group for pair in pairs})]
