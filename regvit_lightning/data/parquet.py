"""Parquet files of images with captions, as img2dataset and the Hugging Face hub write them; needs pyarrow.

The image is a column of encoded bytes, or of structs with the field `bytes`. A row group is read as a whole for one of
its images: img2dataset's hold 100, files with much larger ones are slow to train from.
"""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from regvit_lightning.data.layout import DataError
from regvit_lightning.errors import UserError, one_line

SUFFIX = ".parquet"
IMAGES = ("jpg", "jpeg", "png", "webp", "image", "img")  # img2dataset names it after the encoding
CAPTIONS = ("caption", "text", "title", "TEXT")
OPEN_FILES = 32  # per process


def captions(file: Path) -> Iterator[tuple[str | None, bool]]:
    """Caption of each row, and whether it has an image.

    Raises:
        UserError: pyarrow is not installed.
        DataError: not a Parquet file of images with captions.
    """
    try:
        opened = _opened(str(file), file.stat().st_mtime_ns)
        image, caption = _columns(str(file), opened.schema_arrow)
        for group in range(opened.num_row_groups):
            texts = opened.read_row_group(group, columns=[caption]).column(0).to_pylist()
            yield from zip(texts, _present(opened, group, image, len(texts)), strict=True)
    except UserError:
        raise
    except Exception as error:  # pyarrow raises unrelated classes
        raise DataError(f"{file}: truncated, empty or not a Parquet file ({one_line(error)}); get it again") from None


def image(file: str, row: int) -> bytes:
    """Encoded image of one row.

    Raises:
        UserError: pyarrow is not installed.
        DataError: the file cannot be read, or no longer has the image.
    """
    try:
        opened = _opened(file, Path(file).stat().st_mtime_ns)
        name, _ = _columns(file, opened.schema_arrow)
        ends = np.cumsum([opened.metadata.row_group(group).num_rows for group in range(opened.num_row_groups)])
        group = int(np.searchsorted(ends, row, side="right"))
        first = int(ends[group - 1]) if group else 0
        value = opened.read_row_group(group, columns=[name]).column(0)[row - first].as_py()
        return bytes(_bytes_of(value) or b"")
    except UserError:
        raise
    except Exception as error:  # pyarrow raises unrelated classes
        raise DataError(f"unreadable image {file}: row {row:,}: {one_line(error)}; restore it") from None


@lru_cache(maxsize=OPEN_FILES)
def _opened(file: str, written: int) -> Any:
    """The opened file, cached for each version of it."""
    try:
        from pyarrow import parquet
    except ImportError:
        install = "install pyarrow (pip install 'regvit-lightning[parquet]')"
        raise UserError(f"{file}: Parquet needs pyarrow: {install}, or write the pairs as tar shards") from None
    return parquet.ParquetFile(file, memory_map=True)


def _columns(file: str, schema: Any) -> tuple[str, str]:
    """Names of the columns with the image and the caption."""
    image = next((name for name in IMAGES if name in schema.names and _is_image(schema.field(name).type)), "")
    caption = next((name for name in CAPTIONS if name in schema.names), "")
    if not image or not caption:
        expected = f"a column of encoded images ({', '.join(IMAGES)}) and one of captions ({', '.join(CAPTIONS)})"
        raise DataError(f"{file}: expected {expected}, got {', '.join(schema.names[:12])}")
    return image, caption


def _is_image(kind: Any) -> bool:
    return str(kind) in ("binary", "large_binary") or str(kind).startswith("struct<bytes: binary")


def _present(opened: Any, group: int, name: str, rows: int) -> list[bool]:
    """Whether each row of a group has an image: from the statistics where they say that all do."""
    columns = [opened.metadata.row_group(group).column(number) for number in range(opened.metadata.num_columns)]
    facts = [column.statistics for column in columns if column.path_in_schema in (name, f"{name}.bytes")]
    if facts and facts[0] is not None and facts[0].has_null_count and facts[0].null_count == 0:
        return [True] * rows
    return [bool(_bytes_of(value)) for value in opened.read_row_group(group, columns=[name]).column(0).to_pylist()]


def _bytes_of(value: Any) -> bytes | None:
    return value.get("bytes") if isinstance(value, dict) else value
