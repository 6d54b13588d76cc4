"""Files of the rendered data set: images, masks, lists and JSON, each written under a temporary name and renamed."""

from __future__ import annotations

import colorsys
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def jpeg(image: np.ndarray) -> bytes:
    """Bytes of an image (H, W, 3) as a JPEG of quality 90."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def write_jpeg(path: Path, image: np.ndarray) -> None:
    """Write an image (H, W, 3) as a JPEG."""
    write_bytes(path, jpeg(image))


def write_png(path: Path, values: np.ndarray | Image.Image) -> None:
    """Write a PNG of one channel with 8 or 16 bits, or one with a palette."""
    buffer = io.BytesIO()
    image = values if isinstance(values, Image.Image) else Image.fromarray(values)
    image.save(buffer, "PNG", compress_level=3)
    write_bytes(path, buffer.getvalue())


def with_palette(ids: np.ndarray) -> Image.Image:
    """Object ids as an image with a palette, as in DAVIS, so that a viewer shows them: 0 is black."""
    image = Image.fromarray(ids).convert("P")
    hues = (colorsys.hsv_to_rgb(0.61803 * number % 1, 0.75, 0.9) for number in range(1, 256))
    image.putpalette([0, 0, 0, *(round(255 * part) for colour in hues for part in colour)])
    return image


def write_lines(path: Path, lines: Sequence[str]) -> None:
    """Write a text file with these lines."""
    write_bytes(path, "".join(f"{line}\n" for line in lines).encode())


def write_json(path: Path, value: dict[str, Any] | list[Any]) -> None:
    """Write a value as JSON."""
    write_bytes(path, (json.dumps(value, indent=1) + "\n").encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file, and its folder where there is none."""
    # Unlike atomic.write, without flushing each of thousands of files to disk: a lost one is rendered again.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
    temporary.replace(path)


def read_json(path: Path) -> dict[str, Any] | None:
    """Mapping in a JSON file; None where there is none that can be read."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
