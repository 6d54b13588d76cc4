"""Notation: YAML whose texts stay texts."""

import json
import re

import pytest
import yaml
from hypothesis import assume, example, given
from hypothesis import strategies as st

from regvit_lightning.values import notation

# What a YAML 1.1 reader makes of a text, and what the text is.
LOOKS = [
    "no",
    "on",
    "Yes",
    "010",
    "0o10",
    "0x1F",
    "1:30",
    "2024_01",
    "1_000",
    "2024-01-02",
    "=",
    "a: b".replace(" ", ""),
]


@pytest.mark.parametrize("text", LOOKS)
def test_a_text_stays_a_text_whatever_yaml_1_1_takes_it_for(text):
    assert notation.parse(f"key: {text}") == {"key": text}
    assert notation.parse(f"[{text}]") == [text]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("null", None),
        ("~", None),
        ("", None),
        ("true", True),
        ("FALSE", False),
        ("no", "no"),
        ("tRue", "tRue"),
        ("12", 12),
        ("-3", -3),
        ("010", 10),
        ("0x1F", "0x1F"),
        ("1e-3", 0.001),
        ("1.", 1.0),
        (".5", 0.5),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("'12'", "12"),
        ('"null"', "null"),
        ("[1, '1', a b, {k: no}]", [1, "1", "a b", {"k": "no"}]),
    ],
)
def test_without_a_type_the_core_schema_of_yaml_1_2_decides(text, value):
    found = notation.untyped(notation.parse(f"key: {text}"))["key"]
    assert (found, type(found)) == (value, type(value))


# What YAML lets stand in a file as it is.
texts = st.text(st.characters(exclude_categories=["Cs", "Cc", "Cn", "Co", "Zl", "Zp"], exclude_characters="\ufeff"))


@given(texts)
def test_a_text_in_quotes_is_that_text(text):
    assert notation.untyped(notation.parse(json.dumps({"key": text}, ensure_ascii=False))) == {"key": text}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(texts, json_values, max_size=3))
def test_json_is_yaml(value):
    assert notation.untyped(notation.parse(json.dumps(value, ensure_ascii=False))) == value


@given(json_values)
@example("no")
@example({"1:30": ["010", 1e-3, 1e22]})
def test_an_independent_writer_is_read(value):
    # YAML 1.1, which PyYAML writes, leaves a text such as 0E0 without quotes: no number there, but one in YAML 1.2.
    assume(not re.search(r"[0-9][eE][0-9]", str(value)))
    assert notation.untyped(notation.parse(yaml.safe_dump({"key": value}, allow_unicode=True))) == {"key": value}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2", "'a' is given twice"),
        ("a: {b: 1, b: 2}", "'b' is given twice"),
        ("a: [1\n", "in line"),
        ("\0", "control characters"),
    ],
)
def test_what_is_no_yaml(text, message):
    with pytest.raises(ValueError, match=message) as error:
        notation.parse(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["1.5", "1e3", "0x10", "0o7", "1_0", "1:30", "", "٣", "many", "--1", "1 "])
def test_what_is_no_whole_number(text):
    with pytest.raises(ValueError, match="expected a whole number"):
        notation.whole(text)


@pytest.mark.parametrize("text", ["nan", "inf", ".inf", "1e999", "1_0.5", "0x1p3", "1:30", "", "e5", ".", "1e", "many"])
def test_what_is_no_number(text):
    with pytest.raises(ValueError, match="expected a number"):
        notation.number(text)


@given(st.floats(allow_nan=False, allow_infinity=False), st.integers())
def test_numbers_as_python_writes_them(number, whole):
    assert notation.number(repr(number)) == number
    assert notation.number(f"{number:.17e}") == number
    assert notation.whole(str(whole)) == whole
    assert notation.whole(f"{whole:+05d}") == whole


def test_truth():
    assert [notation.truth(text) for text in ("true", "Yes", "ON", "y", "1")] == [True] * 5
    assert [notation.truth(text) for text in ("False", "no", "off", "N", "0")] == [False] * 5
    for text in ("2", "", "maybe", "null"):
        with pytest.raises(ValueError, match="expected true or false"):
            notation.truth(text)
