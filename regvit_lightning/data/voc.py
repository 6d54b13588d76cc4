"""PASCAL VOC's detection layout: one XML file of annotations per image, and a list of the images.

As in LOST (Siméoni et al. 2021, arXiv 2109.14279; valeoai/LOST, datasets.py), all objects are used, including
difficult and truncated ones, and a box [xmin, ymin, xmax, ymax], which is 1-based and inclusive, becomes
[xmin - 1, ymin - 1, xmax, ymax].
"""

from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from regvit_lightning.data.boxes import Annotation, BoxedImages, check_pixels, with_sizes
from regvit_lightning.data.completeness import read_list
from regvit_lightning.data.layout import DataError
from regvit_lightning.data.listing import LeftOut, Spellings, composed, is_hidden, report
from regvit_lightning.errors import one_line

CORNERS = ("xmin", "ymin", "xmax", "ymax")
CORRECT = "restore it or take it off the list"


def listed(folder: Path, annotations: Path, names: Path | None, suffix: str = ".jpg", get: str = "") -> BoxedImages:
    """Images of a VOC data set with the boxes of all their objects.

    Args:
        folder: folder of the images (`JPEGImages`).
        annotations: folder of the XML files.
        names: file with the image names without suffix, one per line (`ImageSets/Main/trainval.txt`); None takes all
            annotated images.
        suffix: file name suffix of the images; where there is no such file, an image of another kind is taken.
        get: how to get the data; appended to the error message.

    Raises:
        DataError: no such list, or an empty one; an image without annotation or the other way round; an annotation that
            cannot be read or has no object; a box that is empty or outside its image.
    """
    wanted = _named(names, get) if names else _annotated(annotations, get)
    spellings = Spellings()
    images = [Path(spellings.find(str(folder / f"{name}{suffix}"))) for name in wanted]
    files = [Path(spellings.find(str(annotations / f"{name}.xml"))) for name in wanted]
    _check_pairs(names or annotations, images, files, get)
    return with_sizes(names or annotations, images, [read_annotation(file) for file in files])


def _named(names: Path, get: str) -> list[str]:
    return [line.split()[0] for line in read_list(names, "the name of an image", get)]


def _annotated(annotations: Path, get: str) -> list[str]:
    """Names of all annotated images; a `Notice` names the other files."""
    left_out = LeftOut()
    names = []
    for file in sorted(annotations.iterdir()) if annotations.is_dir() else []:
        if file.suffix.lower() == ".xml" and not is_hidden(file.name) and file.is_file():
            names.append(composed(file.stem))
        else:
            left_out.add("not an XML file with the annotation of an image", file.name)
    if not names:
        raise DataError(f"{annotations}: expected a folder with an XML file for each image; {get}")
    report(annotations, left_out)
    return names


def _check_pairs(source: Path, images: list[Path], annotations: list[Path], get: str) -> None:
    for kind, other, files in (("images", "annotation", annotations), ("annotations", "image", images)):
        gone = [file for file in files if not file.is_file()]
        if gone:
            first = ", ".join(map(str, gone[:5]))
            what = f"{len(gone):,} of {len(files):,} {kind} are without {other}: {first} missing"
            raise DataError(f"{source}: {what}; restore it or take its name off the list; {get}")


def read_annotation(file: Path) -> Annotation:
    """Boxes (M, 4) of all objects of one annotation, M >= 1, and the image size that it states.

    Object parts (heads, hands) are ignored.

    Raises:
        DataError: not XML, no object, an object without its four corners, or corners that are not in pixels.
    """
    try:
        root = ElementTree.parse(file).getroot()
        objects = root.findall("object")
        boxes = [[float(one.findtext(f"bndbox/{corner}", "")) for corner in CORNERS] for one in objects]
    except (OSError, ElementTree.ParseError, ValueError, LookupError, RecursionError) as error:
        damaged = isinstance(error, ElementTree.ParseError | OSError | LookupError | RecursionError | UnicodeError)
        reason = one_line(error) if damaged else "an object without bndbox of four numbers"
        raise DataError(f"unreadable annotation {file}: {reason}; {CORRECT}") from None
    if not boxes:
        raise DataError(f"annotation {file} has no object, so there is nothing to find; take it off the list")
    corners = np.array(boxes, np.float64)
    if not np.isfinite(corners).all():
        raise DataError(f"unreadable annotation {file}: an object without bndbox of four numbers; {CORRECT}")
    check_pixels(f"annotation {file}", corners)
    classes = [one.findtext("name", "").strip() for one in objects]
    return Annotation(np.trunc(corners) - (1, 1, 0, 0), _stated_size(root), classes)


def _stated_size(root: ElementTree.Element) -> tuple[int, int] | None:
    """Width and height that an annotation states, or None."""
    width, height = (root.findtext(f"size/{side}", "").strip() for side in ("width", "height"))
    return (int(width), int(height)) if _is_length(width) and _is_length(height) else None


def _is_length(text: str) -> bool:
    return text.isascii() and text.isdigit() and 0 < len(text) < 10
