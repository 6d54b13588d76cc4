"""Whether a recipe or a task leaves its precision to the hardware, and its settings without asking any hardware."""

from collections.abc import Sequence
from typing import Any

from regvit_lightning import settings

PRECISION_OF_ANY = "32-true"  # stands for `auto` where the hardware is not to be asked: that would take memory of a GPU


def any_precision(group: str, name: str, variant: str = "", words: Sequence[str] = ()) -> bool:
    """Whether a recipe or a task says `precision: auto`, before anything asks the hardware."""
    given = settings.read_words(words).get("precision")
    return (given or settings.merged(group, name, variant).get("precision")) == "auto"


def module_and_settings(group: str, name: str, variant: str = "", words: Sequence[str] = ()) -> tuple[Any, Any, bool]:
    """Module and settings of a recipe or a task without asking the hardware, and whether any precision is right."""
    free = any_precision(group, name, variant, words)
    if free:
        words = [word for word in words if not word.startswith("precision=")] + [f"precision={PRECISION_OF_ANY}"]
    return *settings.load_settings(group, name, variant, words), free
