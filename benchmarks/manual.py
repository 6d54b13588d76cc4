"""What a program says of its settings: `--help`, with the values that would be taken, and `--print-config`.

Help reads YAML files and the source of settings alone, so that it answers at once; the resolved settings of
`--print-config` are those that the program itself would have, with every check.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from typing import Any

import yaml

from benchmarks import word_of
from benchmarks.setting_docs import Documented, fields_of
from regvit_lightning import settings
from regvit_lightning.data import layout
from regvit_lightning.settings import Layer, SettingsError
from regvit_lightning.values import notation

WIDEST = 26  # characters of a setting's name and type, before its help
WIDEST_VALUE = 50  # characters of a setting with its value, before where it comes from
BY_PATH = ("name", "root", "imagenet", "imagenet22k", "pairs", "get")  # what a folder given by its path sets

Row = tuple[str, str]  # a setting with its type, and its help with its value


def keys(schema: type) -> list[str]:
    """Names of the settings of a dataclass."""
    return [field.name for field in dataclasses.fields(schema)]


# ------------------------------------------------------------------------------------------------------------- --help


def help_text(name: str, description: str, schema: type, words: Sequence[str], group: str) -> str:
    """The settings of a program, and of the recipe or task that it would take, with the values that it would take.

    Args:
        name: of the program.
        description: first lines.
        schema: dataclass of the program's own settings.
        words: `key=value` words beside `--help`.
        group: of `configs/`, see `command.run`.

    Raises:
        SettingsError: a word, data, variant, recipe or task that there is not.
    """
    given = settings.read_words(words)
    own = {field.name: given.get(field.name, _default(field)) for field in dataclasses.fields(schema)}
    lines = [f"regvit {word_of(name)} key=value …  (python -m benchmarks.{name})", "", description, "", "Settings"]
    lines += _columns([_program_row(field, own[field.name]) for field in dataclasses.fields(schema)])
    if group:
        lines += _chosen(name, own, group, [word for word in words if word.partition("=")[0] not in own])
    return "\n".join(lines)


def _chosen(name: str, own: Mapping[str, Any], group: str, words: Sequence[str]) -> list[str]:
    """The choices of a recipe or a task, and the settings of the one that is chosen."""
    key = group.rstrip("s")
    lines = ["", f"Choices of {key}: {', '.join(settings.names(group))}"]
    if own[key] == settings.MISSING:
        return [*lines, f"For its settings: regvit {word_of(name)} {key}=<name> --help"]
    layers = settings.layers(group, own[key], variant_of(own))
    fields = fields_of(settings.module_of(group, own[key]))
    origins = ", ".join(layer.origin for layer in layers)
    lines += ["", f"Settings of {key}={own[key]} for data={own['data']} ({origins})", *_head(layers), ""]
    lines += _columns(_rows(fields, _values(layers, words, fields)))
    return [*lines, "", "Where each value comes from: --print-config"]


def variant_of(own: Mapping[str, Any]) -> str:
    """The overlay that a program takes: what its settings say, or with `auto` the data's own."""
    return layout.variant_of(str(own["data"])) if own["variant"] == "auto" else str(own["variant"])


def _default(field: "dataclasses.Field[Any]") -> Any:
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default


def _program_row(field: "dataclasses.Field[Any]", value: Any) -> Row:
    reader = field.metadata.get("reader", field.type)
    shown = "(must be given)" if value == settings.MISSING else "" if value == "" else f"[{value}]"
    return f"{field.name}=<{getattr(reader, '__name__', reader)}>", f"{field.metadata.get('help', '')} {shown}"


def _rows(fields: Sequence[Documented], values: Mapping[str, Any], above: str = "") -> Iterator[Row]:
    """A row for each setting; those of a nested dataclass under names with a dot, as words take them."""
    for field in fields:
        value = values.get(field.name)
        if field.nested:
            yield from _rows(field.nested, value or {}, f"{above}{field.name}.")
            continue
        shown = field.default if value is None else notation.shown(value)
        yield f"{above}{field.name}=<{field.kind}>", f"{field.help.rstrip('.')} [{shown}]"


def _values(layers: Sequence[Layer], words: Sequence[str], fields: Sequence[Documented]) -> Mapping[str, Any]:
    """Texts of the settings: those of words above those of files."""
    tree: Any = reduce(notation.merged, [layer.values for layer in layers])
    for key, text in settings.read_words(words).items():
        path = key.split(".")
        if path[0] not in (known := [field.name for field in fields]):
            raise SettingsError(f"unknown key '{key}'; {settings.nearest(path[0], known)}")
        value: Any = notation.parse(text) if text[:1] in ("[", "{") else text
        tree = notation.merged(tree, reduce(lambda inner, part: {part: inner}, reversed(path), value))
    found: Mapping[str, Any] = tree
    return found


