"""Settings of a recipe or a task resolved without querying the hardware, and whether they leave precision to it."""

from collections.abc import Sequence
from typing import Any

from regvit_lightning import settings

PRECISION_OF_ANY = "32-true"  # used for `auto` where the GPU must not be queried: that would allocate memory on it


def any_precision(group: str, name: str, variant: str = "", words: Sequence[str] = ()) -> bool:
    """Whether a recipe or a task sets `precision: auto`, read without querying the hardware."""
    given = settings.read_words(words).get("precision")
    return (given or settings.merged(group, name, variant).get("precision")) == "auto"


def module_and_settings(group: str, name: str, variant: str = "", words: Sequence[str] = ()) -> tuple[Any, Any, bool]:
    """Module and settings of a recipe or a task without querying the hardware, and whether any precision is valid."""
    free = any_precision(group, name, variant, words)
    if free:
        words = [word for word in words if not word.startswith("precision=")] + [f"precision={PRECISION_OF_ANY}"]
    return *settings.load_settings(group, name, variant, words), free
