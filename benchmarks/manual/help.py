"""`--help`: the settings of a program with the values that it would use for its data and variant.

YAML files and the source of the settings are parsed without importing anything large, so that help appears at once.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from typing import Any

from benchmarks import terminal, word_of
from benchmarks.manual.setting_docs import Documented, fields_of
from regvit_lightning import settings
from regvit_lightning.data import layout
from regvit_lightning.settings import Layer, SettingsError
from regvit_lightning.values import notation

WIDEST = 26  # characters of a setting's name and type, before its help text

Row = tuple[str, str]  # a setting with its type, and its help with its value


def keys(schema: type) -> list[str]:
    """Names of the settings of a dataclass."""
    return [field.name for field in dataclasses.fields(schema)]


def help_text(name: str, description: str, schema: type, words: Sequence[str], group: str) -> str:
    """Format the settings of a program and of its recipe or task, with the values that it would use.

    Args:
        name: name of the program.
        description: first lines of the help.
        schema: dataclass of the program's own settings.
        words: `key=value` arguments given with `--help`.
        group: group of `configs/`, see `command.run`.

    Raises:
        SettingsError: a key, data, variant, recipe or task does not exist.
    """
    given = settings.read_words(words)
    own = {field.name: given.get(field.name, _default(field)) for field in dataclasses.fields(schema)}
    title = f"regvit {word_of(name)} key=value …  (python -m benchmarks.{name})"
    lines = [title, "", terminal.paragraph(description), "", "Settings"]
    lines += _columns([_program_row(field, own[field.name]) for field in dataclasses.fields(schema)])
    if group:
        lines += _chosen(name, own, group, [word for word in words if word.partition("=")[0] not in own])
    return "\n".join(lines)


def _chosen(name: str, own: Mapping[str, Any], group: str, words: Sequence[str]) -> list[str]:
    """Available recipes or tasks, and the settings of the chosen one."""
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
    """Variant that a program uses: as given in its settings, or with `auto` the data's own."""
    variant = str(own["variant"])
    return layout.resolve(str(own["data"]), root_needed=False).variant if variant == "auto" else variant


def _default(field: "dataclasses.Field[Any]") -> Any:
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default


def _program_row(field: "dataclasses.Field[Any]", value: Any) -> Row:
    reader = field.metadata.get("reader", field.type)
    shown = "(must be given)" if value == settings.MISSING else "" if value in ("", None) else f"[{value}]"
    return (
        f"{field.name}=<{getattr(reader, '__name__', reader)}>",
        f"{field.metadata.get('help', '')}{_within(field)} {shown}",
    )


def _within(field: "dataclasses.Field[Any]") -> str:
    range_ = field.metadata.get("range")
    return f", in {range_.text}" if range_ else ""


def _rows(fields: Sequence[Documented], values: Mapping[str, Any], above: str = "") -> Iterator[Row]:
    """Rows of settings; those of a nested dataclass have dotted names, as on the command line."""
    for field in fields:
        value = values.get(field.name)
        if field.nested:
            yield from _rows(field.nested, value or {}, f"{above}{field.name}.")
            continue
        shown = field.default if value is None else notation.shown(value)
        within = f", in {field.range}" if field.range else ""
        yield f"{above}{field.name}=<{field.kind}>", f"{field.help.rstrip('.')}{within} [{shown}]"


def _values(layers: Sequence[Layer], words: Sequence[str], fields: Sequence[Documented]) -> Mapping[str, Any]:
    """Values of the settings as text; arguments override files."""
    tree: Any = reduce(notation.merged, [layer.values for layer in layers])
    for key, text in settings.read_words(words).items():
        path = key.split(".")
        if path[0] not in (known := [field.name for field in fields]):
            raise SettingsError(f"unknown key '{key}'; {settings.nearest(path[0], known)}")
        tree = notation.merged(tree, reduce(lambda inner, part: {part: inner}, reversed(path), notation.flow(text)))
    content: Mapping[str, Any] = tree
    return content


def _head(layers: Sequence[Layer]) -> Iterator[str]:
    """Header comments of the files: purpose, sources, hardware, time, expected scores."""
    for layer in layers:
        text = layer.file.read_text(encoding="utf-8").split("\n") if layer.file else []
        comment = [line for index, line in enumerate(text) if all(line.startswith("#") for line in text[: index + 1])]
        yield from ["", *comment] if comment else []


def _columns(rows: Sequence[Row] | Iterator[Row]) -> list[str]:
    rows = list(rows)
    width = min(max(len(left) for left, _ in rows), WIDEST) + 2
    return [f"  {left.ljust(width) if len(left) < width else left + '  '}{right}".rstrip() for left, right in rows]
