"""COCO's layout: one JSON file of annotations for all images; and COCO20k, a listed subset of train2014.

As in LOST (Siméoni et al. 2021, arXiv 2109.14279; valeoai/LOST, datasets.py) crowds are left out and a box [x, y,
width, height] becomes [x, y, x + width, y + height], rounded to whole pixels. Boxes that are empty after rounding
are left out as well: nothing can overlap with them.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from regvit_lightning.data.boxes import Annotation, BoxedImages, check_pixels, with_sizes
from regvit_lightning.data.completeness import find_files, read_list
from regvit_lightning.data.layout import DataError
from regvit_lightning.data.listing import Spellings, composed
from regvit_lightning.errors import one_line

CLASS = "class name"  # key under which an annotation gets the name of its category


@dataclass(frozen=True)
class Entry:
    """One image of the JSON file.

    Attributes:
        name: path of the image as the file gives it, with `/`.
        size: width and height that the file states, or None.
        objects: its annotations; empty where it has none.
    """

    name: str
    size: tuple[int, int] | None
    objects: list[dict[str, Any]]


def listed(folder: Path, annotations: Path, names: Path | None, get: str = "") -> BoxedImages:
    """Images of a COCO data set with the boxes of their objects.

    Args:
        folder: base folder of the paths in the list (`train2014/COCO_train2014_….jpg`), or else in the annotations.
        annotations: `instances_train2014.json`; it is loaded into memory as a whole, some GB for the real one.
        names: file with the image names, one per line (`coco_20k_filenames.txt`, 19,817 in valeoai/LOST); None takes
            all that have annotations. A name and a `file_name` belong together if one is the end of the other.
        get: how to get the data; appended to the error message.

    Raises:
        DataError: a file that is missing or cannot be read; an empty list; an image without annotation or the other way
            round, or with several; a box that is malformed or outside its image.
    """
    if names is None:
        entries = [entry for entry in _entries(annotations, get) if entry.objects]
        paths = _paths(folder, annotations, entries, get)
    else:
        lines = read_list(names, "the path of an image", get)
        paths = find_files(names, [str(folder / line) for line in lines], get)
        entries = _matched(annotations, lines, _entries(annotations, get), get)
    left_out: Counter[str] = Counter()
    own = [_annotation(annotations, entry, left_out) for entry in entries]
    return with_sizes(names or annotations, list(map(Path, paths)), own, left_out)


def _paths(folder: Path, annotations: Path, entries: Sequence[Entry], get: str) -> list[str]:
    """Files of the images, below `folder` with or without the folders of their names."""
    if not entries:
        raise DataError(f"{annotations}: no image has an annotation; {get}")
    spellings = Spellings()
    wanted = [str(folder / entry.name) for entry in entries]
    bare = [str(folder / PurePosixPath(entry.name).name) for entry in entries]
    there = [
        file if Path(spellings.find(file)).is_file() or not Path(spellings.find(name)).is_file() else name
        for file, name in zip(wanted, bare, strict=True)
    ]
    paths = find_files(annotations, there, get)
    twice = [path for path, count in Counter(paths).items() if count > 1]
    if twice:
        raise DataError(f"{annotations}: {len(twice):,} images stand in it more than once, first {twice[0]}; join them")
    return paths


def _matched(file: Path, lines: Sequence[str], entries: Sequence[Entry], get: str) -> list[Entry]:
    """The entry of each listed image."""
    by_name: dict[str, list[Entry]] = {}
    for entry in entries:
        by_name.setdefault(_parts(entry.name)[-1], []).append(entry)
    matches = [_fitting(_parts(line), by_name.get(_parts(line)[-1], [])) for line in lines]
    several = [line for line, fitting in zip(lines, matches, strict=True) if len(fitting) > 1]
    if several:
        text = f"{len(several):,} of {len(lines):,} images may be several of its entries: {', '.join(several[:5])}"
        raise DataError(f"{file}: {text}; give their folders in file_name")
    bare = [line for line, fitting in zip(lines, matches, strict=True) if not fitting or not fitting[0].objects]
    if bare:
        first = ", ".join(bare[:5])
        raise DataError(f"{file}: {len(bare):,} of {len(lines):,} images have no annotation: {first}; {get}")
    return [entry for (entry,) in matches]


def _fitting(line: tuple[str, ...], entries: Sequence[Entry]) -> list[Entry]:
    """The entry of that name; or those with the longest name that is an end of the path, or of which that is an end."""
    exact = [entry for entry in entries if _parts(entry.name) == line]
    if exact:
        return exact
    lengths = [(_common(line, _parts(entry.name)), entry) for entry in entries]
    longest = max((length for length, _ in lengths), default=0)
    return [entry for length, entry in lengths if length == longest and length]


def _common(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    """Number of parts of the shorter path if it is an end of the longer one, else 0."""
    length = min(len(one), len(other))
    return length if one[-length:] == other[-length:] else 0


def _parts(name: str) -> tuple[str, ...]:
    return PurePosixPath(composed(name)).parts or ("",)


def _entries(file: Path, get: str) -> list[Entry]:
    """All images of the JSON file with their annotations, in its order."""
    try:
        content = json.loads(file.read_bytes())
        names = _class_names(content)
        images = {_key(image["id"]): Entry(_name(image), _size(image), []) for image in content["images"]}
        for one in content["annotations"]:
            if _key(one["image_id"]) in images:
                images[_key(one["image_id"])].objects.append({**one, CLASS: names.get(str(one.get("category_id")), "")})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else one_line(error)
        raise DataError(f"unreadable annotations {file}: {reason}; {get}") from None
    return list(images.values())


def _class_names(content: Mapping[str, Any]) -> dict[str, str]:
    """Names of the categories by their ids; none where the file does not name them."""
    categories = content.get("categories")
    known = [one for one in categories if isinstance(one, Mapping)] if isinstance(categories, list) else []
    return {str(one.get("id")): str(one.get("name", "")) for one in known}


def _key(number: object) -> str:
    """An id as text: exporters write `7`, `"7"` and `7.0` for the same image."""
    if not isinstance(number, str | int | float):
        raise TypeError(f"an id is {type(number).__name__}, expected a number or a text")
    return str(int(number)) if isinstance(number, float) and number.is_integer() else str(number)


def _name(image: Mapping[str, Any]) -> str:
    """Path of an image; LVIS gives it by COCO's address alone, whose last two parts are folder and file."""
    if "file_name" not in image and "coco_url" in image:
        return "/".join(str(image["coco_url"]).split("/")[-2:])
    name = str(image["file_name"]).replace("\\", "/")
    if not name.strip("/. "):
        raise ValueError("an image without a file_name")
    return name


