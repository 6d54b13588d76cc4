"""Settings: dataclasses filled from the YAML files of `configs/` and from `key=value` words.

Files are merged left to right by OmegaConf, then the words. Each value is parsed by the type of its field
(`values/`) and must lie in its range; an unknown key is an error that names its nearest neighbours. This module imports
nothing heavy, so that `--help` answers at once.
"""

import copy
import dataclasses
import difflib
import importlib
import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cache, reduce
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, cast

from omegaconf import MISSING, DictConfig, OmegaConf

from regvit_lightning.errors import UserError, one_line
from regvit_lightning.values import notation, schema
from regvit_lightning.values.notation import Tree
from regvit_lightning.values.ranges import Range

SEEDS = "[0, 4294967295]"  # range of seeds: 32 bits
ENVIRONMENT = re.compile(r"\$\{oc\.env:(\w+)\}", re.ASCII)  # an environment variable, in OmegaConf's notation
# As `images` in a task's file: the task name ends in the name of a set with boxes, of videos, with keypoints, with
# masks, of salient objects, of shifted images, with classes or for retrieval; with the key of the data settings.
EVERY_SET = {
    "<set>": "discovery",
    "<video>": "videos",
    "<keypoints>": "keypoints",
    "<masks>": "masked",
    "<salient>": "salient",
    "<shifted>": "shifted",
    "<classified>": "classified",
    "<retrieval>": "retrieval",
}
OWN_MASKS = "ade20k"  # the set with masks that every data set may have, under `segmentation`

T = TypeVar("T")


def _configs() -> Path:
    """The folder of the YAML files: inside the package where a wheel was installed, beside it in a checkout."""
    package = Path(str(resources.files("regvit_lightning"))).resolve()
    carried = package / "configs"
    return carried if carried.is_dir() else package.parent / "configs"


CONFIGS = _configs()
VARIANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")  # a part of a file's name
FILES_USED: set[Path] = set()  # files whose values have entered settings of this process


class SettingsError(UserError):
    """A setting that does not exist, has the wrong type or is out of range."""


