"""Notation of values in YAML files and in `key=value` words: parsed as texts, which a type then interprets.

YAML 1.1 guesses types: `no` is False, `010` eight, `1:30` ninety, `2024_01` a number. Here a file is a tree of texts,
and a text becomes a number only where a number is expected, in decimal notation. Where no type is known, the core
schema of YAML 1.2 applies: null, true, false and decimal numbers are parsed, and everything else is a text.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import yaml

Tree = Any  # str | list[Tree] | dict[str, Tree]

WHOLE = re.compile(r"[+-]?[0-9]+")
NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
NULL = ("", "~", "null", "none")
TRUE = ("true", "yes", "on", "y", "1")
FALSE = ("false", "no", "off", "n", "0")


class Quoted(str):
    """A text in quotes, or a block of text: always a text, whatever it looks like."""

    __slots__ = ()


class _Texts(getattr(yaml, "CBaseLoader", yaml.BaseLoader)):  # type: ignore[misc]
    """YAML loader that leaves every scalar a text."""

    def construct_scalar(self, node: yaml.ScalarNode) -> str:
        return Quoted(node.value) if node.style else str(node.value)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[str, Tree]:
        content: dict[str, Tree] = {}
        for key, value in node.value:
            if key.value in content:
                raise ValueError(f"'{key.value}' is given twice")
            content[str(key.value)] = self.construct_object(value, deep=True)
        return content


def parse(text: str) -> Tree:
    """Parse YAML into a tree of texts; None if it is empty.

    Raises:
        ValueError: it is not YAML, or a key is given twice.
    """
    try:
        return yaml.load(text, Loader=_Texts)
    except yaml.MarkedYAMLError as error:
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark and "\n" in text else ""
        raise ValueError(f"{error.problem}{line}") from None
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
    except RecursionError:
        raise ValueError("nested too deeply") from None


def flow(text: str) -> Tree:
    """Parse a word in flow notation, `[1,4]` or `{a: 1}`; any other text, and one that is no YAML, is kept."""
    try:
        return parse(text) if text[:1] in ("[", "{") else text
    except ValueError:
        return text


def is_null(value: Tree) -> bool:
    """Whether the text is the null value of an optional field."""
    return value is None or (isinstance(value, str) and not isinstance(value, Quoted) and value.lower() in NULL)


def whole(text: str) -> int:
    """Parse an integer in decimal digits: `010` is ten.

    Raises:
        ValueError: it is not an integer.
    """
    if not WHOLE.fullmatch(text):
        raise ValueError("expected a whole number")
    return int(text)


def number(text: str) -> float:
    """Parse a finite number in decimal digits: `0.1`, `.5`, `1e-3`.

    Raises:
        ValueError: it is not a finite number.
    """
    if not NUMBER.fullmatch(text) or not math.isfinite(float(text)):
        raise ValueError("expected a number")
    return float(text)


def truth(text: str) -> bool:
    """Parse a boolean: `true`, `yes`, `on`, `y`, `1` or their opposites, in any case.

    Raises:
        ValueError: it is none of them.
    """
    if text.lower() not in (*TRUE, *FALSE):
        raise ValueError("expected true or false")
    return text.lower() in TRUE


def merged(before: Tree, after: Tree) -> Tree:
    """Merge `after` over `before`: mappings key by key; everything else is replaced."""
    if not (isinstance(before, Mapping) and isinstance(after, Mapping)):
        return after
    return {**before, **{key: merged(before.get(key), value) for key, value in after.items()}}


def untyped(value: Tree) -> Any:
    """Convert a tree of texts to values where no types are known."""
    if isinstance(value, list):
        return [untyped(item) for item in value]
    if isinstance(value, Mapping):
        return {key: untyped(item) for key, item in value.items()}
    if isinstance(value, Quoted) or not isinstance(value, str):
        return str(value) if isinstance(value, str) else value
    if value in ("", "~", "null", "Null", "NULL"):
        return None
    if value in ("true", "True", "TRUE", "false", "False", "FALSE"):
        return value.lower() == "true"
    if WHOLE.fullmatch(value):
        return int(value)
    return float(value) if NUMBER.fullmatch(value) else value


def shown(value: Tree) -> str:
    """Format a tree of texts for a message, in YAML's flow notation."""
    if isinstance(value, list):
        return "[" + ", ".join(map(shown, value)) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {shown(item)}" for key, item in value.items()) + "}"
    return "null" if value is None else str(value)
