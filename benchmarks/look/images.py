"""The images that `look` is given: files, folders, or the photographs that scikit-learn ships."""

import glob
import importlib.util
from pathlib import Path

from regvit_lightning.data.listing import is_hidden, is_image
from regvit_lightning.errors import UserError


def chosen(text: str, most: int) -> tuple[list[Path], int]:
    """Images behind a list of files and folders, in its order.

    Args:
        text: paths or patterns with commas; '' stands for the photographs of scikit-learn.
        most: number of images of a folder or pattern that are taken, evenly spread over it.

    Returns:
        The images, and the number of those left out.

    Raises:
        UserError: no such file, or no image in a folder.
    """
    if not text.strip():
        return photographs(), 0
    parts = [text] if Path(text).exists() else [part.strip() for part in text.split(",") if part.strip()]
    images, left_out = list[Path](), 0
    for part in parts:
        every = _images_of(part)
        images += [every[index * len(every) // min(most, len(every))] for index in range(min(most, len(every)))]
        left_out += max(len(every) - most, 0)
    return list(dict.fromkeys(images)), left_out


def photographs() -> list[Path]:
    """The two photographs of `sklearn.datasets.load_sample_images`, as files.

    Raises:
        UserError: this scikit-learn has none.
    """
    package = importlib.util.find_spec("sklearn")
    folders = (package.submodule_search_locations if package else None) or []
    files = sorted(file for folder in folders for file in Path(folder, "datasets", "images").glob("*.jpg"))
    if not files:
        raise UserError("images: scikit-learn has no photographs here; give images=<files or a folder>")
    return files


def _images_of(path: str) -> list[Path]:
    """Images of a folder and those below it, of a pattern, or the file itself, sorted by path."""
    if Path(path).is_dir():
        inside = [file for file in Path(path).rglob("*") if is_image(file.name) and file.is_file()]
        images = [file for file in inside if not any(is_hidden(part) for part in file.relative_to(path).parts)]
        if not images:
            raise UserError(f"images: {path}: no image in this folder")
        return sorted(images)
    if Path(path).exists():
        return [Path(path)]
    matches = sorted(Path(match) for match in glob.glob(path) if is_image(match))
    if not matches:
        raise UserError(f"images: {path}: no such file or folder")
    return matches
