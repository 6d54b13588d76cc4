"""Location and layout of a data set: a name from `configs/data/`, a YAML file, or a folder in ImageNet's layout."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from regvit_lightning import settings
from regvit_lightning.data.classified_set import ClassifiedSet
from regvit_lightning.data.image_sets import (
    DAVIS,
    REVISITED,
    SPAIR,
    BoxedSet,
    Depth,
    KeypointSet,
    RetrievalSet,
    SalientSet,
    Segmentation,
    VideoSet,
)
from regvit_lightning.data.mini.options import MiniSettings
from regvit_lightning.data.shifted_set import ShiftedSet
from regvit_lightning.errors import UserError
from regvit_lightning.settings import Layer, SettingsError

OfSet = TypeVar("OfSet")  # settings of one set of images


class DataError(UserError):
    """A data set that is missing, incomplete or unreadable."""


RENDERED_SETS = ("voc07", "voc12", "coco20k", *DAVIS, *SPAIR, "roxford5k")  # published sets that are rendered, too
SUFFIXES = (".yaml", ".yml")  # of a file like those of configs/data that is given by its path
PUBLISHED = "full"  # the file of configs/data whose sets with boxes are available in any data
OPTIONAL = ("class_names", "units_per_metre")  # recorded only where they are given, as earlier records lack them
KINDS = ("discovery", "videos", "keypoints", "masked", "salient", "shifted", "retrieval", "classified")  # of named sets
NOT_SETS = ("imagenet", "imagenet22k", "segmentation", "depth", "pairs", settings.OWN_MASKS)  # no name of a set


@dataclass
class DataSettings:
    """Folders of one collection of data sets; one YAML of `configs/data/` each.

    Attributes:
        name: name of the results folder, `results/<name>/`.
        root: folder that holds the data sets.
        variant: overlay of recipes and tasks for this data (`mini`: `configs/tasks/<task>.mini.yaml`), or empty.
        imagenet: folder below root with `train/<class>/` and `val/<class>/` for the ImageNet evaluations.
        imagenet22k: folder below root with `train/<class>/` for pretraining at large scale; or a pattern of tar shards
            with labelled images, `imagenet22k/train-*.tar`, see `data/labelled_shards.py`.
        pairs: images with captions below root, for training from text: a pattern of tar shards, a table or a folder,
            see `data/pairs.py`; empty where there are none.
        segmentation: images with masks, for the segmentation tasks.
        depth: images with depth maps, for the depth tasks.
        discovery: sets of images with boxes, by name, for object discovery; a task on one of them ends in its name
            (`lost_voc07`). The sets of `full.yaml` are available in any data, below its own root.
        videos: sets of videos, by name, for video object segmentation: a task on one of them ends in its name
            (`vos_street`). DAVIS's two are available in any data.
        keypoints: sets of images with keypoints, by name, for semantic correspondence: `keypoints_cups`. SPair-71k is
            available in any data.
        masked: sets of images with masks, by name, for a task whose name ends in that of a set
            (`hummingbird_voc2012`); `ade20k` stands for `segmentation`. Those of `full.yaml` are available, too.
        salient: sets of images with masks of their salient objects, by name, for saliency: a task on one of them ends
            in its name (`saliency_ecssd`). Those of `full.yaml` are available in any data.
        shifted: sets of images that test an ImageNet classifier elsewhere, by name, for robustness: a task on one of
            them ends in its name (`robustness_imagenet_v2`). Those of `full.yaml` are available in any data.
        retrieval: sets of images to be found for queries, by name: a task on one of them ends in its name
            (`retrieval_landmarks`). ROxford5k and RParis6k are available in any data.
        classified: sets of images with classes, by name, for logistic regression: a task on one of them ends in its
            name (`logistic_aircraft`). Those of `full.yaml` are available in any data.
        trained_on: name of the data whose `runs/<name>/` contains the trained models; empty for this data.
        rendered: generated on this machine by `regvit_lightning/data/mini/writer.py`.
        rendering: options of rendered data, see `MiniSettings`.
        counts: expected number of images of the splits, [train, test], where known; for `imagenet`,
            `imagenet22k`, `segmentation`, `depth`, or a set with masks; [all] for a set with boxes or of salient
            objects, [train] for `pairs`, [frames] for a set of videos, [pairs, groups] for one with keypoints, and
            [queries and images] for retrieval.
        get: how to get the data if it is missing; appended to the error message.
    """

    name: str = settings.MISSING
    root: str = settings.MISSING
    variant: str = ""
    imagenet: str = "imagenet"
    imagenet22k: str = "imagenet22k"
    pairs: str = ""
    segmentation: Segmentation = field(default_factory=Segmentation)
    depth: Depth = field(default_factory=Depth)
    discovery: dict[str, BoxedSet] = field(default_factory=dict)
    videos: dict[str, VideoSet] = field(default_factory=dict)
    keypoints: dict[str, KeypointSet] = field(default_factory=dict)
    masked: dict[str, Segmentation] = field(default_factory=dict)
    salient: dict[str, SalientSet] = field(default_factory=dict)
    shifted: dict[str, ShiftedSet] = field(default_factory=dict)
    retrieval: dict[str, RetrievalSet] = field(default_factory=dict)
    classified: dict[str, ClassifiedSet] = field(default_factory=dict)
    trained_on: str = ""
    rendered: bool = False
    rendering: MiniSettings = field(default_factory=MiniSettings)
    counts: dict[str, list[int]] = settings.number("[0, 1e12]", {})
    get: str = "check the paths in the YAML file of the data"

    def __post_init__(self) -> None:
        settings.check(bool(self.root), f"data '{self.name}': root is empty (give DATA_ROOT=<folder>)")
        for where in KINDS:
            for name in getattr(self, where):
                self._check_name(where, name)
        for name, boxed_set in self.discovery.items():
            boxed_set.check(f"data '{self.name}': discovery.{name}")
        for name, salient_set in self.salient.items():
            salient_set.check(f"data '{self.name}': salient.{name}")
        for name, shifted_set in self.shifted.items():
            shifted_set.check(f"data '{self.name}': shifted.{name}")
        for name, classified_set in self.classified.items():
            classified_set.check(f"data '{self.name}': classified.{name}")
        self.discovery = {**published_sets(), **self.discovery}
        self.videos = {**DAVIS, **self.videos}
        self.keypoints = {**SPAIR, **self.keypoints}
        self.masked = {**published_masks(), **self.masked}
        self.salient = {**published_salient(), **self.salient}
        self.shifted = {**published_shifted(), **self.shifted}
        self.retrieval = {**REVISITED, **self.retrieval}
        self.classified = {**published_classified(), **self.classified}
        self._check_no_name_twice()

    def _check_no_name_twice(self) -> None:
        kinds: dict[str, list[str]] = {}
        for kind in KINDS:
            for name in getattr(self, kind):
                kinds.setdefault(name, []).append(kind)
        twice = sorted(name for name, those in kinds.items() if len(those) > 1)
        if twice:
            first, second = kinds[twice[0]][:2]
            published = twice[0] in {*_all_published(), *published_shifted()}
            known = " (published sets are there in any data)" if published else ""
            both = f"{twice[0]} names two sets of different kinds, under {first} and {second}{known}"
            raise SettingsError(f"data '{self.name}': {both}; rename one")

    def _check_name(self, where: str, name: str) -> None:
        fits = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name) and name not in NOT_SETS
        expected = f"expected letters, digits, _ and - for a name, and none of {', '.join(NOT_SETS)}"
        settings.check(bool(fits), f"data '{self.name}': {where}.{name}: {expected}")

    def section(self, name: str) -> dict[str, Any]:
        """The settings that determine which images a task reads and what their labels mean, as stored in its record.

        Args:
            name: `imagenet`, `pairs`, `segmentation`, `depth`, or the name of a set with boxes, masks or keypoints, of
                salient objects, of videos, of shifted images, with classes or for retrieval. Records of a published set
                with boxes list all published ones.

        Raises:
            SettingsError: no such part.
        """
        if name == "imagenet":
            return {"imagenet": self.imagenet}
        if name == "pairs":
            return {"pairs": self.pairs}
        if name in ("segmentation", "depth", *self.masked):
            part = self.masked[name] if name in self.masked else getattr(self, name)
            return {key: value for key, value in asdict(part).items() if value or key not in OPTIONAL}
        for sets in (self.videos, self.keypoints, self.salient, self.shifted, self.retrieval, self.classified):
            if name in sets:
                return {name: asdict(sets[name])}
        together = published_sets() if name in published_sets() else [name]
        return {one: self.boxed_set(one).recorded() for one in together}

    def boxed_set(self, name: str) -> BoxedSet:
        """The set with boxes called `name`.

        Raises:
            SettingsError: no such set.
        """
        return self._set("set with boxes", self.discovery, name)

    def video_set(self, name: str) -> VideoSet:
        """The set of videos called `name`.

        Raises:
            SettingsError: no such set.
        """
        return self._set("set of videos", self.videos, name)

    def salient_set(self, name: str) -> SalientSet:
        """The images with masks of salient objects called `name`.

        Raises:
            SettingsError: no such set.
        """
        return self._set("set of salient objects", self.salient, name)

    def shifted_set(self, name: str) -> ShiftedSet:
        """The set of shifted images called `name`.

        Raises:
            SettingsError: no such set.
        """
        return self._set("set of shifted images", self.shifted, name)

    def classified_set(self, name: str) -> ClassifiedSet:
        """The set of images with classes called `name`.

        Raises:
            SettingsError: no such set.
        """
        return self._set("set of images with classes", self.classified, name)

    def keypoint_set(self, name: str) -> KeypointSet:
        """The set with keypoints called `name`.

        Raises:
            SettingsError: no such set.
        """
        return self._set("set with keypoints", self.keypoints, name)

    def retrieval_set(self, name: str) -> RetrievalSet:
        """The images to be found for queries called `name`.

        Raises:
            SettingsError: no such set.
        """
        return self._set("set for retrieval", self.retrieval, name)

    def masked_set(self, name: str) -> Segmentation:
        """The images with masks called `name`: a set of `masked`, or `segmentation` for `ade20k` and `segmentation`.

        Raises:
            SettingsError: no such set.
        """
        if name == "segmentation":
            return self.segmentation
        return self._set("set with masks", {settings.OWN_MASKS: self.segmentation, **self.masked}, name)

    def _set(self, kind: str, sets: Mapping[str, OfSet], name: str) -> OfSet:
        there = [one for one in sets if not self.rendered or one in RENDERED_SETS or one not in _all_published()]
        real = f"; {name} is not rendered: give DATA=full DATA_ROOT=<folder>" if name in set(sets) - set(there) else ""
        known = f"expected one of {', '.join(there)}{real}"
        settings.check(name in there, f"data '{self.name}' has no {kind} called '{name}': {known}")
        return sets[name]

    def folder(self, images: str) -> str:
        """The folder below root that holds the data set `images`.

        Raises:
            SettingsError: no such data set.
        """
        folders = {"imagenet": self.imagenet, "imagenet22k": self.imagenet22k}
        settings.check(images in folders, f"images={images}: expected one of {', '.join(folders)}")
        return folders[images]


@cache
def published_sets() -> dict[str, BoxedSet]:
    """Sets with boxes listed in `configs/data/full.yaml`."""
    return _published("discovery", BoxedSet)


@cache
def published_masks() -> dict[str, Segmentation]:
    """Sets with masks listed in `configs/data/full.yaml`."""
    return _published("masked", Segmentation)


@cache
def published_salient() -> dict[str, SalientSet]:
    """Sets of salient objects listed in `configs/data/full.yaml`."""
    return _published("salient", SalientSet)


@cache
def published_shifted() -> dict[str, ShiftedSet]:
    """Sets of shifted images listed in `configs/data/full.yaml`."""
    return _published("shifted", ShiftedSet)


@cache
def published_classified() -> dict[str, ClassifiedSet]:
    """Sets of images with classes listed in `configs/data/full.yaml`."""
    return _published("classified", ClassifiedSet)


def _all_published() -> set[str]:
    """Names of the sets that are available in any data, without those of shifted images, all of which are rendered."""
    named = published_sets(), published_masks(), published_salient(), published_classified(), DAVIS, SPAIR, REVISITED
    return {name for sets in named for name in sets}


def _published(kind: str, of: type[OfSet]) -> dict[str, OfSet]:
    return {
        name: settings.build(of, [Layer(layer.origin, facts, layer.file)])
        for layer in settings.layers("data", PUBLISHED)
        for name, facts in layer.values.get(kind, {}).items()
    }


def resolve(data: str, root_needed: bool = True) -> DataSettings:
    """Resolve a name of `configs/data/`, a YAML file like those, or a folder in ImageNet's layout to data settings.

    Args:
        data: name of a file of `configs/data/`; path of such a file (`.yaml`) anywhere, whose `base`, if any, is a name
            of `configs/data/` and whose `name` is its own file's if it gives none; or path of a folder.
        root_needed: images will be read; otherwise a data set without a given root gets the root `DATA_ROOT`.

    Raises:
        SettingsError: none of these, or `DATA_ROOT` is needed and not set.
    """
    files = layers(data)
    if files:
        return _from_files(files, root_needed)
    folder = Path(data)
    if not folder.is_dir():
        hint = settings.nearest(data, settings.names("data"))
        raise SettingsError(f"data '{data}' is neither a folder nor a name of configs/data; {hint}")
    get = (
        "a folder given by path needs train/<class>/<image> and val/<class>/<image> for the ImageNet tasks, "
        "ADEChallengeData2016/ for segmentation, nyu/ for depth, VOCdevkit/ or coco/ for object discovery, "
        "pairs/*.tar for training from captions"
    )
    name, pairs = folder.resolve().name, "pairs/*.tar"
    return DataSettings(name=name, root=data, imagenet=".", imagenet22k=".", pairs=pairs, get=get)


def layers(data: str) -> list[Layer]:
    """The layers of a name of `configs/data/`, or of a YAML file of data given by its path; none for anything else.

    Raises:
        SettingsError: a file that is missing or unreadable, or whose `base` does not exist.
    """
    if data in settings.names("data"):
        return settings.layers("data", data)
    if not data.endswith(SUFFIXES):
        return []
    file = Path(data)
    values = settings.read_texts(file)
    base = settings.layers("data", str(values["base"])) if "base" in values else []
    return [*base, Layer(f"the name of {file}", {"name": file.stem}), Layer(str(file), values, file)]


def _from_files(files: Sequence[Layer], root_needed: bool) -> DataSettings:
    try:
        return settings.build(DataSettings, files, environment=("root",))
    except SettingsError:
        if root_needed:
            raise
        return settings.build(DataSettings, files, ["root=DATA_ROOT"])
