"""Kinds of sets of images: the settings of each say where below the root of a data set its files lie, and how.

Two more, `ClassifiedSet` and `ShiftedSet`, have files of their own with what only they need.
"""

import os
from dataclasses import dataclass, field

from regvit_lightning import settings

ADE_SPLITS = ("training", "validation")
IGNORED = 255  # class index of pixels without a label, whatever value the masks use for them
VOC_NAMES = "ImageSets/Main/trainval.txt"
ALL = "all"  # instead of a file of names


@dataclass
class Segmentation:
    """Images with one mask of class indices each; the defaults are ADEChallengeData2016's. Pairs are [train, test].

    Attributes:
        images, masks: folders below root; an image and its mask have the same path except for the suffix.
        lists: files below root that name the images of a split, one per line without suffix; empty takes all images.
        image_suffix, mask_suffix: ends of the file names.
        vocabulary: source of the class names and colours: a data set of mmsegmentation (`ade`, `voc`,
            `cityscapes`), `rendered`, or empty for numbers.
        class_names: names of the classes of one's own set, in the order of the class indices; instead of `vocabulary`.
        classes: number of classes, without the unlabelled and the ignored.
        zero_is_unlabelled: mask value 0 means no label, and value n + 1 means class n.
        ignored: mask value that is neither trained on nor scored.
    """

    images: list[str] = field(default_factory=lambda: [f"ADEChallengeData2016/images/{split}" for split in ADE_SPLITS])
    masks: list[str] = field(default_factory=lambda: [f"ADEChallengeData2016/annotations/{s}" for s in ADE_SPLITS])
    lists: list[str] = field(default_factory=list)
    image_suffix: str = ".jpg"
    mask_suffix: str = ".png"
    vocabulary: str = "ade"
    class_names: list[str] = field(default_factory=list)
    classes: int = settings.number("[2, 254]", 150)
    zero_is_unlabelled: bool = True
    ignored: int = settings.number("[0, 65535]", 255)

    def __post_init__(self) -> None:
        for name, folders in (("images", self.images), ("masks", self.masks)):
            settings.check(len(folders) == 2, f"segmentation.{name}: expected [train, test], got {folders}")
        settings.check(len(self.lists) in (0, 2), f"segmentation.lists: expected [train, test], got {self.lists}")
        if self.class_names:
            self._check_names()

    def _check_names(self) -> None:
        given, different = len(self.class_names), len(set(self.class_names))
        expected = f"segmentation.class_names: {given} names, {different} of them different"
        settings.check(
            given == different == self.classes, f"{expected}: expected classes={self.classes} different ones"
        )
        self.vocabulary = ""


@dataclass
class Depth:
    """Images with one depth map each; the defaults are NYU Depth v2's as BTS lays it out. Pairs are [train, test].

    Attributes:
        lists: files below root with lines `image depth focal`.
        folders: folders below root that are the base of the paths in the lists.
        mat: the official `nyu_depth_v2_labeled.mat` below root, instead of the lists; empty takes the lists.
        splits: the official `splits.mat` below root, for `mat`.
        units_per_metre: what the depth maps of the lists store per metre: 1000 for millimetres, 100 for centimetres,
            5000 for TUM RGB-D, 256 for KITTI. 0 takes millimetres and refuses maps in which they are not plausible.
    """

    lists: list[str] = field(default_factory=lambda: ["nyu/nyu_train.txt", "nyu/nyu_test.txt"])
    folders: list[str] = field(default_factory=lambda: ["nyu/sync", "nyu/official_splits/test"])
    mat: str = ""
    splits: str = ""
    units_per_metre: float = settings.number("[0, 1e9]", 0.0)

    def __post_init__(self) -> None:
        for name, pair in (("lists", self.lists), ("folders", self.folders)):
            settings.check(len(pair) == 2, f"depth.{name}: expected [train, test], got {pair}")
        settings.check(bool(self.mat) == bool(self.splits), "depth: give mat and splits, or neither")


