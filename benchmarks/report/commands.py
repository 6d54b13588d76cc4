"""Commands that reproduce records, safe to paste into a shell whatever a record contains."""

import re
from functools import cache
from typing import Any

from regvit_lightning import records, settings
from regvit_lightning.invocation import invocation
from regvit_lightning.models import names
from regvit_lightning.records import Record
from regvit_lightning.settings import SettingsError
from regvit_lightning.values import notation

PLAIN = re.compile(r"[\w.@+/-]+", re.ASCII)  # text that needs no quotes in a command


def command(record: Record) -> str:
    """Command that re-evaluates the cell into a separate results folder; or, after a `#`, why there is none."""
    data = record.data if record.data in settings.names("data") else record.data_root
    if not all(PLAIN.fullmatch(name) for name in (record.model, record.task, data)):
        return "# no command: a name in this record is not one that a shell leaves alone"
    if record.task not in settings.names("tasks"):
        return f"# no command: this version has no task '{record.task}'"
    model = _model(record.model)
    if not model:
        return "# no command: MODEL is the path of the weights' file, of which only the name is known"
    words = {"MODEL": model, "TASK": record.task, "DATA": data, "SEED": record.seed}
    if record.data_root and data == record.data:
        words["DATA_ROOT"] = record.data_root if PLAIN.fullmatch(record.data_root) else "…"
    variant, changed = _changed(record)
    if variant:
        words["VARIANT"] = variant
    try:
        given = " ".join(f"{_flow(key)}={_flow_word(value)}" for key, value in sorted(changed.items()))
    except ValueError:
        return "# no command: settings of this record cannot be given as words"
    return invocation("eval", {**words, "RESULTS": "again"}, given)


def _model(name: str) -> str:
    """Value of `MODEL=`, or '' if the record lacks the path of the weights."""
    untrained, bare = ("random-", name.removeprefix("random-")) if name.startswith("random-") else ("", name)
    ours = names.parse_id(name)
    if names.NAME.fullmatch(bare) if untrained else ours and ours.recipe in settings.names("recipes"):
        return name
    import timm

    return f"{untrained}timm/{bare}" if "/" not in bare and timm.is_model(bare.partition(".")[0]) else ""


def _changed(record: Record) -> tuple[str, dict[str, Any]]:
    """Variant of the task closest to the record's settings, empty for the data's, and the differing settings."""
    candidates = []
    for variant in dict.fromkeys(("auto", "", "mini")):
        try:
            usual = _usual(record.task, variant, record.data)
        except SettingsError:  # the task lacks this variant
            continue
        keys = (usual.keys() | record.settings.keys()) - records.FREE_TO_CHANGE
        differ = {key: record.settings.get(key) for key in keys if record.settings.get(key) != usual.get(key)}
        candidates.append((len(differ), variant, differ))
    _, variant, differ = min(candidates, key=lambda one: one[0])
    return "" if variant == "auto" else variant, differ


@cache
def _usual(task: str, variant: str, data: str) -> dict[str, Any]:
    """Default settings of a task, without overrides; `auto` takes the variant of the data."""
    if variant == "auto":
        known = data in settings.names("data")
        variant = str(settings.merged("data", data).get("variant", "")) if known else ""
    _, chosen = settings.load_settings("tasks", task, variant)
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
