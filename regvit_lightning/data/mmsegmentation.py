"""Prepares mmsegmentation for use: call `prepare()` before the first import of anything from `mmseg`.

`mmseg.utils` imports `mmcv.ops` for the mask heads, and `mmcv.ops` loads every operator from the compiled extension
`mmcv._ext` at once. Compiling it for each torch and CUDA release is the most common problem of mmsegmentation users,
and none of the heads and transforms used here calls an operator: `mmcv-lite`, which has none, is enough.
"""

import importlib.util
import sys
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any

from regvit_lightning.errors import UserError

OPERATORS = "mmcv._ext"


@cache
def prepare() -> None:
    """Configure mmsegmentation and its dependencies in this process; a second call does nothing.

    - Without mmcv's compiled operators, `sys.modules` gets a stub for them: each operator is a function that raises an
      error naming what is missing when called. Compiled operators, if present, are not replaced.
    - OpenCV uses no threads of its own, because decoding is parallelised over processes.
    - mmengine logs warnings only; otherwise it would print every weight that a head initialises.

    Raises:
        UserError: OpenCV cannot be loaded.
    """
    try:
        import cv2
    except ImportError as error:
        raise UserError(
            f"OpenCV, which mmsegmentation stands on, cannot be loaded ({error}): install the system library that it "
            "names, or replace the package opencv-python by opencv-python-headless"
        ) from None
    from mmengine.logging import MMLogger

    if OPERATORS not in sys.modules and importlib.util.find_spec(OPERATORS) is None:
        sys.modules[OPERATORS] = _Missing(OPERATORS)
    cv2.setNumThreads(0)
    MMLogger.get_instance("mmengine", log_level="WARNING")


class _Missing(ModuleType):
    def __getattr__(self, operator: str) -> Callable[..., Any]:
        if operator.startswith("__"):
            raise AttributeError(operator)

        def refuse(*_: Any, **__: Any) -> Any:
            raise UserError(
                f"mmcv's compiled operator '{operator}' is needed and mmcv-lite has none: choose a decode head without "
                "it, or install mmcv with its operators instead of mmcv-lite"
            )

        return refuse
