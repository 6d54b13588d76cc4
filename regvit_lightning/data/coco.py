"""COCO's layout: one JSON file of annotations for all images; and COCO20k, a listed subset of train2014.

As in LOST (Siméoni et al. 2021, arXiv 2109.14279; valeoai/LOST, datasets.py) crowds are left out and a box [x, y,
width, height] becomes [x, y, x + width, y + height], rounded to whole pixels. Boxes that are empty after rounding
are left out as well: nothing can overlap with them.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from regvit_lightning.data.boxes import BoxedImages, Boxes, with_sizes
from regvit_lightning.data.completeness import check_files, read_list
from regvit_lightning.data.layout import DataError
from regvit_lightning.errors import one_line


def listed(folder: Path, annotations: Path, names: Path | None, get: str = "") -> BoxedImages:
    """Images of a COCO data set with the boxes of their objects.

    Args:
        folder: base folder of the paths in the list (`train2014/COCO_train2014_….jpg`), or else in the annotations.
        annotations: `instances_train2014.json`; it is loaded into memory as a whole, some GB for the real one.
        names: file with the image names, one per line (`coco_20k_filenames.txt`, 19,817 in valeoai/LOST); None takes
            all that have annotations.
        get: how to get the data; appended to the error message.

    Raises:
        DataError: a file that is missing or cannot be read; an empty list; an image without annotation or the other way
            round; a box that is malformed or outside its image.
    """
    if names is None:
        boxes, left_out = _boxes(annotations, None, get)
        paths = [folder / name for name in boxes]
        if not paths:
            raise DataError(f"{annotations}: no image has an annotation; {get}")
        check_files(annotations, [str(path) for path in paths], get)
        return with_sizes(paths, list(boxes.values()), left_out)
    paths = [folder / line for line in read_list(names, "the path of an image", get)]
    check_files(names, [str(path) for path in paths], get)
    boxes, left_out = _boxes(annotations, {path.name for path in paths}, get)
    bare = [path for path in paths if path.name not in boxes]
    if bare:
        first = ", ".join(map(str, bare[:5]))
        raise DataError(f"{annotations}: {len(bare):,} of {len(paths):,} images have no annotation: {first}; {get}")
    return with_sizes(paths, [boxes[path.name] for path in paths], left_out)


def _boxes(file: Path, wanted: set[str] | None, get: str) -> tuple[dict[str, Boxes], dict[str, int]]:
    """Boxes (M, 4) by file name for each (wanted) image that has annotations, and the boxes left out."""
    try:
        content = json.loads(file.read_bytes())
        files = {image["id"]: image["file_name"] for image in content["images"]}
        names = {key: name for key, name in files.items() if wanted is None or name in wanted}
        objects = [one for one in content["annotations"] if one["image_id"] in names]
        annotated = {one["image_id"] for one in objects}
        rows: dict[str, list[list[int]]] = {name: [] for key, name in names.items() if key in annotated}
        left_out: Counter[str] = Counter()
        for one in objects:
            box, reason = _box(one)
            left_out[reason] += 1
            rows[names[one["image_id"]]] += [] if reason else [box]
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else one_line(error)
        raise DataError(f"unreadable annotations {file}: {reason}; {get}") from None
    del left_out[""]
    return {name: np.array(own, np.float64).reshape(-1, 4) for name, own in rows.items()}, dict(left_out)


def _box(one: dict[str, Any]) -> tuple[list[int], str]:
    """Box of an annotation, and the reason why it is left out, or ''."""
    x, y, width, height = one["bbox"]
    box = [round(corner) for corner in (x, y, x + width, y + height)]
    if one.get("iscrowd"):
        return box, "crowd"
    return box, "" if box[0] != box[2] and box[1] != box[3] else "without a pixel"
