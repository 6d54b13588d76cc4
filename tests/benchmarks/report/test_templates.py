"""What jinja2 makes of the page's templates: every text comes back as it was, and none becomes markup."""

import json
import math

from hypothesis import given
from hypothesis import strategies as st

from benchmarks.report import templates
from tests.benchmarks.report.pages_by_hand import Read


def rendered(template, **values):
    """A piece of a template under the rules of the page's own."""
    return templates.environment().from_string(template).render(**values)


@given(st.text(), st.text())
def test_texts_and_attributes_come_back_as_they_were(text, attribute):
    text, attribute = (one.replace("\r", "").replace("\0", "") for one in (text, attribute))  # HTML has none of them
    shown = '<p data-word="{{ attribute }}" hidden>{{ text }}<b>x</b></p>'
    read = Read(rendered(shown, text=f".{text}", attribute=attribute))
    assert read.tags == [("p", {"data-word": attribute, "hidden": None}), ("b", {})]
    assert "".join(read.texts) == f".{text}x"


PLAIN = st.none() | st.booleans() | st.integers() | st.text()
IN_SCRIPT = '<script type="application/json" id="cells">{{ value | finite | tojson }}</script>'


@given(st.recursive(PLAIN, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_data_in_a_script_comes_back_and_cannot_end_it(value):
    assert IN_SCRIPT.replace("value", "facts") in (templates.PARTS / "page.html").read_text(encoding="utf-8")
    text = rendered(IN_SCRIPT, value=value)
    assert not set("<>&\u2028\u2029") & set(text.removeprefix('<script type="application/json" id="cells">')[:-9])
    ((attributes, content),) = Read(text).scripts
    assert attributes == {"type": "application/json", "id": "cells"}
    assert json.loads(content) == value


def test_what_json_has_not_becomes_null():
    content = Read(rendered(IN_SCRIPT, value=[math.nan, {"a": math.inf}, (1.5,)])).scripts[0][1]
    assert json.loads(content) == [None, {"a": None}, [1.5]]
