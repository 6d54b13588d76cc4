"""Ranges of numbers, and that every numeric setting of the suite has one."""

import dataclasses
import importlib
import math
import re
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regvit_lightning import settings
from regvit_lightning.settings import SettingsError
from regvit_lightning.values.ranges import Range

ROOT = Path(__file__).resolve().parents[2]
FILLED = (
    "Child",
    "Followed",
    "Forked",
    "Peak",
    "Store",
    "_Walk",
)  # filled while a process works, no settings


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("[1, 1e6]", [1, 10**6, 2.5], [0, 10**6 + 1, -1]),
        ("(0, 1)", [1e-300, 0.5, math.nextafter(1, 0)], [0, 1, -0.0]),
        ("(0, 1]", [1, 5e-324], [0, math.nextafter(1, 2)]),
        ("[-1, 1)", [-1, 0], [1, -1.0000001]),
    ],
)
def test_an_interval_holds_its_ends_as_written(text, inside, outside):
    assert all(map(Range(text).holds, inside))
    assert not any(map(Range(text).holds, outside))


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_nothing_that_is_not_finite_lies_in_a_range(number):
    assert Range("[-1e308, 1e308]").holds(number) == (math.isfinite(number) and abs(number) <= 1e308)


@pytest.mark.parametrize("text", ["[1, inf]", "(nan, 1]", "[2, 1]", "[1, 1]", "1..2", "[1,2]", "", "[a, b]"])
def test_a_range_is_a_finite_interval(text):
    with pytest.raises(ValueError, match=r"interval|could not convert"):
        Range(text)


# ---------------------------------------------------------------------------------------------------- all settings


def _modules():
    """Modules that define a dataclass that can be changed; importing all others would load much for nothing."""
    for path in sorted([*ROOT.glob("regvit_lightning/**/*.py"), *ROOT.glob("benchmarks/**/*.py")]):
        if re.search(r"^@(dataclasses\.)?dataclass\n", path.read_text(encoding="utf-8"), re.MULTILINE):
            yield importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))


def settings_classes() -> list[type]:
    """All dataclasses that can be changed; those that hold results are frozen, but for `FILLED`."""
    classes: dict[str, type] = {}
    for module in _modules():
        own = [value for value in vars(module).values() if getattr(value, "__module__", "") == module.__name__]
        changeable = [kind for kind in own if hasattr(kind, "__dataclass_params__") and not _is_frozen(kind)]
        classes.update(
            {f"{kind.__module__}.{kind.__name__}": kind for kind in changeable if kind.__name__ not in FILLED}
        )
    return [classes[name] for name in sorted(classes)]


def _is_frozen(kind: Any) -> bool:
    return bool(kind.__dataclass_params__.frozen)


def numeric_fields(kind: type) -> list[tuple[dataclasses.Field, Any]]:
    hints = get_type_hints(kind)
    return [
        (field, hints[field.name]) for field in dataclasses.fields(kind) if {int, float} & _leaves(hints[field.name])
    ]


def _leaves(kind: Any) -> set[Any]:
    """Types of the values that a type is made of: int of `dict[str, list[int]]`."""
    inner = get_args(kind)
    return set().union(*map(_leaves, inner)) - {NoneType} if inner else {kind}


def every_number():
    for kind in settings_classes():
        for field, hint in numeric_fields(kind):
            yield pytest.param(kind, field, hint, id=f"{kind.__name__}.{field.name}")


def test_the_walk_meets_the_settings_of_everything():
    names = {kind.__name__ for kind in settings_classes()}
    programs = {"Pretrain", "Evaluate", "Grid", "Plan", "Status", "CostOf", "ReportOptions", "Bench", "Data"}
    library = {"DINOv2Settings", "DeiT3Settings", "OpenClipSettings", "LostSettings", "DepthSettings", "Rules"}
    assert names >= programs | library | {"TokenSettings", "Architecture", "DataSettings", "GridFile", "File"}
    assert len(list(every_number())) > 150


@pytest.mark.parametrize(("kind", "field", "hint"), every_number())
def test_every_number_has_a_range_and_is_refused_outside_of_it(kind, field, hint):
    within = field.metadata.get("range")
    assert within is not None, f"{kind.__name__}.{field.name} has no range"
    default = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
    if default not in (settings.MISSING, dataclasses.MISSING):
        within.check(default)
    least, most = within.ends
    whole = float not in _leaves(hint)
    below, above = (math.floor(least) - 1, math.ceil(most) + 1) if whole else (least - 1, most + 1)
    for value in (str(below), str(above), "nan", "inf", "-inf", "1e999", "-1e999"):
        with pytest.raises(SettingsError) as error:
            settings.build(kind, words=[f"{field.name}={_word(hint, value)}"])
        assert "\n" not in str(error.value)
        assert str(error.value).startswith(field.name), value
        assert value in str(error.value)
        assert within.text in str(error.value)
    for value in (math.nan, math.inf, -math.inf) if not whole else (10**30, -(10**30)):
        with pytest.raises(SettingsError, match=re.escape(within.text)):
            settings.from_resolved(kind, {field.name: _value(hint, value)})


def _word(hint: Any, number: str) -> str:
    """A word for a field whose numbers are all `number`."""
    text = str(hint)
    return f"{{a: [{number}]}}" if text.startswith("dict") else f"[{number}]" if text.startswith("list") else number


def _value(hint: Any, number: float) -> Any:
    text = str(hint)
    return {"a": [number]} if text.startswith("dict") else [number] if text.startswith("list") else number
