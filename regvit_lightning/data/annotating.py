"""Look at every test image of a data set once, for its classes and properties, see `annotated.Annotated`.

Rendered images with a main object are described by the renderer. Of others, texture and clutter are measured; boxes,
masks and depth maps give size and number of objects, segments and distance. ImageNet's boxes are optional: VOC files
`<imagenet>/annotations/val/<image>.xml`, as in ILSVRC's `Annotations/CLS-LOC/val`.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from PIL import Image

from regvit_lightning.data import ade20k, digest, imagenet, nyu, properties, voc
from regvit_lightning.data.annotated import OF_TEST, Annotated, Property
from regvit_lightning.data.discovery import boxed_images
from regvit_lightning.data.image_sets import IGNORED
from regvit_lightning.data.images import open_image
from regvit_lightning.data.layout import DataError, DataSettings
from regvit_lightning.data.masks import open_mask
from regvit_lightning.data.mini import properties as rendered

Show = Callable[[int, int], None]  # takes images done and all images
Row = Sequence[float | int | str | None]  # a value for each property

BOXES_OF_IMAGENET = "annotations/val"  # below the folder of ImageNet
MEASURED = (properties.TEXTURE, properties.CLUTTER)


def annotate(data: DataSettings, section: str, show: Show = lambda done, total: None) -> Annotated:
    """Classes and properties of the test images of a data set, in the order in which tasks score them.

    Args:
        data: location and layout of the images.
        section: `imagenet`, `segmentation`, `depth`, or the name of a set with boxes.
        show: called after each image.

    Raises:
        DataError: missing, incomplete or unreadable.
        SettingsError: no such data set.
    """
    known = {"imagenet": _imagenet, "segmentation": _segmentation, "depth": _depth}
    labels, classes, named, rows = known[section](data) if section in known else _boxed(data, section)
    table: list[Row] = []
    for row in rows:
        table.append(row)
        show(len(table), len(labels))
    columns = zip(*table, strict=True)
    described = [Property(*one, list(column)) for one, column in zip(named, columns, strict=True)]
    known_splits = digest.digests(data, section)
    return Annotated(
        section=section,
        digests={split: known_splits[split] for split in OF_TEST if split in known_splits},
        labels=labels,
        classes=classes,
        properties=[one for one in described if any(value is not None for value in one.values)],
    )


Described = tuple[Sequence[Sequence[int]], Sequence[str], Sequence[tuple[str, str, str]], Iterator[Row]]


def _imagenet(data: DataSettings) -> Described:
    files = imagenet.test_files(data)
    labels = [[int(label)] for label in files.labels]
    if data.rendered:
        return labels, files.classes, list(rendered.NAMED.values()), _rendered(data, files)
    named = (*MEASURED, properties.OBJECT_SIZE, properties.OBJECTS)
    return labels, files.classes, named, _photographs(data, files)


def _rendered(data: DataSettings, files: imagenet.ImageFiles) -> Iterator[Row]:
    for index in range(len(files)):
        path = PurePath(files.path(index))
        known = rendered.known(data.rendering, rendered.scene_index(path.parent.name, path.name))
        yield [getattr(known, one.name) for one in fields(known)]


def _photographs(data: DataSettings, files: imagenet.ImageFiles) -> Iterator[Row]:
    """Measured properties, and the size and number of the objects where ImageNet's boxes lie beside the images."""
    folder = Path(data.root, data.imagenet, BOXES_OF_IMAGENET)
    for index in range(len(files)):
        image = files.open(index)
        boxes = folder / f"{PurePath(files.path(index)).stem}.xml"
        size, count = _objects(boxes, image) if boxes.is_file() else (None, None)
        yield [*properties.pixels(image), size, count]


def _objects(file: Path, image: Image.Image) -> tuple[float | None, int]:
    annotation = voc.read_annotation(file)
    width, height = annotation.size or image.size
    return properties.objects(annotation.boxes, width, height)


def _segmentation(data: DataSettings) -> Described:
    paths = ade20k.test_images(data, []).paths
    named = (*MEASURED, properties.SEGMENTS, properties.SEGMENT_SIZE)
    return [[] for _ in paths], (), named, (_of_mask(data, *map(os.fsdecode, map(bytes, pair))) for pair in paths)


def _of_mask(data: DataSettings, image: str, mask: str) -> Row:
    try:
        classes = ade20k.class_numbers(open_mask(mask), data.segmentation)
    except ValueError as error:
        raise DataError(f"mask {mask}: {error}") from None
    return [*properties.pixels(open_image(image)), *properties.segments(classes, IGNORED)]


def _depth(data: DataSettings) -> Described:
    pairs = nyu.test_pairs(data)
    named = (*MEASURED, properties.DISTANCE)
    return [[] for _ in range(len(pairs))], (), named, (_of_depth(pairs[index]) for index in range(len(pairs)))


def _of_depth(pair: Any) -> Row:
    return [*properties.pixels(Image.fromarray(pair.image)), float(np.median(pair.depth[pair.depth > 0]))]


def _boxed(data: DataSettings, section: str) -> Described:
    images = boxed_images(data, section)
    names = images.classes or [()] * len(images)
    classes = sorted({name for of_image in names for name in of_image} - {""})
    labels = [sorted({classes.index(name) for name in of_image if name}) for of_image in names]
    named = (*MEASURED, properties.OBJECT_SIZE, properties.OBJECTS)
    return labels, classes, named, (_of_boxes(images, index) for index in range(len(images)))


def _of_boxes(images: Any, index: int) -> Row:
    return [
        *properties.pixels(open_image(images.path(index))),
        *properties.objects(images.boxes[index], *images.sizes[index].tolist()),
    ]
