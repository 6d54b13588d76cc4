"""PASCAL VOC's detection layout: one XML file of annotations per image, and a list of the images.

As in LOST (Siméoni et al. 2021, arXiv 2109.14279; valeoai/LOST, datasets.py), all objects are used, including
difficult and truncated ones, and a box [xmin, ymin, xmax, ymax], which is 1-based and inclusive, becomes
[xmin - 1, ymin - 1, xmax, ymax].
"""

from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from regvit_lightning.data.boxes import BoxedImages, Boxes, with_sizes
from regvit_lightning.data.completeness import read_list
from regvit_lightning.data.layout import DataError
from regvit_lightning.errors import one_line

CORNERS = ("xmin", "ymin", "xmax", "ymax")


def listed(folder: Path, annotations: Path, names: Path | None, suffix: str = ".jpg", get: str = "") -> BoxedImages:
    """Images of a VOC data set with the boxes of all their objects.

    Args:
        folder: folder of the images (`JPEGImages`).
        annotations: folder of the XML files.
        names: file with the image names without suffix, one per line (`ImageSets/Main/trainval.txt`); None takes all
            annotated images.
        suffix: file name suffix of the images.
        get: how to get the data; appended to the error message.

    Raises:
        DataError: no such list, or an empty one; an image without annotation or the other way round; an annotation that
            cannot be read or has no object; a box that is empty or outside its image.
    """
    wanted = _named(names, get) if names else _annotated(annotations, get)
    images = [folder / f"{name}{suffix}" for name in wanted]
    files = [annotations / f"{name}.xml" for name in wanted]
    _check_pairs(names or annotations, images, files, get)
    return with_sizes(images, [read_boxes(file) for file in files])


def _named(names: Path, get: str) -> list[str]:
    return [line.split()[0] for line in read_list(names, "the name of an image", get)]


def _annotated(annotations: Path, get: str) -> list[str]:
    names = sorted(file.stem for file in annotations.glob("*.xml"))
    if not names:
        raise DataError(f"{annotations}: expected a folder with an XML file for each image; {get}")
    return names


def _check_pairs(source: Path, images: list[Path], annotations: list[Path], get: str) -> None:
    for kind, other, files in (("images", "annotation", annotations), ("annotations", "image", images)):
        gone = [file for file in files if not file.exists()]
        if gone:
            first = ", ".join(map(str, gone[:5]))
            what = f"{len(gone):,} of {len(files):,} {kind} are without {other}: {first} missing"
            raise DataError(f"{source}: {what}; restore it or take its name off the list; {get}")


def read_boxes(file: Path) -> Boxes:
    """Boxes (M, 4) of all objects of one annotation, M >= 1; object parts (heads, hands) are ignored.

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
