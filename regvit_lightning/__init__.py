"""RegViT-Lightning: is this backbone better, where, and do I believe it?

A suite around "Vision Transformers Need Registers" (Darcet et al., arXiv 2309.16588): pretraining of vision
transformers with registers, frozen evaluations, and result records that can be compared. The names of `__all__` are
imported when they are first used, so that importing the package loads neither torch nor anything else that is large.
"""

import importlib
from typing import TYPE_CHECKING, Any

from regvit_lightning.version import __version__

if TYPE_CHECKING:
    from regvit_lightning.analysis.summary import artifacts
    from regvit_lightning.analysis.text_sinks import text_sinks
    from regvit_lightning.evaluation import evaluate
    from regvit_lightning.looking import look
    from regvit_lightning.models.sources import load_backbone

__all__ = ["__version__", "artifacts", "evaluate", "load_backbone", "look", "text_sinks"]

_MODULES = {  # public name: the module that defines it
    "artifacts": "regvit_lightning.analysis.summary",
    "evaluate": "regvit_lightning.evaluation",
    "load_backbone": "regvit_lightning.models.sources",
    "look": "regvit_lightning.looking",
    "text_sinks": "regvit_lightning.analysis.text_sinks",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