def nearest(word: str, known: Iterable[str]) -> str:
    """The names of `known` nearest to `word`, or all of them when none is near, as text for a message."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    return f"nearest: {', '.join(close)}" if close else f"known: {', '.join(known)}"


@dataclasses.dataclass(frozen=True)
class Layer:
    """Settings from one source, as written there.

    Attributes:
        origin: readable name of the source: a file such as `configs/recipes/deit3.yaml`, or a description.
        values: texts by key. References to the environment are not resolved; a file's `base` is left out.
        file: file that they were read from, or None.
    """

    origin: str
    values: Mapping[str, Tree]
    file: Path | None = None


def names(group: str) -> list[str]:
    """List the names in one group of `configs/` (`models`, `recipes`, `tasks`, `data`, `grids`).

    Variants (`deit3.mini.yaml`) belong to their base name and are not listed. A task file with
    `images: <set>` stands for one task per set with boxes: `lost.yaml` for `lost_voc07`, `lost_voc12`, …; one with
    `images: <video>`, `<keypoints>`, `<masks>`, `<salient>`, `<shifted>`, `<classified>` or `<retrieval>` for one per
    set of that kind that a file of `configs/data` lists.
    """
    return sorted(_meanings(group))


def boxed_sets() -> list[str]:
    """Names of the image sets with boxes: those that files of `configs/data` list under `discovery`."""
    return _listed_sets("discovery")


def _listed_sets(key: str) -> list[str]:
    """Names of the sets that files of `configs/data` list under `key`."""
    own = [OWN_MASKS] if key == "masked" else []
    listed = [name for file in _files("data") for name in _readable("data", file).get(key) or ()]
    return list(dict.fromkeys([*own, *listed]))


def find(group: str, name: str, variant: str = "") -> list[Path]:
    """The files behind `layers`, in the same order."""
    return [layer.file for layer in layers(group, name, variant) if layer.file is not None]


def layers(group: str, name: str, variant: str = "") -> list[Layer]:
    """The layers that make up the settings called `name`; later layers override earlier ones.

    A file may say `base: <name>` to inherit from another one of its group. Its overlay of `variant` overrides the file
    and its bases. A file without such an overlay inherits that of its nearest base that has one; the file's own values
    then override what it inherits.

    Raises:
        SettingsError: there is no such name, base or variant; cyclic bases; an unreadable file.
    """
    check(
        not variant or bool(VARIANT.fullmatch(variant)), f"variant={variant[:80]}: no name of an overlay, such as mini"
    )
    files = _inherited(group, *_meaning(group, name))
    overlaid = next((file for file, _ in files if variant and _path(group, file, variant).exists()), "")
    missing = f"configs/{group}/{files[0][0]}.{variant}.yaml; {_variants_in_words(group, files[0][0])}"
    check(not variant or bool(overlaid), f"{group.rstrip('s')} '{name}' has no variant '{variant}': {missing}")
    stack = []
    for file, boxed_set in reversed(files):
        stack += _layers_of(_path(group, file), name, boxed_set)
        if file == overlaid:
            stack += _layers_of(_path(group, file, variant), name, boxed_set)
    return stack


def _variants_in_words(group: str, file: str) -> str:
    """Words for the overlays that a file has: `there is VARIANT=mini`."""
    there = sorted(path.name.split(".")[1] for path in _path(group, file).parent.glob(f"{file}.*.yaml"))
    return "there is " + (" and ".join(f"VARIANT={name}" for name in there) or "none")


def _layers_of(path: Path, name: str, boxed_set: str) -> list[Layer]:
    """Layer of a file, and one for the set with boxes where the task name determines it."""
    values = {key: value for key, value in _content(path).items() if key != "base"}
    if not boxed_set or str(values.get("images")) not in EVERY_SET:
        return [Layer(_relative(path), values, path)]
    del values["images"]
    return [Layer(_relative(path), values, path), Layer(f"the name {name}", {"images": boxed_set})]


def _inherited(group: str, file: str, boxed_set: str) -> list[tuple[str, str]]:
    """A file and its bases, nearest first, each with its set with boxes."""
    chain = [(file, boxed_set)]
    while base := _content(_path(group, chain[-1][0])).get("base"):
        try:
            chain.append((base, chain[-1][1]) if base in _files(group) else _meaning(group, str(base)))
        except SettingsError as error:
            raise SettingsError(f"configs/{group}/{chain[-1][0]}.yaml: base: {error}") from None
        circle = " → ".join(name for name, _ in chain)
        check(len(dict(chain)) == len(chain), f"configs/{group}/{file}.yaml: base goes round in a circle: {circle}")
    return chain


def _meaning(group: str, name: str) -> tuple[str, str]:
    """The file behind a name, and the set with boxes that the name ends in, or ''."""
    meanings = _meanings(group)
    if name not in meanings and (own := _on_own_set(group, name)):
        return own
    if name not in meanings:
        raise SettingsError(f"unknown {group.rstrip('s')} '{name}'; {nearest(name, meanings)}")
    if len(meanings[name]) > 1:
        both = " or ".join(f"{file}.yaml of the set '{boxed_set}'" for file, boxed_set in meanings[name])
        raise SettingsError(f"{group.rstrip('s')} '{name}' may be {both}; give the set or the file another name")
    return meanings[name][0]


def _on_own_set(group: str, name: str) -> tuple[str, str] | None:
    """The task file and the set of a name such as `lost_cats`, whose set is in a YAML of data outside `configs/data`.

    Whether there is such a set is known where the data is: it names those that it has.
    """
    if group != "tasks":
        return None
    files = [file for file in _files(group) if name.startswith(f"{file}_") and _sets_of(file)]
    file = max(files, key=len, default="")
    return (file, name.removeprefix(f"{file}_")) if file else None


def _meanings(group: str) -> dict[str, list[tuple[str, str]]]:
    """All names of a group with the result of `_meaning`; a name that is defined twice has several."""
    meanings: dict[str, list[tuple[str, str]]] = {}
    for file in _files(group):
        on_sets = _sets_of(file) if group == "tasks" else ""
        for boxed_set in _listed_sets(on_sets) if on_sets else [""]:
            meanings.setdefault(f"{file}_{boxed_set}" if on_sets else file, []).append((file, boxed_set))
    return meanings


def _sets_of(task: str, *below: str) -> str:
    """Key of `EVERY_SET` whose sets a task's file leaves to the task name, itself or via the nearest base; or ''."""
    values = _readable("tasks", task)
    base = values.get("base")
    if "images" in values or base in (task, *below) or base not in _files("tasks"):
        return EVERY_SET.get(str(values.get("images")), "")
    return _sets_of(base, task, *below)


def _files(group: str) -> list[str]:
    """Names of the YAML files of a group, without variants."""
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml") if "." not in path.stem)


def _path(group: str, file: str, variant: str = "") -> Path:
    return CONFIGS / group / (f"{file}.{variant}.yaml" if variant else f"{file}.yaml")


def _readable(group: str, file: str) -> Mapping[str, Tree]:
    """Content of a file; empty if it is unreadable: reading the file itself raises that error."""
    try:
        return _content(_path(group, file))
    except SettingsError:
        return {}


