"""A dataclass as a schema: converts trees of texts to values by the types of its fields, for merging by OmegaConf."""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from omegaconf import MISSING, DictConfig, OmegaConf

from regvit_lightning.values import notation
from regvit_lightning.values.notation import Tree
from regvit_lightning.values.ranges import Range

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
    """A key that is not a field.

    Args:
        key: the key with its parents, such as `probes.images`.
        known: valid keys in its place, in the same form.
    """

    def __init__(self, key: str, known: Sequence[str]) -> None:
        super().__init__(key)
        self.key, self.known = key, known


class NotSet(Exception):
    """Raised for fields without a value and without a default; `keys` are their names."""

    def __init__(self, keys: Sequence[str]) -> None:
        super().__init__(", ".join(keys))
        self.keys = keys


@dataclasses.dataclass(frozen=True)
class Ruled:
    """Type of a field with rules of its own.

    Attributes:
        kind: type of its values.
        reader: function that parses its texts (metadata `reader`), or None.
        range: range of its numbers (metadata `range`), or None.
    """

    kind: Any
    reader: Callable[[str], Any] | None = None
    range: Range | None = None


@cache
def kinds(schema: Any) -> dict[str, Any]:
    """Types of all fields of a dataclass, by name."""
    hints, fields = get_type_hints(schema), dataclasses.fields(schema)
    rules = {field.name: {key: field.metadata.get(key) for key in ("reader", "range")} for field in fields}
    return {name: Ruled(hints[name], **rule) if any(rule.values()) else hints[name] for name, rule in rules.items()}


def kind_of(kind: Any, path: Sequence[str], above: str = "") -> Any:
    """Type of the field at `path` below a dataclass or a dict, such as `["probes", "images"]`.

    Raises:
        UnknownKey: there is no such field.
    """
    if not path:
        return kind
    key, rule, kind = above + path[0], kind, _not_none(kind)
    if _has_fields(kind):
        if path[0] not in kinds(kind):
            raise UnknownKey(key, [above + name for name in kinds(kind)])
        return kind_of(kinds(kind)[path[0]], path[1:], f"{key}.")
    if get_origin(kind) is dict:
        item = get_args(kind)[1]
        return kind_of(dataclasses.replace(rule, kind=item) if isinstance(rule, Ruled) else item, path[1:], f"{key}.")
    if kind is Any:
        return Any
    raise UnknownKey(key, [above[:-1]])


def read_word(text: str, kind: Any) -> Tree:
    """Parse a `key=value` word for a field of type `kind`: the literal text, or for a list or a mapping its YAML flow
    notation (`[1,4]`, `{type: FCNHead}`).

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
    """Convert a tree of texts to a value of type `kind`; for a dataclass, to a dict of the given fields.

    Args:
        value: from a file or from `read_word`; a non-text value, such as a number from Python, is only checked.
        kind: str, int, float, bool, Any, list[…], dict[str, …], a dataclass, one of these or None, or `Ruled`.
        above: the keys above it, such as `probes.`, for errors.

    Raises:
        ValueError: the value does not have that type or is out of range; the message says what is expected.
        UnknownKey: a dataclass has no such field.
    """
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return notation.untyped(value)
    if origin in UNIONS:
        return None if notation.is_null(value) else typed(value, _not_none(kind), above)
    if isinstance(kind, Ruled):
        return _ruled(value, kind, above)
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


def _ruled(value: Tree, rule: Ruled, above: str) -> Any:
    """Convert the value of a field with rules of its own."""
    try:
        result = rule.reader(value) if rule.reader and isinstance(value, str) else typed(value, rule.kind, above)
    except ValueError as error:
        raise ValueError(f"{error}, in {rule.range.text}" if rule.range else str(error)) from None
    if rule.range:
        rule.range.check(result)
    return result


def _typed_part(value: Tree, kind: Any, name: str, above: str) -> Any:
    part = kind_of(kind, [name], above)
    try:
        return typed(value, part, f"{above}{name}.")
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def update(config: DictConfig, kind: Any, path: Sequence[str], value: Any) -> None:
    """Set a typed value at `path` of `config`, a structured configuration of the dataclass `kind`.

    A dataclass is merged into the existing one, and so are dataclasses by name; everything else is replaced.
    """
    value = _literal(value)
    if isinstance(value, Mapping) and not _has_parts(kind_of(kind, path)):
        OmegaConf.update(config, ".".join(path), {}, merge=False, force_add=True)
    for key in reversed(path):
        value = {key: value}
    OmegaConf.unsafe_merge(config, value)  # in place: copying it for each key takes longer than all else


def instance(config: DictConfig) -> Any:
    """Instantiate the object described by a structured configuration.

    Raises:
        NotSet: a field has neither a value nor a default.
    """
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise NotSet(missing)
    return OmegaConf.to_object(config)


def _literal(value: Any) -> Any:
    """Escape `${…}` in a value so that OmegaConf does not interpolate it: a user's text is literal."""
    if value == MISSING:
        raise ValueError("??? stands for what is not given")
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", r"\1\1\\${", value)  # backslashes before it count in pairs
    if isinstance(value, Mapping):
        return {key: _literal(item) for key, item in value.items()}
    return [_literal(item) for item in value] if isinstance(value, list) else value


def _has_fields(kind: Any) -> bool:
    return dataclasses.is_dataclass(kind)


def _has_parts(kind: Any) -> bool:
    """Whether an update of a field preserves the rest of it: a dataclass, or dataclasses by name."""
    kind = _not_none(kind)
    return _has_fields(kind) or (get_origin(kind) is dict and _has_fields(get_args(kind)[1]))


def _not_none(kind: Any) -> Any:
    """Type of a field without its rules and its None option."""
    kind = kind.kind if isinstance(kind, Ruled) else kind
    return next(one for one in get_args(kind) if one is not NoneType) if get_origin(kind) in UNIONS else kind
