"""A dataclass as a schema: trees of texts become values by the types of its fields, which OmegaConf merges."""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from types import NoneType, UnionType
from typing import Any, Union, cast, get_args, get_origin, get_type_hints

from omegaconf import MISSING, DictConfig, OmegaConf

from regvit_lightning.values import notation
from regvit_lightning.values.notation import Tree

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


@dataclasses.dataclass(frozen=True)
class Read:
    """The type of a field whose texts are read by a function of its own (metadata `reader`)."""

    kind: Any
    reader: Callable[[str], Any]


@cache
def kinds(schema: Any) -> dict[str, Any]:
    """Type of every field of a dataclass."""
    hints, fields = get_type_hints(schema), dataclasses.fields(schema)
    readers = {field.name: field.metadata["reader"] for field in fields if "reader" in field.metadata}
    return {
        field.name: Read(hints[field.name], readers[field.name]) if field.name in readers else hints[field.name]
        for field in fields
    }


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
        kind: str, int, float, bool, Any, list[…], dict[str, …], a dataclass, one of these or None, or `Read` by a
            function of the field.
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
    if isinstance(kind, Read):
        return kind.reader(value) if isinstance(value, str) else typed(value, kind.kind, above)
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


def updated(config: DictConfig, kind: Any, path: Sequence[str], value: Any) -> DictConfig:
    """`config`, a structured configuration of the dataclass `kind`, with a typed value at `path`.

    A dataclass is merged into the one that is there, and so are several by name; everything else is replaced.
    """
    value = _literal(value)
    if isinstance(value, Mapping) and not _has_parts(kind_of(kind, path)):
        OmegaConf.update(config, ".".join(path), {}, merge=False, force_add=True)
    for key in reversed(path):
        value = {key: value}
    return cast(DictConfig, OmegaConf.merge(config, value))


def instance(config: DictConfig) -> Any:
    """The object that a structured configuration stands for.

    Raises:
        NotSet: a field has neither a value nor a default.
    """
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise NotSet(missing)
    return OmegaConf.to_object(config)


def _literal(value: Any) -> Any:
    """A value whose `${…}` mean nothing to OmegaConf: a user's text is a text."""
    if value == MISSING:
        raise ValueError("??? stands for what is not given")
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", r"\1\1\\${", value)  # backslashes in front count in pairs
    if isinstance(value, Mapping):
        return {key: _literal(item) for key, item in value.items()}
    return [_literal(item) for item in value] if isinstance(value, list) else value


def _has_fields(kind: Any) -> bool:
    return dataclasses.is_dataclass(kind)


def _has_parts(kind: Any) -> bool:
    """Whether what is given of a field leaves the rest as it was: a dataclass, or several by name."""
    kind = _not_none(kind)
    return _has_fields(kind) or (get_origin(kind) is dict and _has_fields(get_args(kind)[1]))


def _not_none(kind: Any) -> Any:
    """The type that a field has where it is not None."""
    return next(one for one in get_args(kind) if one is not NoneType) if get_origin(kind) in UNIONS else kind
