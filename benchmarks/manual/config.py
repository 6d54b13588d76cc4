"""`--print-config`: the resolved settings of a program as YAML, each value annotated with its origin.

The settings are exactly those that the program itself would use, with all checks.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from benchmarks.manual.help import keys, variant_of
from regvit_lightning import settings
from regvit_lightning.data import layout
from regvit_lightning.settings import Layer
from regvit_lightning.values import notation

WIDEST = 50  # characters of a setting with its value, before its origin
BY_PATH = ("name", "root", "imagenet", "imagenet22k", "pairs", "get")  # keys set when a folder is given by its path


def config_text(name: str, schema: type, words: Sequence[str], remaining: Sequence[str], group: str) -> str:
    """Format the resolved settings as YAML, each value annotated with its origin.

    Args:
        name, schema, group: the program, see `command.run`.
        words: arguments for its own settings.
        remaining: arguments for the recipe or the task.

    Raises:
        SettingsError: the program itself would raise it for its settings.
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
    """Layers of the data's settings, below them those that all data share for the published sets."""
    published = settings.layers("data", layout.PUBLISHED)
    kinds = settings.EVERY_SET.values()
    sets = [Layer(layer.origin, {kind: layer.values.get(kind, {}) for kind in kinds}) for layer in published]
    files = layout.layers(data)
    return [*sets, *(files or [Layer("a folder given by its path", dict.fromkeys(BY_PATH))])]


class Origins:
    """Origins of the values of settings.

    Args:
        layers, words: layers and arguments that make up the settings; later ones override earlier ones.
    """

    def __init__(self, layers: Sequence[Layer], words: Sequence[str]) -> None:
        self.origins: dict[str, tuple[str, Any]] = {}
        for layer in layers:
            for key, value in layer.values.items():
                self._add(layer.origin, key, value)
        for key, text in settings.read_words(words).items():
            self._add("word", key, notation.flow(text))

    def _add(self, origin: str, key: str, value: Any) -> None:
        self.origins[key] = origin, value
        for name, item in value.items() if isinstance(value, Mapping) else ():
            self._add(origin, f"{key}.{name}", item)

    def of(self, key: str, value: Any) -> str:
        """Origin of a key's value, with the text written there if it differs from the value."""
        origin, text = self.origins.get(key, ("default", None))
        differs = isinstance(text, str) and isinstance(value, str) and text != value
        return f"{origin}: {text}" if differs else origin


def _lines(values: Any, origins: Origins) -> list[str]:
    rows = list(_resolved(values, origins))
    width = min(max(len(left) for left, origin in rows if origin), WIDEST)
    return [f"{left.ljust(width)}  # {origin}" if origin else left for left, origin in rows]


def _resolved(values: Any, origins: Origins, above: str = "") -> Iterator[tuple[str, str]]:
    """Lines of YAML with their origins; a line that only opens nested settings has no origin."""
    indent = "  " * (above.count(".") + 1)
    for key, value in values.items() if isinstance(values, Mapping) else vars(values).items():
        nested = dataclasses.is_dataclass(value) or (isinstance(value, Mapping) and _holds_some(value))
        if nested:
            yield f"{indent}{key}:", ""
            yield from _resolved(value, origins, f"{above}{key}.")
        else:
            yield f"{indent}{key}: {_shown(value)}", origins.of(f"{above}{key}", value)


def _holds_some(value: Mapping[str, Any]) -> bool:
    """True if a mapping contains dataclasses."""
    return any(dataclasses.is_dataclass(item) for item in value.values())


def _shown(value: Any) -> str:
    """Format a value in YAML's flow notation, readable by any YAML parser."""
    return str(yaml.safe_dump([value], default_flow_style=True, allow_unicode=True, width=10**6)).strip()[1:-1]
