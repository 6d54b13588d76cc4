"""The page's templates, in which jinja2 escapes every text that is not markup of the page itself."""

import base64
import hashlib
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from benchmarks.report.overview import heading

if TYPE_CHECKING:
    from jinja2 import Environment

PARTS = Path(__file__).parent  # templates, style and script


def environment() -> "Environment":
    """Templates of this folder; a name that a template does not get is an error.

    Filters: `tojson` for data in a script, which no text in it can end; `finite` makes null of what JSON lacks;
    `heading` of a column.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(PARTS, encoding="utf-8")
    made = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    made.filters |= {"finite": finite, "heading": heading}
    return made


def render(**values: Any) -> str:
    """The page; its security policy allows no other script and no other style than its own."""
    script, style = (Markup((PARTS / name).read_text(encoding="utf-8")) for name in ("page.js", "page.css"))
    hashes = {"script_hash": _digest(script), "style_hash": _digest(style)}
    return environment().get_template("page.html").render(script=script, style=style, **hashes, **values)


def _digest(text: str) -> str:
    """As a content security policy names a script or a style."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def finite(value: Any) -> Any:
    """Data for JSON, in which what is not finite is None."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
