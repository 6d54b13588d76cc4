"""PASCAL VOC's detection layout: JPEGImages/, Annotations/*.xml and ImageSets/Main/trainval.txt below one folder.

As in LOST (Siméoni et al. 2021, arXiv 2109.14279; valeoai/LOST, datasets.py) every object counts, difficult and
truncated ones too, and a box [xmin, ymin, xmax, ymax], which is 1-based and inclusive, becomes [xmin - 1, ymin - 1,
xmax, ymax].
"""

from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from regvit_lightning.data.boxes import BoxedImages, Boxes, with_sizes
from regvit_lightning.data.completeness import read_list
from regvit_lightning.data.layout import DataError
from regvit_lightning.errors import one_line

CORNERS = ("xmin", "ymin", "xmax", "ymax")


def trainval(folder: Path, get: str = "") -> BoxedImages:
    """The images of `folder/ImageSets/Main/trainval.txt` with the boxes of all their objects.

    Args:
        folder: `VOCdevkit/VOC2007`, or one laid out alike.
        get: how to get the data; ends the error message.

    Raises:
        DataError: no such list, or an empty one; an image without annotation or the other way round; an annotation that
            cannot be read or has no object; a box that is empty or outside of its image.
    """
    source = folder / "ImageSets" / "Main" / "trainval.txt"
    names = [line.split()[0] for line in read_list(source, "the name of an image", get)]
    images = [folder / "JPEGImages" / f"{name}.jpg" for name in names]
    annotations = [folder / "Annotations" / f"{name}.xml" for name in names]
    _check_pairs(source, images, annotations, get)
    return with_sizes(images, [read_boxes(file) for file in annotations])


def _check_pairs(source: Path, images: list[Path], annotations: list[Path], get: str) -> None:
    for kind, other, files in (("images", "annotation", annotations), ("annotations", "image", images)):
        gone = [file for file in files if not file.exists()]
        if gone:
            first = ", ".join(map(str, gone[:5]))
            what = f"{len(gone):,} of {len(files):,} {kind} are without {other}: {first} missing"
            raise DataError(f"{source}: {what}; restore it or take its name off the list; {get}")


def read_boxes(file: Path) -> Boxes:
    """Boxes (M, 4) of all objects of one annotation, M >= 1; parts of objects (heads, hands) are not objects.

    Raises:
        DataError: not XML, no object, or an object without its four corners.
    """
    try:
        objects = ElementTree.parse(file).getroot().findall("object")
        boxes = [[int(float(one.findtext(f"bndbox/{corner}", ""))) for corner in CORNERS] for one in objects]
    except (OSError, ElementTree.ParseError, ValueError) as error:
        reason = "an object without bndbox of four numbers" if isinstance(error, ValueError) else one_line(error)
        raise DataError(f"unreadable annotation {file}: {reason}; restore it or take it off the list") from None
    if not boxes:
        raise DataError(f"annotation {file} has no object, so there is nothing to find; take it off the list")
    return np.array(boxes, np.float64) - (1, 1, 0, 0)