def _content(path: Path) -> Mapping[str, Tree]:
    """Content of a YAML file as texts, cached for each version of it, because names are looked up very often."""
    try:
        return _parsed(path, path.stat().st_mtime_ns)
    except OSError as error:
        raise SettingsError(f"{path}: not readable: {one_line(error)}") from None


@cache
def _parsed(path: Path, written: int) -> Mapping[str, Tree]:
    return read_texts(path)


def merged(group: str, name: str, variant: str = "") -> dict[str, Any]:
    """Merged layers of `name`, without dataclass defaults, checks and words."""
    stack = [layer.values for layer in layers(group, name, variant)]
    return cast(dict[str, Any], notation.untyped(reduce(notation.merged, stack)))


def load_settings(
    group: str, name: str, variant: str = "", words: Sequence[str] = (), known: Sequence[str] = ()
) -> Any:
    """Load a recipe or a task: the Python module that its YAML names under `module`, and its settings.

    Args:
        group: `recipes` (files of `regvit_lightning/pretrain/`) or `tasks` (of `regvit_lightning/tasks/`).
        name, variant: see `layers`.
        words, known: `key=value` words and further keys of the command, see `build`; `module` is the YAML's alone.

    Returns:
        (module, settings); the settings are an instance of the dataclass that the module exports as `SETTINGS`.

    Raises:
        SettingsError: unknown name, variant or key, or a value of the wrong type or range.
    """
    stack = layers(group, name, variant)
    own = f"a {group.rstrip('s')} has its module from its file in configs/{group}"
    check("module" not in read_words(words), f"module is no word of a command: {own}")
    module = importlib.import_module(module_of(group, name))
    check(hasattr(module, "SETTINGS"), f"configs/{group}/{name}.yaml: {module.__name__} has no SETTINGS")
    return module, build(module.SETTINGS, stack, words, known)


def module_of(group: str, name: str) -> str:
    """Dotted name of the Python module of a recipe or a task, which its YAML names under `module`.

    Raises:
        SettingsError: unknown name, or a YAML that names no such module.
    """
    modules = [layer.values["module"] for layer in layers(group, name) if "module" in layer.values]
    check(bool(modules), f"configs/{group}/{name}.yaml: module is not set")
    package = {"recipes": "pretrain", "tasks": "tasks"}[group]
    return below(package, str(modules[-1]))


