"""JSON written by this suite, read with care: anything else is refused in one line, whoever made it."""

import json
import re
from typing import Any, NoReturn

LARGEST = 1e15  # bound of numbers shown with all digits
DEEPEST = 32  # nested lists and mappings
# Newlines and other signs that no name, date or sentence of this suite contains: they would begin lines of their own in
# Markdown and LaTeX. U+0085, U+2028 and U+2029 end a line; the directional ones reorder what is shown; a lone surrogate
# cannot be written.
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def parse(content: bytes) -> Any:
    """Parse JSON in UTF-8 whose numbers are finite and whose texts fit on a line.

    Raises:
        ValueError: with a reason in one line, for everything else.
    """
    try:
        tree = json.loads(content.decode(), parse_constant=_not_finite)
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is not UTF-8") from None
    except RecursionError:
        raise ValueError(f"nested deeper than {DEEPEST}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"no JSON: {error.msg}, line {error.lineno}") from None
    check(tree)
    return tree


def cleaned(tree: Any) -> Any:
    """A copy of a tree of JSON values, with a space for every sign that `parse` refuses in texts."""
    if isinstance(tree, dict):
        return {cleaned(key): cleaned(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [cleaned(value) for value in tree]
    return CONTROL.sub(" ", tree) if isinstance(tree, str) else tree


def check(tree: Any, depth: int = 0) -> None:
    """Check the numbers, texts and depth of a tree of JSON values.

    Raises:
        ValueError: see `parse`.
    """
    if depth > DEEPEST:
        raise ValueError(f"nested deeper than {DEEPEST}")
    if isinstance(tree, dict):
        for key, value in tree.items():
            check(key, depth)
            check(value, depth + 1)
    elif isinstance(tree, list):
        for value in tree:
            check(value, depth + 1)
    elif isinstance(tree, str) and CONTROL.search(tree):
        raise ValueError("a text holds a newline or another control character")
    elif isinstance(tree, int | float) and not abs(tree) < LARGEST:
        raise ValueError(f"a number is not finite or not below {LARGEST:g}")


def _not_finite(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number")
