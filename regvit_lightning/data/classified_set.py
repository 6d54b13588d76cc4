"""Where a set of images with classes lies, in which layout, and how its field measures a classifier of it."""

from dataclasses import dataclass, field

from regvit_lightning.settings import check

LAYOUTS = (
    *("folders", "aircraft", "caltech101", "cars", "cifar10", "cifar100", "cub"),
    *("dtd", "flowers", "food101", "pets", "sun397", "voc"),
)
WITH_SPLITS = ("folders", "voc")  # layouts whose splits the settings name; the others have theirs
MEASURES = {
    "top1": "top-1",
    "mean_per_class": "mean over classes of the accuracy on the images of each",
    "map": "mean over classes of the 11-point average precision",
}


@dataclass
class ClassifiedSet:
    """Images with classes, for logistic regression.

    Attributes:
        layout: `folders`, a folder of class folders for each split; or the layout of a published set, as torchvision
            and the set's authors have it.
        folder: folder below root that contains all of it.
        splits: for `folders` their names, for `voc` those of the lists in ImageSets/Main: [train, test], or
            [train, held out, test].
        measure: `top1`, `mean_per_class`, or `map` for images with several classes (layout voc), see `MEASURES`.
    """

    layout: str = "folders"
    folder: str = ""
    splits: list[str] = field(default_factory=list)
    measure: str = "top1"

    def check(self, where: str) -> None:
        """Raise `SettingsError` for what does not fit; `where`, its location in the settings, starts the message."""
        check(self.layout in LAYOUTS, f"{where}: layout={self.layout}: expected one of {', '.join(LAYOUTS)}")
        check(self.measure in MEASURES, f"{where}: measure={self.measure}: expected one of {', '.join(MEASURES)}")
        several = (self.layout == "voc") == (self.measure == "map")
        check(several, f"{where}: measure=map belongs to layout=voc, and only to it")
        wanted = (2, 3) if self.layout in WITH_SPLITS else (0,)
        expected = (
            "[train, test] or [train, held out, test]" if wanted[0] else f"none, layout {self.layout} has its own"
        )
        different = len(set(self.splits)) == len(self.splits)
        check(len(self.splits) in wanted and different, f"{where}: splits={self.splits}: expected {expected}")
