"""HTML and SVG from Python, in which every text is escaped unless it is markup already."""

import html
import json
import math
from collections.abc import Iterable
from typing import Any


class Html(str):
    """Text that is markup already."""


def tag(name: str, *children: "Child", **attributes: Any) -> Html:
    """`<name attributes>children</name>`.

    Args:
        children: texts, which are escaped, markup, or lists of both; None is left out.
        attributes: `class_` is class, and other underscores are hyphens; None and False leave one out, True writes its
            name alone.
    """
    written = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in ("input", "img", "meta", "br"):
        return Html(f"<{name}{written}>")
    return Html(f"<{name}{written}>{join(children)}</{name}>")


Child = str | None | Iterable[Any]


def join(children: Iterable[Child]) -> Html:
    """Children one after another."""
    return Html("".join(_written(child) for child in children))


def _written(child: Child) -> str:
    if child is None:
        return ""
    if isinstance(child, str):
        return child if isinstance(child, Html) else html.escape(child)
    return join(child)


def _attribute(key: str, value: Any) -> str:
    key = key.rstrip("_").replace("_", "-")
    if value is None or value is False:
        return ""
    if value is True:
        return f" {key}"
    if isinstance(value, float):
        value = f"{value:.2f}".rstrip("0").rstrip(".")
    return f' {key}="{html.escape(str(value))}"'


def script_data(identifier: str, value: Any) -> Html:
    """A `<script type="application/json">`: no text in it can end the script or begin a comment; NaN becomes null."""
    text = json.dumps(_finite(value), separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return tag("script", Html(text), type="application/json", id=identifier)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(kept) for key, kept in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(kept) for kept in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
