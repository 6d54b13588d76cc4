"""A dataclass as a schema: types, nesting, defaults."""

from dataclasses import asdict, dataclass, field
from typing import Any

import pytest
from omegaconf import MISSING, DictConfig, OmegaConf

from regvit_lightning.values import durations, notation, schema


@dataclass
class Inner:
    images: int = 10
    share: float = 0.5
    names: list[str] = field(default_factory=list)


@dataclass
class Item:
    name: str = MISSING
    size: int = 1


@dataclass
class Outer:
    text: str = ""
    whole: int = 0
    number: float = 1.0
    flag: bool = False
    maybe: float | None = None
    hours: float = field(default=24.0, metadata={"reader": durations.hours})
    rates: list[float] = field(default_factory=list)
    inner: Inner = field(default_factory=lambda: Inner(images=20))
    other: Inner | None = None
    items: list[Item] = field(default_factory=list)
    named: dict[str, Item] = field(default_factory=dict)
    counts: dict[str, list[int]] = field(default_factory=dict)
    free: dict[str, Any] = field(default_factory=dict)


def made(yaml: str) -> Outer:
    return schema.instance(given(yaml))


def given(*yamls: str) -> DictConfig:
    config = OmegaConf.structured(Outer)
    for yaml in yamls:
        for key, value in schema.typed(notation.parse(yaml), Outer).items():
            schema.update(config, Outer, [key], value)
    return config


@pytest.mark.parametrize(
    ("yaml", "expected"),
    [
        ("text: 010", {"text": "010"}),
        ("text: no", {"text": "no"}),
        ("text: null", {"text": "null"}),
        ("text:", {"text": ""}),
        ("text: '  a # b '", {"text": "  a # b "}),
        ("whole: 010", {"whole": 10}),
        ("whole: '12'", {"whole": 12}),
        ("number: 3", {"number": 3.0}),
        ("number: 1e-3", {"number": 0.001}),
        ("flag: yes", {"flag": True}),
        ("maybe: null", {"maybe": None}),
        ("maybe: 2", {"maybe": 2.0}),
        ("hours: 1:30", {"hours": 1.5}),
        ("rates: [1, 1e-3]", {"rates": [1.0, 0.001]}),
        ("rates: []", {"rates": []}),
        ("inner: {share: 1}", {"inner": {"images": 20, "share": 1.0, "names": []}}),
        ("inner: {names: [no, 010, a b]}", {"inner": {"images": 20, "share": 0.5, "names": ["no", "010", "a b"]}}),
        ("other: {images: 3}", {"other": {"images": 3, "share": 0.5, "names": []}}),
        ("other: null", {"other": None}),
        ("items: [{name: on}]", {"items": [{"name": "on", "size": 1}]}),
        ("named: {a: {name: b, size: 2}}", {"named": {"a": {"name": "b", "size": 2}}}),
        ("counts: {a: [1, 2]}", {"counts": {"a": [1, 2]}}),
        ("free: {a: 1, b: no, c: {d: 1e-3}}", {"free": {"a": 1, "b": "no", "c": {"d": 0.001}}}),
    ],
)
def test_every_type(yaml, expected):
    found = asdict(made(yaml))
    defaults = asdict(Outer())
    assert found == {**defaults, **expected}
    for key, value in expected.items():
        assert type(found[key]) is type(value)
    assert [type(rate) for rate in found["rates"]] == [float] * len(found["rates"])


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("whole: 1.5", "whole: expected a whole number"),
        ("number: many", "number: expected a number"),
        ("number: [1]", "number: expected a number"),
        ("text: [a]", "text: expected a text"),
        ("rates: 3", "rates: expected a list"),
        ("rates: [1, x]", "rates: expected a number"),
        ("inner: 3", "inner: expected a mapping"),
        ("inner: {share: x}", "inner: share: expected a number"),
        ("maybe: x", "maybe: expected a number"),
        ("free: [1]", "free: expected a mapping"),
        ("hours: long", "hours: expected hours such as"),
    ],
)
def test_wrong_types(yaml, message):
    with pytest.raises(ValueError, match=message):
        made(yaml)