def _size(image: Mapping[str, Any]) -> tuple[int, int] | None:
    width, height = image.get("width"), image.get("height")
    return (width, height) if isinstance(width, int) and isinstance(height, int) else None


def _annotation(file: Path, entry: Entry, left_out: Counter[str]) -> Annotation:
    """Boxes (M, 4) of one image; those that are left out are counted by reason."""
    boxes, classes = [], []
    for one in entry.objects:
        x, y, width, height = _numbers(file, entry, one.get("bbox"))
        corners = (x, y, x + width, y + height)
        box = [round(corner) for corner in corners]
        if one.get("iscrowd"):
            left_out["crowd"] += 1
        elif box[0] == box[2] or box[1] == box[3]:
            left_out["without a pixel"] += 1
        else:
            check_pixels(f"{file}: {entry.name}", np.array([corners]))
            boxes.append(box)
            classes.append(str(one.get(CLASS, "")))
    return Annotation(np.array(boxes, np.float64).reshape(-1, 4), entry.size, classes)


def _numbers(file: Path, entry: Entry, bbox: Any) -> list[float]:
    try:
        numbers = [float(number) for number in bbox]
    except (TypeError, ValueError, OverflowError):
        numbers = []
    if len(numbers) != 4 or not all(map(math.isfinite, numbers)):
        shown = "no bbox" if bbox is None else f"bbox {str(bbox)[:60]}"
        raise DataError(f"unreadable annotations {file}: {entry.name}: {shown}: expected four numbers; correct it")
    return numbers
