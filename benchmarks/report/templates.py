"""Templates of the page, in which jinja2 escapes all text that is not the page's own markup."""

import base64
import hashlib
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from benchmarks.report.overview import heading

if TYPE_CHECKING:
    from jinja2 import Environment

PARTS = Path(__file__).parent  # templates, style sheet and script


def environment() -> "Environment":
    """Environment of the templates in this folder; undefined names are an error.

    Filters: `tojson` for data in a script, escaped so that no text can end the script; `finite` turns non-finite
    numbers into null; `heading` of a column.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(PARTS, encoding="utf-8")
    made = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    made.filters |= {"finite": finite, "heading": heading}
    return made


def render(**values: Any) -> str:
    """Render the page; its security policy allows only its own script and style."""
    script, style = (Markup((PARTS / name).read_text(encoding="utf-8")) for name in ("page.js", "page.css"))
    hashes = {"script_hash": _digest(script), "style_hash": _digest(style)}
    return environment().get_template("page.html").render(script=script, style=style, **hashes, **values)


def _digest(text: str) -> str:
    """Hash of a script or style for a content security policy."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def finite(value: Any) -> Any:
    """Replace non-finite numbers in data for JSON by None."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