def test_unknown_keys_are_named_with_what_they_are_nested_in():
    with pytest.raises(schema.UnknownKey) as error:
        made("inner: {image: 1}")
    assert (error.value.key, error.value.known) == ("inner.image", ["inner.images", "inner.share", "inner.names"])
    with pytest.raises(schema.UnknownKey) as error:
        schema.kind_of(Outer, ["whole", "more"])
    assert (error.value.key, error.value.known) == ("whole.more", ["whole"])


def test_what_is_not_set_is_named_with_what_it_is_nested_in():
    with pytest.raises(schema.NotSet, match=r"^items\[0\]\.name$"):
        made("items: [{size: 1}]")
    with pytest.raises(schema.NotSet, match=r"^named\.a\.name$"):
        made("named: {a: {}}")


def test_a_dataclass_is_merged_and_all_else_replaced():
    first = "inner: {share: 0.1, names: [a]}\ncounts: {a: [1]}\nnamed: {x: {name: a, size: 3}}"
    second = "inner: {names: [b]}\ncounts: {b: [2]}\nnamed: {x: {name: b}}"
    expected = Outer(inner=Inner(20, 0.1, ["b"]), counts={"b": [2]}, named={"x": Item("b", 3)})
    assert schema.instance(given(first, second)) == expected


def test_a_text_that_looks_like_an_interpolation_stays_as_it_is():
    assert made("{text: '${oc.env:HOME} $x', free: {a: ['${b}']}}").text == "${oc.env:HOME} $x"
    assert made("{free: {a: ['${b}']}}").free == {"a": ["${b}"]}


@dataclass
class Defaults:
    named: dict[str, Item] = field(default_factory=lambda: {"a": Item("a", 5), "b": Item("b", 6)})


def test_what_stands_by_name_is_merged_into_the_defaults():
    value = {"a": {"name": "x"}, "c": {"name": "c"}}
    config = OmegaConf.structured(Defaults)
    schema.update(config, Defaults, ["named"], value)
    expected = {"a": Item("x", 5), "b": Item("b", 6), "c": Item("c", 1)}
    assert schema.instance(config).named == expected


@pytest.mark.parametrize(
    ("value", "kind", "expected"), [(3, float, 3.0), (3, int, 3), (True, bool, True), (None, int | None, None)]
)
def test_values_of_python_are_checked(value, kind, expected):
    found = schema.typed(value, kind)
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize(("value", "kind"), [(3.0, int), (True, int), (3, str), (None, float), ("[1]", list[int])])
def test_values_of_python_of_another_type(value, kind):
    with pytest.raises(ValueError, match="expected a"):
        schema.typed(value, kind)


def test_a_path_leads_into_what_is_nested():
    assert schema.kind_of(Outer, ["inner", "share"]) is float
    assert schema.kind_of(Outer, ["other", "images"]) is int
    assert schema.kind_of(Outer, ["named", "x", "size"]) is int
    assert schema.kind_of(Outer, ["free", "norm", "type"]) is Any
    config = given()
    schema.update(config, Outer, ["inner", "share"], 0.1)
    assert schema.instance(config) == Outer(inner=Inner(20, 0.1))
    schema.update(config, Outer, ["free", "norm", "type"], "BN")
    assert schema.instance(config) == Outer(inner=Inner(20, 0.1), free={"norm": {"type": "BN"}})


@pytest.mark.parametrize(
    ("word", "kind", "tree"),
    [
        ("[a", str, "[a"),
        ("{a: 1}", str, "{a: 1}"),
        ("[1, a #b]", list[str], None),
        ("[1,4]", list[int], ["1", "4"]),
        ("{a: 1}", dict[str, Any], {"a": "1"}),
        ("{images: 3}", Inner | None, {"images": "3"}),
        ("null", float | None, "null"),
        ("a: b", dict[str, Any], "a: b"),
    ],
)
def test_only_a_list_or_a_mapping_is_read_as_yaml(word, kind, tree):
    if tree is None:
        with pytest.raises(ValueError, match="not readable"):
            schema.read_word(word, kind)
    else:
        assert schema.read_word(word, kind) == tree
