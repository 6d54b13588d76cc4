"""Models of a grid: those named in its file, each combined with every entry of the varied settings."""

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


def recipe(model: str) -> str:
    """Recipe of a model pretrained here, `deit3` of `deit3-vitb_reg4` and of `deit3-vitb_reg4+ttr`; else empty."""
    parsed = names.parse_id(names.intervention(model)[0])
    return parsed.recipe if parsed and parsed.recipe in settings.names("recipes") else ""


def vary(models: Sequence[str], entries: Sequence[Mapping[str, Any]]) -> list[GridModel]:
    """Combine the models of a grid with its varied settings, in the order of its file.

    Without entries the result is `models`. With entries, each model that is pretrained here and has no tag is repeated
    with the settings of each entry; an entry without settings and tag is the unchanged recipe. All other models appear
    once, unchanged.

    Raises:
        SettingsError: a tag is invalid or used by two entries.
    """
    tagged = [(tag_of(entry), words_of(entry)) for entry in entries]
    tags = [tag for tag, _ in tagged]
    for tag in tags:
        twice = f"two entries have the tag '{tag}'" if tag else "two entries are the recipe as it is"
        check(tags.count(tag) == 1, f"settings: {twice}; give one of them another with tag: <name>")
    variations = []
    for model in models:
        plain, intervention = names.intervention(model)
        own = names.parse_id(plain) if recipe(model) else None
        if own is None or own.tag or not entries:
            variations.append(GridModel(model, trainable=own is not None and not own.tag))
            continue
        ids = [f"{names.model_id(own.recipe, tag, own.name)}{intervention or ''}" for tag in tags]
        variations += [GridModel(name, words, True) for name, (_, words) in zip(ids, tagged, strict=True)]
    return variations


def words_of(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """Settings of an entry as `key=value` overrides of the recipe."""
    return tuple(f"{key}={settings.word(value)}" for key, value in entry.items() if key != "tag")


def tag_of(entry: Mapping[str, Any]) -> str:
    """Tag of an entry, or else one made from its settings: `lr0.002-drop_path0.1`; empty without settings."""
    if "tag" in entry:
        tag = entry["tag"]
        if not isinstance(tag, str) or not tag:
            raise SettingsError(f"settings: tag: {settings.word(tag)}: expected a text; put it in quotes")
        return tag
    pairs = [f"{key}{settings.word(value)}" for key, value in entry.items()]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join(pairs).replace("+", "")).strip("-.")
