"""Command lines for messages to the user: with `make` in a checkout, else with `regvit`."""

from collections.abc import Mapping
from pathlib import Path

MAKEFILE = Path(__file__).resolve().parents[1] / "Makefile"


def invocation(word: str, variables: Mapping[str, object], further: str = "") -> str:
    """The command line that starts a program.

    Args:
        word: name of the program, after `make` or `regvit`.
        variables: make variables by name; the program's keys are the same in lower case.
        further: settings of a recipe or a task as `key=value` words, quoted for a shell.

    Returns:
        `make eval TASK=imagenet_knn ARGS="workers=0"` in a checkout, which has a Makefile, and
        `regvit eval task=imagenet_knn workers=0` where the package is installed.
    """
    if MAKEFILE.is_file():
        words = [f"{name}={value}" for name, value in variables.items()] + ([f'ARGS="{further}"'] if further else [])
        return " ".join(["make", word, *words])
    keys = {name: name if name == "DATA_ROOT" else name.lower() for name in variables}
    words = [f"{keys[name]}={value}" for name, value in variables.items()] + ([further] if further else [])
    return " ".join(["regvit", word, *words])