def below(package: str, name: str) -> str:
    """Dotted name of the module or package `name` below a package of the library: `lost` is in `tasks.discovery`.

    Raises:
        SettingsError: there is none, or more than one.
    """
    folder = Path(__file__).parent / package
    matches: list[Path] = []
    if re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII):
        matches = [folder / name] if (folder / name).is_dir() else sorted(folder.rglob(f"{name}.py"))
    if len(matches) != 1:
        raise SettingsError(f"module: {name}: expected the name of one file of regvit_lightning/{package}/")
    return ".".join([__package__, package, *matches[0].relative_to(folder).with_suffix("").parts])


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file without a schema, see `notation.untyped`.

    Raises:
        SettingsError: the file is not YAML, or not a mapping.
    """
    return cast(dict[str, Any], notation.untyped(read_texts(path)))


def read_texts(path: Path) -> dict[str, Tree]:
    """Read a YAML file as texts; the fields of a dataclass determine their types.

    Raises:
        SettingsError: the file is not YAML, or not a mapping.
    """
    try:
        content = notation.parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path}: not readable as YAML: {one_line(error)}") from None
    if not isinstance(content, dict):
        raise SettingsError(f"{path}: expected 'key: value' lines")
    return content


def read_words(words: Sequence[str]) -> dict[str, str]:
    """Parse `["lr=1e-3", "seed=1"]` into a mapping of texts; the dataclass that takes a key determines its type.

    Raises:
        SettingsError: a word is not of the form `key=value`, or a key is given twice.
    """
    values: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise SettingsError(f"'{word}' is not of the form key=value")
        if key in values:
            raise SettingsError(f"'{key}' is given twice: {key}={values[key]} and {word}")
        values[key] = value
    return values


def build(
    kind: type[T],
    files: Sequence[Path | Layer] = (),
    words: Sequence[str] = (),
    also_known: Sequence[str] = (),
    environment: Collection[str] = (),
) -> T:
    """Merge `files` and `key=value` `words` over the defaults of the dataclass `kind`, parsed by the fields' types.

    Args:
        kind: a dataclass; its `__post_init__` may check what no range of a field says by raising `SettingsError`.
        files: YAML files, or their layers; later ones win. A `base` key is ignored (see `layers`).
        words: `key=value`. A string is taken literally; lists and mappings are YAML (`layers=[1,4]`); `null` is
            None; a dot selects a nested setting (`probes.images=150`).
        also_known: keys of other dataclasses that the same command accepts, for the hint on a misspelt key.
        environment: keys in whose texts in a file `${oc.env:NAME}` stands for the environment variable NAME. In words
            and under every other key it is a text as it stands.

    Raises:
        SettingsError: an unknown key, a wrong type, a missing value, or a value out of range.
    """
    config = OmegaConf.structured(kind)
    for layer in [file if isinstance(file, Layer) else Layer(_relative(file), _content(file), file) for file in files]:
        texts = {key: value for key, value in layer.values.items() if key != "base"}
        FILES_USED.update([layer.file] if layer.file else [])
        given = {key: texts[key] for key in environment if isinstance(texts.get(key), str)}
        texts |= {key: _with_environment(text, layer.origin) for key, text in given.items()}
        for key, value in texts.items():
            _set(kind, config, [key], value, f"{layer.origin}: ", also_known)
    for key, text in read_words(words).items():
        _set(kind, config, key.split("."), text, "", also_known)
    try:
        return cast(T, schema.instance(config))
    except schema.NotSet as error:
        raise SettingsError(f"not set: {error} (give {error.keys[0]}=…)") from None


def _set(kind: type, config: DictConfig, path: list[str], text: Tree, where: str, also_known: Sequence[str]) -> None:
    """Set the key `path` of `config` to `text`; without `where`, it comes from a word."""
    key = ".".join(path)
    try:
        field = schema.kind_of(kind, path)
        tree = schema.read_word(text, field) if isinstance(text, str) and not where else text
        schema.update(config, kind, path, schema.typed(tree, field, f"{key}."))
    except schema.UnknownKey as error:
        raise SettingsError(
            f"{where}unknown key '{error.key}'; {nearest(error.key, [*error.known, *also_known])}"
        ) from None
    except ValueError as error:
        raise SettingsError(f"{where}{key}={notation.shown(text)}: {error}") from None


def _with_environment(text: str, origin: str) -> str:
    """Replace `${oc.env:NAME}` in a text from `origin` by the values of environment variables."""

    def value(match: re.Match[str]) -> str:
        name = match[1]
        check(name in os.environ, f"{origin}: {name} is not set (give {name}=<folder>)")
        return os.environ[name]

    return ENVIRONMENT.sub(value, text)


def resolved(settings: object) -> dict[str, Any]:
    """The settings as plain JSON-serialisable values, as stored in a record."""
    return dataclasses.asdict(cast(Any, settings))


def from_resolved(kind: type[T], values: T | Mapping[str, Any]) -> T:
    """Rebuild settings from the output of `resolved`, as checkpoints store it; an instance of `kind` is returned as is.

    Raises:
        SettingsError: an unknown key, a wrong type, a missing value, or a value out of range.
    """
    if isinstance(values, kind):
        return values
    return build(kind, [Layer(f"not settings of {kind.__name__}", cast(Mapping[str, Any], values))])


def setting(help: str, default: Any = MISSING, reader: Callable[[str], Any] | None = None, within: str = "") -> Any:
    """A dataclass field with the line that `--help` prints for it; without `default` it is required.

    Args:
        reader: parses the texts of the field, where its type is not enough; raises `ValueError`.
        within: range of a number, see `number`.
    """
    rules = {"reader": reader, "range": Range(within) if within else None}
    return _field(default, {"help": help, **{key: rule for key, rule in rules.items() if rule}})


def number(within: str, default: Any = MISSING, pair: bool = False) -> Any:
    """A dataclass field of a number, or of a list or mapping of numbers, that `build` accepts in a range alone.

    Args:
        within: finite interval such as `(0, 1]`, see `ranges.Range`.
        default: its value where none is given; without it the field is required.
        pair: it is a list of two numbers, the smaller one first.
    """
    return _field(default, {"range": Range(within, pair)})


def _field(default: Any, metadata: Mapping[str, Any]) -> Any:
    if isinstance(default, list | dict):
        return dataclasses.field(default_factory=lambda: copy.copy(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def check(condition: bool, message: str) -> None:
    """Raise `SettingsError(message)` unless `condition`: for checks of several fields in `__post_init__`."""
    if not condition:
        raise SettingsError(message)


def word(value: Any) -> str:
    """Format a value as the text after `key=`."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _relative(path: Path) -> str:
    return str(path.relative_to(CONFIGS.parent)) if path.is_relative_to(CONFIGS.parent) else str(path)
