"""Models of a grid: those named in its file, each combined with every entry of the varied settings.

An entry is a mapping of settings of the recipe, with three keys of its own: `tag`, the name of the variant in ids;
`model`, another shape of the model (`{depth: 8, width: 128, patch_size: 4}`), which becomes part of its name; `models`,
the models of the grid that the entry is for, all by default.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from regvit_lightning import settings
from regvit_lightning.models import names
from regvit_lightning.settings import SettingsError, check


@dataclass(frozen=True)
class GridModel:
    """A model of a grid.

    Attributes:
        name: name as accepted by `make eval`.
        words: `key=value` overrides of its recipe's settings.
        trainable: the grid can pretrain it; False for a model whose tag stands for settings known only to its run.
    """

    name: str
    words: tuple[str, ...] = ()
    trainable: bool = False


OWN_KEYS = ("tag", "model", "models")  # of an entry; the others are settings of the recipe
SHAPE = {"depth": "depth", "width": "width", "patch_size": "patch"}  # keys of `model`, and arguments of `reshaped`


def recipe(model: str) -> str:
    """Recipe of a model pretrained here, `deit3` of `deit3-vitb_reg4` and of `deit3-vitb_reg4+ttr`; else empty."""
    parsed = names.parse_id(names.intervention(model)[0])
    return parsed.recipe if parsed and parsed.recipe in settings.names("recipes") else ""


def vary(models: Sequence[str], entries: Sequence[Mapping[str, Any]]) -> list[GridModel]:
    """Combine the models of a grid with its varied settings, in the order of its file.

    Without entries the result is `models`. With entries, each model that is pretrained here and has no tag is repeated
    with the settings of each entry that is for it; an entry without settings and tag is the unchanged recipe. All other
    models appear once, unchanged.

    Raises:
        SettingsError: a tag, shape or list of models is invalid, or two entries make one id.
    """
    tagged = [(tag_of(entry), entry) for entry in entries]
    varied = [model for model in models if entries and _is_varied(model)]
    for entry in entries:
        _check_models(entry, varied)
    variations: list[GridModel] = []
    for model in models:
        plain = [GridModel(model, trainable=_is_varied(model))]
        variations += _variations(model, tagged) if model in varied else plain
    return variations


def _is_varied(model: str) -> bool:
    """Whether the entries apply to a model: it is pretrained here, and its settings are not those of a tag."""
    parsed = names.parse_id(names.intervention(model)[0]) if recipe(model) else None
    return parsed is not None and not parsed.tag


def _check_models(entry: Mapping[str, Any], varied: Sequence[str]) -> None:
    """Raise `SettingsError` unless the `models` of an entry are models of the grid that entries apply to."""
    chosen = entry.get("models", [])
    check(isinstance(chosen, list), f"settings: models: {settings.word(chosen)}: expected a list of models")
    for model in chosen:
        hint = settings.nearest(str(model), varied)
        check(
            model in varied, f"settings: models: {model} is no model of the grid that is trained without a tag; {hint}"
        )


def _variations(model: str, entries: Sequence[tuple[str, Mapping[str, Any]]]) -> list[GridModel]:
    """One model combined with every entry, given with its tag, that is for it."""
    plain, intervention = names.intervention(model)
    own = names.parse_id(plain)
    assert own is not None
    variations: dict[str, GridModel] = {}
    for tag, entry in entries:
        if model not in entry.get("models", [model]):
            continue
        name = str(names.model_id(own.recipe, tag, _reshaped(own.name, entry.get("model", {})))) + str(
            intervention or ""
        )
        twice = f"two entries have the tag '{tag}'" if tag else "two entries are the recipe as it is"
        check(name not in variations, f"settings: {twice}; give one of them another with tag: <name>")
        variations[name] = GridModel(name, words_of(entry), True)
    return list(variations.values())


def _reshaped(name: str, shape: Any) -> str:
    """Name of a model with the shape that an entry gives."""
    check(isinstance(shape, Mapping), f"settings: model: {settings.word(shape)}: expected keys {', '.join(SHAPE)}")
    for key, value in shape.items():
        check(key in SHAPE, f"settings: model: unknown key '{key}'; {settings.nearest(str(key), SHAPE)}")
        whole = type(value) is int and value > 0
        check(whole, f"settings: model: {key}: {settings.word(value)}: expected a whole number of at least 1")
    return names.reshaped(name, **{SHAPE[key]: value for key, value in shape.items()})


def words_of(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """Settings of an entry as `key=value` overrides of the recipe."""
    return tuple(f"{key}={settings.word(value)}" for key, value in entry.items() if key not in OWN_KEYS)


def tag_of(entry: Mapping[str, Any]) -> str:
    """Tag of an entry, or else one made from its settings: `lr0.002-drop_path0.1`; empty without settings."""
    if "tag" in entry:
        tag = entry["tag"]
        if not isinstance(tag, str) or not tag:
            raise SettingsError(f"settings: tag: {settings.word(tag)}: expected a text; put it in quotes")
        return tag
    pairs = [f"{key}{settings.word(value)}" for key, value in entry.items() if key not in OWN_KEYS]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join(pairs).replace("+", "")).strip("-.")
