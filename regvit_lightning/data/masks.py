"""Images and their masks of class indices: which file belongs to which, checked by headers, and decoding of a mask."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from regvit_lightning.data.completeness import find_files, read_list
from regvit_lightning.data.headers import Header, check_ratio, check_size, header, report_rotations
from regvit_lightning.data.images import decode
from regvit_lightning.data.layout import DataError
from regvit_lightning.data.listing import OTHER_KIND, LeftOut, composed, report, walk

STRETCHED = {"L;4": 17, "L;2": 85}  # Pillow multiplies grey values of 4 and 2 bits, to fill 0..255

Pairs = list[tuple[str, str]]  # paths of an image and of its mask


@dataclass(frozen=True)
class Split:
    """Where the images and masks of one split lie.

    Attributes:
        images, masks: folders.
        names: file with the names of the images, one per line, without suffix; None takes all.
        image_suffix, mask_suffix: ends of the file names.
    """

    images: Path
    masks: Path
    names: Path | None
    image_suffix: str
    mask_suffix: str


def pairs_of(split: Split, get: str) -> Pairs:
    """Find the images and masks of a split, in the order of its list or sorted, and check their headers.

    Suffixes are compared without regard to case, and an image of another kind (`a.jpeg` where `.jpg` is given) is
    taken if it has a mask. A `Notice` names what is left out.

    Raises:
        DataError: a folder or a list is missing or empty; files are missing; or an image and its mask do not fit.
    """
    for folder in (split.images, split.masks):
        if not folder.is_dir():
            raise DataError(f"no folder {folder}: expected the images and masks of the segmentation data; {get}")
    pairs = _listed(split, get) if split.names else _all(split, get)
    report_rotations(split.names or split.images, [_check_headers(*pair) for pair in pairs])
    return pairs


def _listed(split: Split, get: str) -> Pairs:
    assert split.names is not None
    named = read_list(split.names, "a name", get)
    images = [os.path.join(split.images, f"{name}{split.image_suffix}") for name in named]
    masks = [os.path.join(split.masks, f"{name}{split.mask_suffix}") for name in named]
    there = find_files(split.names, [file for pair in zip(images, masks, strict=True) for file in pair], get)
    return list(zip(there[::2], there[1::2], strict=True))


def _all(split: Split, get: str) -> Pairs:
    left_out = LeftOut()
    images, others = _by_key(split.images, split.image_suffix, left_out)
    masks, other_masks = _by_key(split.masks, split.mask_suffix, LeftOut())
    if split.images != split.masks:
        masks = {**other_masks, **masks}
    for key, path in sorted(others.items()):
        if key in masks and key not in images and path not in masks.values():
            images[key] = path
        elif split.images != split.masks:
            left_out.add(f"of another kind than '{split.image_suffix}' or without a mask", path)
    if not images:
        reason = f"no file ends in '{split.image_suffix}'"
        raise DataError(f"{split.images} has no image left: {reason}; {get}")
    if split.images == split.masks:
        left_out.counts.pop(OTHER_KIND, None)
    report(split.images, left_out)
    wanted = {path: masks.get(key, str(split.masks / f"{key}{split.mask_suffix}")) for key, path in images.items()}
    there = find_files(split.images, [file for pair in sorted(wanted.items()) for file in pair], get)
    return list(zip(there[::2], there[1::2], strict=True))


def _by_key(folder: Path, suffix: str, left_out: LeftOut) -> tuple[dict[str, str], dict[str, str]]:
    """Paths by key, the relative path without suffix: files with that suffix, and images of other kinds."""
    tail, _, kind = suffix.rpartition(".")
    exact, others = dict[str, str](), dict[str, str]()
    for inside in walk(folder, "", left_out):
        for name in inside.images:
            stem, ending = os.path.splitext(composed(name))
            if not stem.endswith(tail):
                left_out.add(f"without the end '{suffix}'", os.path.join(inside.path, name))
                continue
            key = os.path.join(composed(inside.path), stem.removesuffix(tail))
            found = exact if ending.lower() == f".{kind}".lower() else others
            if key in found:
                left_out.add("with the name of another image", os.path.join(inside.path, name))
            found.setdefault(key, os.path.join(folder, inside.path, name))
    return exact, others


def _check_headers(image: str, mask: str) -> Header:
    """Check a pair without decoding it: the kind of the mask, and the sizes of both."""
    facts = header(image)
    check_ratio(facts)
    check_size(facts, f"mask {mask}", decode(mask, f"mask {mask}", lambda opened: _checked_kind(opened, mask)))
    return facts


def _checked_kind(image: Image.Image, path: str) -> tuple[int, int]:
    """Size of an opened mask, after checking that it holds class numbers."""
    channels = len(image.getbands())
    if channels != 1:
        raise DataError(f"mask {path} has {channels} channels: expected one, with class numbers")
    if image.mode == "F":
        raise DataError(f"mask {path} holds float32 numbers: expected whole class numbers")
    if image.format == "JPEG":
        raise DataError(f"mask {path} is a JPEG, which alters class numbers: expected a PNG made from the original")
    return image.size


def open_mask(path: str) -> npt.NDArray[Any]:
    """Decode a mask, (H, W) integers as stored; of a palette image its indices, of 2 or 4 bits the values 0..15.

    Raises:
        DataError: the file cannot be read or is truncated; or it has several channels, fractions or lossy compression.
    """
    return decode(path, f"mask {path}", lambda image: _stored(image, path))


def _stored(image: Image.Image, path: str) -> npt.NDArray[Any]:
    _checked_kind(image, path)
    factor = STRETCHED.get(_raw_mode(image), 1)
    mask = np.asarray(image)
    return mask.astype(np.uint8) if mask.dtype == bool else mask // np.asarray(factor, mask.dtype)


def _raw_mode(image: Image.Image) -> str:
    """Pillow's name of how the pixels are stored, such as `L;4` for grey values of 4 bits."""
    tiles = getattr(image, "tile", None)
    arguments = tiles[0][3] if tiles else ""
    return arguments if isinstance(arguments, str) else str((arguments or [""])[0])