@dataclass
class BoxedSet:
    """Images with boxes around their objects, for object discovery.

    Attributes:
        layout: `voc`, one XML file per image as in PASCAL VOC; or `coco`, one JSON file for all of them.
        folder: folder below root that contains all of the following.
        images: folder of the images; if empty, `JPEGImages` for `voc`.
        annotations: folder of the XML files, `Annotations` if empty; or the JSON file.
        names: file with the image names, one per line: for `voc` without suffix, `ImageSets/Main/trainval.txt` if
            empty; for `coco` as paths below `images`. `all` takes every annotated image; so does an empty value for
            `coco`.
        image_suffix: end of the file names, for `voc`.
    """

    layout: str = ""
    folder: str = ""
    images: str = ""
    annotations: str = ""
    names: str = ""
    image_suffix: str = ".jpg"

    def __post_init__(self) -> None:
        usual = ("JPEGImages", "Annotations", VOC_NAMES) if self.layout == "voc" else ("", "", ALL)
        self.images, self.annotations, self.names = (
            given or usual[index] for index, given in enumerate((self.images, self.annotations, self.names))
        )

    def check(self, where: str) -> None:
        """Raise `SettingsError` unless it can be read; `where`, its location in the settings, starts the message."""
        settings.check(self.layout in ("voc", "coco"), f"{where}: layout={self.layout}: expected voc or coco")
        settings.check(
            bool(self.annotations), f"{where}: annotations is not set: expected the JSON file of layout coco"
        )

    def paths(self, root: str = "") -> list[str]:
        """Paths below root: the folder of the images, the annotations, and the file of names, or `all`."""
        folder = os.path.join(root, self.folder)
        names = ALL if self.names == ALL else os.path.join(folder, self.names)
        return [os.path.join(folder, self.images), os.path.join(folder, self.annotations), names]

    def recorded(self) -> str | list[str]:
        """Which images are read, as stored in records: VOC's folder if everything is as in VOC, else the paths."""
        if self == BoxedSet("voc", self.folder):
            return self.folder
        return self.paths() + ([self.image_suffix] if self.image_suffix != ".jpg" else [])


@dataclass
class VideoSet:
    """Videos with masks of object ids, for video object segmentation; the defaults are those of DAVIS 2017.

    Attributes:
        frames, masks: folders below root with one folder for each video; a mask has the name of its frame, but for the
            suffix. The objects to follow are those in the mask of the first frame.
        names: file below root with the name of a video a line; empty takes every folder of `frames`.
        one_object: all objects of a video are one, as in DAVIS 2016.
    """

    frames: str = "DAVIS/JPEGImages/480p"
    masks: str = "DAVIS/Annotations/480p"
    names: str = ""
    one_object: bool = False

    def paths(self) -> tuple[str, str, str]:
        """Paths below root of the frames, the masks and the list of names, which may be empty."""
        return self.frames, self.masks, self.names


@dataclass
class SalientSet:
    """Images with one mask of their salient objects each, for saliency.

    Attributes:
        images, masks: folders below root; a mask has the name of its image, but for the suffix.
        names: file below root with the name of an image a line, with or without suffix; empty takes every image.
        above: a pixel whose grey value (0..255) is above this is foreground.
        foreground: instead, values of the mask that are foreground, for masks of class or object ids.
    """

    images: str = ""
    masks: str = ""
    names: str = ""
    above: int = settings.number("[0, 254]", 127)
    foreground: list[int] = settings.number("[1, 65535]", [])

    def check(self, where: str) -> None:
        """Raise `SettingsError` unless both folders are named; `where` starts the message."""
        for name in ("images", "masks"):
            settings.check(bool(getattr(self, name)), f"{where}: {name} is not set: expected a folder below root")


DAVIS = {  # available in any data, below its own root
    "davis2017": VideoSet(names="DAVIS/ImageSets/2017/val.txt"),
    "davis2016": VideoSet(names="DAVIS/ImageSets/2016/val.txt", one_object=True),
}


@dataclass
class KeypointSet:
    """Images with keypoints that correspond within a class; the defaults are those of SPair-71k.

    Attributes:
        folder: folder below root that contains all of it.
        annotations: JSON file in it with `{"images": [{"file", "group", "box", "keypoints": {name: [x, y]}}]}`; the box
            may be left out. Empty for SPair-71k's own layout.
        frames: the folder holds RGB-D videos with poses instead, whose points correspond by geometry: `7scenes` for
            `frame-<n>.{color,depth,pose}.*` and camera-intrinsics.txt, `scannet` for `<scene>/{color,depth,pose}/<n>.*`
            and intrinsic/intrinsic_depth.txt, both with depth in millimetres; `navi` for NAVI's objects,
            `<object>/<scene>/{images,depth}` with annotations.json.
    """

    folder: str = "SPair-71k"
    annotations: str = ""
    frames: str = ""

    def __post_init__(self) -> None:
        known = ("7scenes", "scannet", "navi")
        settings.check(self.frames in ("", *known), f"frames: {self.frames}: expected {', '.join(known)}")
        settings.check(not (self.frames and self.annotations), "keypoints: give annotations or frames, not both")


@dataclass
class RetrievalSet:
    """Images of which those with a query's landmark are to be found; the defaults are those of ROxford5k.

    Attributes:
        folder: folder below root that contains all of it.
        images: folder in it that the names of images are relative to.
        ground_truth: file in it: `gnd_<set>.pkl` of the revisited benchmark, or JSON, see `retrieval.py`.
    """

    folder: str = "roxford5k"
    images: str = "jpg"
    ground_truth: str = "gnd_roxford5k.pkl"


REVISITED = {  # available in any data, below its own root
    "roxford5k": RetrievalSet(),
    "rparis6k": RetrievalSet("rparis6k", ground_truth="gnd_rparis6k.pkl"),
}
SPAIR = {"spair71k": KeypointSet(), "scannet": KeypointSet("scans", frames="scannet")}  # below the root of any data
