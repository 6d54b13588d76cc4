"""Commands that reproduce records, safe to paste into a shell whatever a record contains."""

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from regvit_lightning import records, settings
from regvit_lightning.invocation import invocation
from regvit_lightning.models import names, register_neurons
from regvit_lightning.records import Record
from regvit_lightning.settings import SettingsError
from regvit_lightning.values import notation

PLAIN = re.compile(r"[\w.@+/-]+", re.ASCII)  # text that needs no quotes in a command
SEARCH = re.compile(
    r"make neurons, ([\d,]+) train images of (\S+) at \d+ px, score (\w+)"
)  # source of register neurons
USUAL_SEARCH = ("500", "contrast")  # images and score of `make neurons`


def command(record: Record) -> str:
    """Command that re-evaluates the cell into a separate results folder; or, after a `#`, why there is none.

    Before a model with an intervention at test time stands the command that finds its register neurons.
    """
    data = _data(record)
    if not all(PLAIN.fullmatch(name) for name in (record.model, record.task, data["DATA"])):
        return "# no command: a name in this record is not one that a shell leaves alone"
    if record.task not in settings.names("tasks"):
        return f"# no command: this version has no task '{record.task}'"
    model = _model(record.model)
    if not model:
        return "# no command: MODEL is the path of the weights' file, of which only the name is known"
    words = {"MODEL": model, "TASK": record.task, "DATA": data["DATA"], "SEED": record.seed, **data}
    line = _line("eval", words, _changed("tasks", record.task, record.data, record.settings))
    return line if line.startswith("#") else _neurons(record, model, data) + line


def _neurons(record: Record, model: str, data: Mapping[str, str]) -> str:
    """Command that finds the register neurons of a model with an intervention, and ` && `; empty for any other."""
    plain, intervention = names.intervention(model)
    made = record.backbone.get("intervention")
    if intervention is None or not isinstance(made, dict):
        return ""
    search = SEARCH.fullmatch(str(made.get("source")))
    images, where, score = search.groups() if search else (USUAL_SEARCH[0], "", USUAL_SEARCH[1])
    images = images.replace(",", "")
    elsewhere = where in settings.names("data") and where != data["DATA"]
    given = {"MODEL": plain, **({"DATA": where} if elsewhere else data), "SEED": record.seed}
    different = zip(("images", "score"), (images, score), USUAL_SEARCH, strict=True)
    further = [f"{name}={value}" for name, value, usual in different if value != usual] + _published(made)
    return invocation("neurons", given, " ".join(further)) + " && "


def _published(made: Mapping[str, Any]) -> list[str]:
    """Word that names the published list that register neurons come from, if it is one."""
    known = register_neurons.published().items()
    return [f"known={name}" for name, file in known if settings.read_yaml(file).get("source") == made.get("source")]


def training(record: Record) -> str:
    """Command that trains the record's model again, with the settings that the file of its weights holds.

    Empty where the record holds no such settings: a model that no recipe here trained. After a `#`, why there is none.
    """
    ours, trained_with = names.parse_id(record.model), record.backbone.get("trained_with")
    if not ours or ours.recipe not in settings.names("recipes") or not isinstance(trained_with, dict):
        return ""
    data = _data(record)
    if not PLAIN.fullmatch(data["DATA"]):
        return "# no command: a name in this record is not one that a shell leaves alone"
    words: dict[str, object] = {"MODEL": ours.name, "RECIPE": ours.recipe, "TAG": ours.tag, **data, "SEED": record.seed}
    given = {name: value for name, value in words.items() if value != ""}
    return _line("pretrain", given, _changed("recipes", ours.recipe, record.data, trained_with))


def _data(record: Record) -> dict[str, str]:
    """Values of `DATA=` and, where known data lie in a folder of the user's, `DATA_ROOT=`."""
    if record.data not in settings.names("data"):
        return {"DATA": record.data_root}
    root = record.data_root if PLAIN.fullmatch(record.data_root) else "…"
    return {"DATA": record.data, **({"DATA_ROOT": root} if record.data_root else {})}


def _line(word: str, words: Mapping[str, object], changed: tuple[str, Mapping[str, Any]]) -> str:
    """Command with the variant and the settings that differ from it; its results go to a folder of their own."""
    variant, differing = changed
    chosen = {"VARIANT": variant} if variant else {}
    try:
        given = " ".join(f"{_flow(key)}={_flow_word(value)}" for key, value in sorted(differing.items()))
    except ValueError:
        return "# no command: settings of this record cannot be given as words"
    return invocation(word, {**words, **chosen, "RESULTS": "again"}, given)


def _model(name: str) -> str:
    """Value of `MODEL=`, or '' if the record lacks the path of the weights."""
    plain, intervention = names.intervention(name)
    untrained, bare = ("random-", plain.removeprefix("random-")) if plain.startswith("random-") else ("", plain)
    ours = names.parse_id(plain)
    if names.NAME.fullmatch(bare) if untrained else ours and ours.recipe in settings.names("recipes"):
        return name
    import timm

    bare = bare.removeprefix("timm-")
    known = "/" not in bare and timm.is_model(bare.partition(".")[0])
    return f"{untrained}timm/{bare}{intervention or ''}" if known else ""


def _changed(group: str, name: str, data: str, recorded: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Variant closest to the recorded settings, empty for the variant of the data, and the settings that differ.

    Args:
        group: `tasks` or `recipes`.
        name: the task or the recipe.
        data: name of the data.
        recorded: settings in the record.
    """
    candidates = []
    for variant in dict.fromkeys(("auto", "", "mini")):
        try:
            usual = _usual(group, name, variant, data)
        except SettingsError:  # there is no such variant
            continue
        earlier = {key: value for key, value in records.EARLIER.items() if key in usual}
        known = {**earlier, **recorded}  # a setting that is younger than the record has no value there
        keys = known.keys() - records.FREE_TO_CHANGE
        differ = {key: known[key] for key in keys if known[key] != usual.get(key)}
        candidates.append((len(differ), variant, differ))
    _, variant, differ = min(candidates, key=lambda one: one[0])
    return "" if variant == "auto" else variant, differ


@cache
def _usual(group: str, name: str, variant: str, data: str) -> dict[str, Any]:
    """Default settings of a task or a recipe, without overrides; `auto` takes the variant of the data."""
    if variant == "auto":
        known = data in settings.names("data")
        variant = str(settings.merged("data", data).get("variant", "")) if known else ""
    _, chosen = settings.load_settings(group, name, variant)
    return settings.resolved(chosen)


def _flow_word(value: Any) -> str:
    text = _flow(value)
    return f"'{text}'" if re.search(r"[\s{}\[\]]", text) else text


def _flow(value: Any) -> str:
    """Format a value in YAML's flow notation, without any quotes.

    Raises:
        ValueError: it contains a text that would need quotes.
    """
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_flow(key)}: {_flow(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str) and not (PLAIN.fullmatch(value) and notation.untyped(value) == value):
        raise ValueError(f"{value!r} needs quotes")
    return str(value)
