"""Where a set of images lies that tests an ImageNet classifier on other images, and what its folders are called."""

import os
from dataclasses import dataclass

from regvit_lightning.settings import check, number

NAMINGS = ("classes", "numbers", "objectnet", "real")
MAPPINGS = (  # of ObjectNet, in its folder `mappings`
    "folder_to_objectnet_label.json",
    "objectnet_to_imagenet_1k.json",
    "pytorch_to_imagenet_2012_id.json",
    "imagenet_to_label_2012_v2",
)


@dataclass
class ShiftedSet:
    """Images in class folders, whose classes are some of ImageNet's.

    Attributes:
        folder: folder below root with a folder for each class; empty for the test images of the data's own `imagenet`.
        naming: what the folders are called. `classes`: as those of train; `numbers`: by the index of the class in the
            sorted train folders, as in ImageNet-V2; `objectnet`: by ObjectNet's names, which its mappings translate;
            `real`: as those of train, but the labels of each image are in a file, as for ReaL.
        labels: for `objectnet` the folder of its mappings, for `real` its `real.json`; below root.
        border: pixels that are cut off every side of an image; ObjectNet's images have a red border.
    """

    folder: str = ""
    naming: str = "classes"
    labels: str = ""
    border: int = number("[0, 100]", 0)

    def check(self, where: str) -> None:
        """Raise `SettingsError` for an unknown naming, or one without its labels; `where` starts the message."""
        check(self.naming in NAMINGS, f"{where}: naming={self.naming}: expected one of {', '.join(NAMINGS)}")
        needs = self.naming in ("objectnet", "real")
        check(
            needs == bool(self.labels), f"{where}: labels belong to naming=objectnet and naming=real, and only to them"
        )

    def label_files(self) -> list[str]:
        """Files below root that say which classes an image shows, besides its folder."""
        if self.naming == "objectnet":
            return [os.path.join(self.labels, name) for name in MAPPINGS]
        return [self.labels] if self.labels else []