def _head(layers: Sequence[Layer]) -> Iterator[str]:
    """The comments that open the files: what they are, sources, hardware, time, scores to expect."""
    for layer in layers:
        text = layer.file.read_text(encoding="utf-8").split("\n") if layer.file else []
        comment = [line for place, line in enumerate(text) if all(line.startswith("#") for line in text[: place + 1])]
        yield from ["", *comment] if comment else []


def _columns(rows: Sequence[Row] | Iterator[Row]) -> list[str]:
    rows = list(rows)
    width = min(max(len(left) for left, _ in rows), WIDEST) + 2
    return [f"  {left.ljust(width) if len(left) < width else left + '  '}{right}".rstrip() for left, right in rows]


# ------------------------------------------------------------------------------------------------------- --print-config


def config_text(name: str, schema: type, words: Sequence[str], remaining: Sequence[str], group: str) -> str:
    """The resolved settings as YAML, and behind each value where it comes from.

    Args:
        name, schema, group: of the program, see `command.run`.
        words: of its own settings.
        remaining: of the recipe or the task.

    Raises:
        SettingsError: whatever the program itself would raise for its settings.
    """
    options: Any = settings.build(schema, words=words)
    parts = [(name, options, Origins([], words))]
    if group:
        key, own = group.rstrip("s"), settings.resolved(options)
        layers = settings.layers(group, own[key], variant_of(own))
        _, chosen = settings.load_settings(group, own[key], variant_of(own), remaining, keys(schema))
        parts.append((f"{key} {own[key]}", chosen, Origins(layers, remaining)))
    if "variant" in keys(schema):
        layers = _layers_of_data(options.data)
        parts.append((f"data {options.data}", layout.resolve(options.data), Origins(layers, [])))
    return "\n".join(line for title, values, origins in parts for line in [f"{title}:", *_lines(values, origins)])


def _layers_of_data(data: str) -> list[Layer]:
    """The layers of data; below them what all data has of the published sets with boxes."""
    published = settings.layers("data", layout.PUBLISHED)
    sets = [Layer(layer.origin, {"discovery": layer.values.get("discovery", {})}) for layer in published]
    if data in settings.names("data"):
        return [*sets, *settings.layers("data", data)]
    return [*sets, Layer("a folder given by its path", dict.fromkeys(BY_PATH))]


class Origins:
    """Where the values of settings come from.

    Args:
        layers, words: that make them up, later ones over earlier ones.
    """

    def __init__(self, layers: Sequence[Layer], words: Sequence[str]) -> None:
        self.found: dict[str, tuple[str, Any]] = {}
        for layer in layers:
            for key, value in layer.values.items():
                self._add(layer.origin, key, value)
        for key, text in settings.read_words(words).items():
            value = notation.parse(text) if text[:1] in ("[", "{") else text
            self._add("word", key, value)

    def _add(self, origin: str, key: str, value: Any) -> None:
        self.found[key] = origin, value
        for name, item in value.items() if isinstance(value, Mapping) else ():
            self._add(origin, f"{key}.{name}", item)

    def of(self, key: str, value: Any) -> str:
        """Where the value of a key comes from, with what stands there where that is not the value itself."""
        origin, text = self.found.get(key, ("default", None))
        differs = isinstance(text, str) and isinstance(value, str) and text != value
        return f"{origin}: {text}" if differs else origin


def _lines(values: Any, origins: Origins) -> list[str]:
    rows = list(_resolved(values, origins))
    width = min(max(len(left) for left, origin in rows if origin), WIDEST_VALUE)
    return [f"{left.ljust(width)}  # {origin}" if origin else left for left, origin in rows]


def _resolved(values: Any, origins: Origins, above: str = "") -> Iterator[tuple[str, str]]:
    """Lines of YAML with their origins; a line that only opens nested settings has none."""
    indent = "  " * (above.count(".") + 1)
    for key, value in values.items() if isinstance(values, Mapping) else vars(values).items():
        nested = dataclasses.is_dataclass(value) or (isinstance(value, Mapping) and _holds_some(value))
        if nested:
            yield f"{indent}{key}:", ""
            yield from _resolved(value, origins, f"{above}{key}.")
        else:
            yield f"{indent}{key}: {_shown(value)}", origins.of(f"{above}{key}", value)


def _holds_some(value: Mapping[str, Any]) -> bool:
    """Whether it has dataclasses by name."""
    return any(dataclasses.is_dataclass(item) for item in value.values())


def _shown(value: Any) -> str:
    """A value in YAML's flow notation, as any reader of YAML understands it."""
    return str(yaml.safe_dump([value], default_flow_style=True, allow_unicode=True, width=10**6)).strip()[1:-1]
