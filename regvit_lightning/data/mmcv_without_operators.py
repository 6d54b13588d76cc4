"""Lets mmsegmentation be imported on top of `mmcv-lite`, which has no compiled operators.

`mmseg.utils` imports `mmcv.ops` for the mask heads, and `mmcv.ops` asks the compiled extension `mmcv._ext` for every
operator at once. Compiling it for each torch and CUDA release is what users of mmsegmentation suffer from most, and
none of the heads and transforms used here calls an operator. Importing this module puts a stand-in in its place: asked
for an operator, it gives a function that says what is missing when it is called. Where mmcv is there with its
operators, nothing is replaced. To be imported before anything of `mmseg`.
"""

import importlib.util
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from regvit_lightning.errors import UserError

NAME = "mmcv._ext"


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


if importlib.util.find_spec(NAME) is None:
    sys.modules[NAME] = _Missing(NAME)

try:
    import cv2  # noqa: F401
except ImportError as error:
    raise UserError(
        f"OpenCV, which mmsegmentation stands on, cannot be loaded ({error}): install the system library that it "
        "names, or replace the package opencv-python by opencv-python-headless"
    ) from None
