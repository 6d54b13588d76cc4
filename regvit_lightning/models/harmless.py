"""Harmless objects that training programs save beside their weights: options, paths and numbers of numpy.

`torch.load(weights_only=True)` refuses every class that is not listed. Those here hold plain values: reading them calls
nothing that a file could choose.
"""

import argparse
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

KINDS = "biufc"  # kinds of numpy dtypes that hold one number


def number(dtype: Any, content: bytes = b"") -> Any:
    """A scalar of numpy, restricted to numbers: those of other dtypes could refer to further objects.

    Args:
        dtype: dtype as numpy pickles it.
        content: bytes of the value.

    Raises:
        ValueError: not a number.
    """
    if not isinstance(dtype, np.dtype) or dtype.kind not in KINDS or not isinstance(content, bytes):
        raise ValueError("a numpy scalar that is not a number")
    return np.frombuffer(content, dtype, 1)[0]


def _paths() -> list[tuple[Callable[..., Any], str]]:
    # The module of these classes has had two names; a path of the other system becomes a pure one.
    classes = {"PosixPath": pathlib.PurePosixPath, "WindowsPath": pathlib.PureWindowsPath}
    classes |= {"PurePosixPath": pathlib.PurePosixPath, "PureWindowsPath": pathlib.PureWindowsPath}
    return [(kind, f"{module}.{name}") for module in ("pathlib", "pathlib._local") for name, kind in classes.items()]


CLASSES: list[Any] = [
    argparse.Namespace,
    *_paths(),
    *((number, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    np.dtype,
    *{type(np.dtype(code)) for code in np.typecodes["All"] if np.dtype(code).kind in KINDS},
]
