"""Bounding boxes of a rendering in the formats of PASCAL VOC (XML) and COCO (JSON)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt

from regvit_lightning.data.mini.scenes import Rendering


def voc_xml(rendering: Rendering, year: str, file_name: str, names: Sequence[str]) -> bytes:
    """VOC annotation file of an image; boxes are 1-based and inclusive, as in the real ones.

    The flags follow VOC's guidelines with our own thresholds: truncated below 80 % visible or out of the frame,
    occluded below 95 %, difficult below 30 % or lower than 8 % of the image.

    Args:
        year: "VOC2007" or "VOC2012"; only the latter has the flag `occluded`.
        names: class names.
    """
    height, width = rendering.semantic.shape
    top = ElementTree.Element("annotation")
    _add(top, folder=year, filename=file_name)
    _add(ElementTree.SubElement(top, "source"), database="RegViT mini", annotation="rendered", image="rendered")
    _add(ElementTree.SubElement(top, "size"), width=width, height=height, depth=3)
    _add(top, segmented=0)
    boxes = rendering.boxes.astype(int).tolist()
    for (x1, y1, x2, y2), label, seen, leaves in zip(
        boxes, rendering.labels, rendering.visibility, rendering.truncated, strict=True
    ):
        element = ElementTree.SubElement(top, "object")
        _add(element, name=names[label], pose="Unspecified", truncated=int(leaves or seen < 0.8))
        if year == "VOC2012":
            _add(element, occluded=int(seen < 0.95))
        _add(element, difficult=int(seen < 0.3 or y2 - y1 < 0.08 * height))
        _add(ElementTree.SubElement(element, "bndbox"), xmin=x1 + 1, ymin=y1 + 1, xmax=x2, ymax=y2)
    ElementTree.indent(top, "\t")
    return ElementTree.tostring(top) + b"\n"


def _add(parent: ElementTree.Element, **texts: object) -> None:
    for tag, text in texts.items():
        ElementTree.SubElement(parent, tag).text = str(text)


def coco_annotations(rendering: Rendering, image_id: int, first_id: int, crowd: bool) -> list[dict[str, Any]]:
    """COCO annotations of an image: bbox x, y, width, height; area = number of visible pixels; categories from 1.

    The segmentation is the outline of the box, except for a crowd, which has a run-length mask as in COCO. With
    `crowd` the farthest object is marked as one.
    """
    annotations = []
    for row, ((x1, y1, x2, y2), label) in enumerate(zip(rendering.boxes.tolist(), rendering.labels, strict=True)):
        mask = rendering.instances == row + 1
        is_crowd = crowd and row == len(rendering.labels) - 1
        annotation = {
            "id": first_id + row,
            "image_id": image_id,
            "category_id": int(label) + 1,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": int(mask.sum()),
            "iscrowd": int(is_crowd),
            "segmentation": run_lengths(mask) if is_crowd else [[x1, y1, x2, y1, x2, y2, x1, y2]],
        }
        annotations.append(annotation)
    return annotations


def run_lengths(mask: npt.NDArray[np.bool_]) -> dict[str, list[int]]:
    """COCO's uncompressed run lengths of a mask (H, W): column-major, background first (possibly of length 0)."""
    flat = mask.ravel(order="F").astype(np.int8)
    changes = np.flatnonzero(np.diff(flat, prepend=0))
    return {"counts": np.diff([0, *changes, flat.size]).tolist(), "size": list(mask.shape)}
