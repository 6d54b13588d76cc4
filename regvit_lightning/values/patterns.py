"""Patterns of JSON values, to check what a file holds before anything uses it.

A pattern is written like the value that it describes:

    str, int, float, bool, dict    a text, a whole number, any number, true or false, any mapping
    object                         anything
    a compiled regular expression  a text that it matches as a whole
    (None, float)                  any of these
    [float]                        a list of numbers
    [float, float]                 a list of exactly two numbers
    {str: float}                   a mapping of any keys to numbers
    {"top1": float, "note?": str}  a mapping with these keys, those with a `?` if it has them; others are not looked at
"""

import re
from collections.abc import Mapping
from typing import Any

WORDS = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", dict: "a mapping"}
NUMBERS = {int: (int,), float: (int, float)}  # True is neither


def mismatch(value: Any, pattern: Any, where: str = "") -> str:
    """First place where a value does not fit a pattern, `metrics.top1: expected a number`; empty if it fits.

    Args:
        value: as parsed from JSON.
        pattern: see above.
        where: keys that lead to the value, joined by dots.
    """
    if isinstance(pattern, Mapping):
        return _of_mapping(value, pattern, where)
    if isinstance(pattern, list):
        return _of_list(value, pattern, where)
    choices = pattern if isinstance(pattern, tuple) else (pattern,)
    if isinstance(pattern, tuple) and any(isinstance(choice, Mapping | list) for choice in choices):
        return "" if value is None and None in choices else mismatch(value, choices[-1], where)
    if any(_fits(value, choice) for choice in choices):
        return ""
    return f"{where}: expected {' or '.join(map(_words, choices))}"


def _fits(value: Any, pattern: Any) -> bool:
    if isinstance(pattern, re.Pattern):
        return isinstance(value, str) and pattern.fullmatch(value) is not None
    if pattern in NUMBERS:
        return type(value) in NUMBERS[pattern]
    return value is None if pattern is None else isinstance(value, pattern)


def _words(pattern: Any) -> str:
    if isinstance(pattern, re.Pattern):
        return f"a text like {pattern.pattern}"
    return "nothing" if pattern is None else WORDS.get(pattern, "a value")


def _of_list(value: Any, pattern: list[Any], where: str) -> str:
    if not isinstance(value, list) or (len(pattern) > 1 and len(value) != len(pattern)):
        return f"{where}: expected a list{f' of {len(pattern)}' if len(pattern) > 1 else ''}"
    each = pattern if len(pattern) > 1 else pattern * len(value)
    pairs = enumerate(zip(value, each, strict=True))
    return next(filter(None, (mismatch(one, kind, f"{where}[{index}]") for index, (one, kind) in pairs)), "")


def _of_mapping(value: Any, pattern: Mapping[Any, Any], where: str) -> str:
    if not isinstance(value, Mapping):
        return f"{where}: expected a mapping"
    dot = f"{where}." if where else ""
    if str in pattern:
        return next(filter(None, (mismatch(one, pattern[str], f"{dot}{key}") for key, one in value.items())), "")
    for key, kind in pattern.items():
        name = key.removesuffix("?")
        if name not in value and not key.endswith("?"):
            return f"{dot}{name} is missing"
        reason = mismatch(value[name], kind, f"{dot}{name}") if name in value else ""
        if reason:
            return reason
    return ""
