"""Settings: dataclasses filled from the YAML files of `configs/` and from `key=value` words.

Files are merged left to right, then the words. Values are read by the type of the field that takes them (`notation`,
`schema`); an unknown key is an error that names its nearest neighbours. This module imports nothing heavy, so that
`--help` answers at once.
"""

import dataclasses
import difflib
import importlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, cast

from regvit_lightning.errors import UserError, one_line
from regvit_lightning.values import notation, schema
from regvit_lightning.values.notation import Tree
from regvit_lightning.values.schema import MISSING

T = TypeVar("T")


def _configs() -> Path:
    """The folder of the YAML files: inside the package where a wheel was installed, beside it in a checkout."""
    package = Path(str(resources.files("regvit_lightning"))).resolve()
    carried = package / "configs"
    return carried if carried.is_dir() else package.parent / "configs"


CONFIGS = _configs()


class SettingsError(UserError):
    """A setting that does not exist, has the wrong type or is out of range."""


def nearest(word: str, known: Iterable[str]) -> str:
    """The names of `known` nearest to `word`, or all of them when none is near, as text for a message."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    return f"nearest: {', '.join(close)}" if close else f"known: {', '.join(known)}"


def names(group: str) -> list[str]:
    """Names of the YAML files of one group of `configs/` (`models`, `recipes`, `tasks`, `data`, `grids`).

    Variants (`deit3.mini.yaml`) belong to their base name and are not listed.
    """
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml") if "." not in path.stem)


def find(group: str, name: str, variant: str = "") -> list[Path]:
    """The files that make up `name`: what it is based on, itself, and the overlay of `variant`.

    A file may say `base: <name>` to be merged over another file of its group.

    Raises:
        SettingsError: there is no such file, or no such variant of it.
    """
    path = CONFIGS / group / f"{name}.yaml"
    if name not in names(group):
        raise SettingsError(f"unknown {group.rstrip('s')} '{name}'; {nearest(name, names(group))}")
    base = read_yaml(path).get("base")
    files = [*(find(group, base) if base else []), path]
    if variant:
        overlay = CONFIGS / group / f"{name}.{variant}.yaml"
        if not overlay.exists():
            raise SettingsError(
                f"{group.rstrip('s')} '{name}' has no variant '{variant}': configs/{group}/{overlay.name}"
            )
        files.append(overlay)
    return files


def load_settings(
    group: str, name: str, variant: str = "", words: Sequence[str] = (), known: Sequence[str] = ()
) -> Any:
    """A recipe or a task: the Python file that its YAML names under `module`, and its settings.

    Args:
        group: `recipes` (files of `regvit_lightning/pretrain/`) or `tasks` (of `regvit_lightning/tasks/`).
        name, variant: see `find`.
        words, known: `key=value` words and further keys of the command, see `build`.

    Returns:
        (module, settings), the settings an instance of the dataclass that the module names `SETTINGS`.

    Raises:
        SettingsError: unknown name, variant or key, or a value of the wrong type or range.
    """
    files = find(group, name, variant)
    file = next(str(read["module"]) for read in map(read_yaml, files) if "module" in read)
    package = {"recipes": "pretrain", "tasks": "tasks"}[group]
    module = importlib.import_module(f"regvit_lightning.{package}.{_below(package, file)}")
    return module, build(module.SETTINGS, files, words, known)


def _below(package: str, name: str) -> str:
    """Dotted path of the file or folder `name` below a folder of the library: `lost` is `discovery.lost`."""
    folder = Path(__file__).parent / package
    found = [folder / name] if (folder / name).is_dir() else sorted(folder.rglob(f"{name}.py"))
    if len(found) != 1:
        raise SettingsError(f"module: {name}: expected the name of one file of regvit_lightning/{package}/")
    return ".".join(found[0].relative_to(folder).with_suffix("").parts)


def read_yaml(path: Path) -> dict[str, Any]:
    """One YAML file whose types nobody knows, see `notation.untyped`.

    Raises:
        SettingsError: the file is not YAML, or not a mapping.
    """
    return cast(dict[str, Any], notation.untyped(read_texts(path)))


def read_texts(path: Path) -> dict[str, Tree]:
    """One YAML file as texts, which the fields of a dataclass give their types.

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
    """`["lr=1e-3", "seed=1"]` as a mapping of texts; typed later by the dataclass that takes the key.

    Raises:
        SettingsError: a word is not of the form `key=value`, or a key comes twice.
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
    files: Sequence[Path] = (),
    words: Sequence[str] = (),
    also_known: Sequence[str] = (),
    environment: bool = False,
) -> T:
    """Merge `files` and `key=value` `words` over the defaults of the dataclass `kind`, each value by its field's type.

    Args:
        kind: a dataclass; its `__post_init__` may check ranges by raising `SettingsError`.
        files: YAML files, later ones win. A `base` key is left out (see `find`).
        words: `key=value`. A text is taken as it stands; lists and mappings are YAML's (`layers=[1,4]`); `null` is
            None; a dot leads into nested settings (`probes.images=150`).
        also_known: keys of other dataclasses that the same command takes, for the hint on a misspelt key.
        environment: `${oc.env:NAME}` in a file stands for the environment variable NAME.

    Raises:
        SettingsError: an unknown key, a wrong type, a missing value, or a value out of range.
    """
    values: dict[str, Any] = {}
    for file in files:
        texts = {key: value for key, value in read_texts(file).items() if key != "base"}
        for key, value in (_with_environment(texts, file) if environment else texts).items():
            values = _set(kind, values, [key], value, f"{_relative(file)}: ", also_known)
    for key, text in read_words(words).items():
        values = _set(kind, values, key.split("."), text, "", also_known)
    try:
        return cast(T, schema.instance(kind, values))
    except schema.NotSet as error:
        raise SettingsError(f"not set: {error} (give {error.keys[0]}=…)") from None


def _set(
    kind: type, values: dict[str, Any], path: list[str], text: Tree, where: str, also_known: Sequence[str]
) -> dict[str, Any]:
    """`values` with what `text` says of the key `path`; a text for a list or a mapping is a word, in flow notation."""
    key = ".".join(path)
    try:
        field = schema.kind_of(kind, path)
        tree = schema.read_word(text, field) if isinstance(text, str) and not where else text
        return cast(dict[str, Any], schema.assigned(kind, values, path, schema.typed(tree, field, f"{key}.")))
    except schema.UnknownKey as error:
        raise SettingsError(
            f"{where}unknown key '{error.key}'; {nearest(error.key, [*error.known, *also_known])}"
        ) from None
    except ValueError as error:
        raise SettingsError(f"{where}{key}={notation.shown(text)}: {error}") from None


def _with_environment(tree: Tree, file: Path) -> Tree:
    """The tree with the values of environment variables for `${oc.env:NAME}`."""
    if isinstance(tree, Mapping):
        return {key: _with_environment(value, file) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_with_environment(value, file) for value in tree]
    for name in re.findall(r"\$\{oc\.env:(\w+)\}", tree):
        if name not in os.environ:
            raise SettingsError(f"{_relative(file)}: {name} is not set (give {name}=<folder>)")
        tree = tree.replace(f"${{oc.env:{name}}}", os.environ[name])
    return tree


def resolved(settings: object) -> dict[str, Any]:
    """The settings as plain JSON-ready values, as they go into a record."""
    return cast(dict[str, Any], schema.plain(settings))


def setting(help: str, default: Any = MISSING) -> Any:
    """A dataclass field with the line that `--help` prints for it; without `default` it must be given."""
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata={"help": help})
    return dataclasses.field(default=default, metadata={"help": help})


def check(condition: bool, message: str) -> None:
    """Raise `SettingsError(message)` unless `condition`: for range checks in `__post_init__`."""
    if not condition:
        raise SettingsError(message)


def _relative(path: Path) -> str:
    return str(path.relative_to(CONFIGS.parent)) if path.is_relative_to(CONFIGS.parent) else str(path)
