"""A dataclass as a schema: trees of texts become values by the types of its fields, nested dataclasses included."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from regvit_lightning.values import notation
from regvit_lightning.values.notation import Tree

MISSING: Any = "???"  # default of a field that must be given

UNIONS = (Union, UnionType)
READERS: dict[Any, Callable[[str], Any]] = {str: str, int: notation.whole, float: notation.number, bool: notation.truth}
EXPECTED = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list such as [1,4]",
    dict: "a mapping such as {key: value}",
}


class UnknownKey(Exception):
    """A key that is no field.

    Args:
        key: with the keys that it is nested in, `probes.images`.
        known: what could stand in its place, written so, too.
    """

    def __init__(self, key: str, known: Sequence[str]) -> None:
        super().__init__(key)
        self.key, self.known = key, known


class NotSet(Exception):
    """Fields without a value and without a default; `keys` are their names."""

    def __init__(self, keys: Sequence[str]) -> None:
        super().__init__(", ".join(keys))
        self.keys = keys


@cache
def kinds(schema: Any) -> dict[str, Any]:
    """Type of every field of a dataclass."""
    hints = get_type_hints(schema, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(schema)}


def kind_of(kind: Any, path: Sequence[str], above: str = "") -> Any:
    """Type of the field at `path` below a dataclass or a dict: `["probes", "images"]`.

    Raises:
        UnknownKey: there is no such field.
    """
    if not path:
        return kind
    key, kind = above + path[0], _not_none(kind)
    if _has_fields(kind):
        if path[0] not in kinds(kind):
            raise UnknownKey(key, [above + name for name in kinds(kind)])
        return kind_of(kinds(kind)[path[0]], path[1:], f"{key}.")
    if get_origin(kind) is dict:
        return kind_of(get_args(kind)[1], path[1:], f"{key}.")
    if kind is Any:
        return Any
    raise UnknownKey(key, [above[:-1]])


def read_word(text: str, kind: Any) -> Tree:
    """The value of a `key=value` word for a field of type `kind`: the text as it stands, or for a list or a mapping
    what it is in YAML's flow notation (`[1,4]`, `{type: FCNHead}`).

    Raises:
        ValueError: the list or the mapping is not YAML.
    """
    kind = _not_none(kind)
    structured = kind is Any or get_origin(kind) in (list, dict) or _has_fields(kind)
    if not structured or text[:1] not in ("[", "{"):
        return text
    try:
        return notation.parse(text)
    except ValueError as error:
        raise ValueError(f"not readable as a value of YAML: {error}") from None


def typed(value: Tree, kind: Any, above: str = "") -> Any:
    """A tree of texts as a value of the type `kind`; of a dataclass as a dict of those fields that are given.

    Args:
        value: from a file or from `read_word`; what is no text, such as a number from Python, is only checked.
        kind: str, int, float, bool, Any, list[…], dict[str, …], a dataclass, one of these or None, or `Annotated` with
            a function that reads a text.
        above: the keys that it is nested in, `probes.`, for errors.

    Raises:
        ValueError: it is none; says what is expected.
        UnknownKey: a dataclass has no such field.
    """
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return notation.untyped(value)
    if origin in UNIONS:
        return None if notation.is_null(value) else typed(value, _not_none(kind), above)
    if origin is Annotated:
        return inner[1](value) if isinstance(value, str) else typed(value, inner[0], above)
    if isinstance(value, Mapping) and (origin is dict or _has_fields(kind)):
        return {name: _typed_part(item, kind, name, above) for name, item in value.items()}
    if origin is list and isinstance(value, list):
        return [typed(item, inner[0], above) for item in value]
    if isinstance(value, str) and kind in READERS:
        return READERS[kind](value)
    if type(value) is kind:
        return value
    if kind is float and type(value) is int:
        return float(value)
    raise ValueError(f"expected {EXPECTED.get(origin or kind, EXPECTED[dict])}")


def _typed_part(value: Tree, kind: Any, name: str, above: str) -> Any:
    part = kind_of(kind, [name], above)
    try:
        return typed(value, part, f"{above}{name}.")
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def assigned(kind: Any, current: Any, path: Sequence[str], value: Any) -> Any:
    """A typed value of type `kind` (None for none yet) with another at `path`.

    A dataclass is merged into one that is there, and so are several by name; everything else is replaced.
    """
    if path:
        before = current or {}
        inner = assigned(kind_of(kind, path[:1]), before.get(path[0]), path[1:], value)
        return {**before, path[0]: inner}
    if not _has_parts(kind) or current is None or value is None:
        return value
    for name, item in value.items():
        current = assigned(kind, current, [name], item)
    return current


def instance(kind: Any, value: Any, default: Any = None, above: str = "") -> Any:
    """The object of type `kind` that a typed value stands for.

    Args:
        value: from `typed` or `assigned`.
        default: gives what `value` leaves out of a dataclass, or of several by name, in place of their own defaults.
        above: as of `typed`.

    Raises:
        NotSet: a field of a dataclass has neither a value nor a default.
    """
    origin, inner = get_origin(kind), get_args(kind)
    if origin in UNIONS and value is not None:
        return instance(_not_none(kind), value, default, above)
    if origin is list:
        return [instance(inner[0], item, None, above) for item in value]
    if origin is dict:
        before = default if default is not None and _has_parts(kind) else {}
        made = {name: instance(inner[1], item, before.get(name), f"{above}{name}.") for name, item in value.items()}
        return {**before, **made}
    if not _has_fields(kind) or value is None:
        return value
    before = {name: getattr(default, name) for name in kinds(kind)} if default is not None else _defaults(kind)
    missing = [f"{above}{name}" for name in kinds(kind) if name not in value and before.get(name, MISSING) == MISSING]
    if missing:
        raise NotSet(missing)
    given = {
        name: instance(kinds(kind)[name], item, before.get(name), f"{above}{name}.") for name, item in value.items()
    }
    return kind(**{**before, **given})


def _has_fields(kind: Any) -> bool:
    return dataclasses.is_dataclass(kind)


def _has_parts(kind: Any) -> bool:
    """Whether what is given of a field leaves the rest as it was: a dataclass, or several by name."""
    kind = _not_none(kind)
    return _has_fields(kind) or (get_origin(kind) is dict and _has_fields(get_args(kind)[1]))


def _not_none(kind: Any) -> Any:
    """The type that a field has where it is not None."""
    return next(one for one in get_args(kind) if one is not NoneType) if get_origin(kind) in UNIONS else kind


def _defaults(kind: Any) -> dict[str, Any]:
    found = {}
    for field in dataclasses.fields(kind):
        if field.default_factory is not dataclasses.MISSING:
            found[field.name] = field.default_factory()
        elif field.default is not dataclasses.MISSING:
            found[field.name] = field.default
    return found


def plain(value: Any) -> Any:
    """A dataclass as plain dicts and lists, ready for JSON."""
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value
