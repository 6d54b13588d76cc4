"""Settings: dataclasses filled from the YAML files of `configs/` and from `key=value` words.

Files are merged left to right, then the words. Types are checked by OmegaConf; an unknown key is an error that names
its nearest neighbours. This module imports nothing heavy, so that `--help` answers at once.
"""

import dataclasses
import difflib
import importlib
import re
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, cast

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from regvit_lightning.errors import UserError, one_line

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


def read_yaml(path: Path) -> DictConfig:
    """One YAML file with string keys.

    Raises:
        SettingsError: the file is not YAML, or not a mapping.
    """
    try:
        content = OmegaConf.load(path)
    except Exception as error:  # PyYAML and OmegaConf raise unrelated classes
        raise SettingsError(f"{path}: not readable as YAML: {one_line(error)}") from None
    if not isinstance(content, DictConfig):
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


def build(schema: type[T], files: Sequence[Path] = (), words: Sequence[str] = (), also_known: Sequence[str] = ()) -> T:
    """Merge `files` and `key=value` `words` over the defaults of the dataclass `schema` and check every type.

    Args:
        schema: a dataclass; its `__post_init__` may check ranges by raising `SettingsError`.
        files: YAML files, later ones win. A `base` key is left out (see `find`).
        words: `key=value`, the value in YAML's own notation (`lr=1e-3`, `layers=[1,4]`, `name=null`).
        also_known: keys of other schemas that the same command takes, for the hint on a misspelt key.

    Raises:
        SettingsError: an unknown key, a wrong type, a missing value, or a value out of range.
    """
    known = [field.name for field in dataclasses.fields(cast(Any, schema))]
    merged = OmegaConf.structured(schema)
    sources = [(_relative(path), _unresolved(read_yaml(path))) for path in files]
    sources.append(("", {key: _value(key, text) for key, text in read_words(words).items()}))
    for source, values in sources:
        for key, value in values.items():
            where = f"{source}: " if source else ""
            if key == "base" and source:
                continue
            if key not in known:
                raise SettingsError(f"{where}unknown key '{key}'; {nearest(str(key), [*known, *also_known])}")
            try:
                nested = dataclasses.is_dataclass(OmegaConf.get_type(merged, key))
                OmegaConf.update(merged, key, value, merge=nested)
            except OmegaConfBaseException as error:
                raise SettingsError(f"{where}{key}={value}: {one_line(error)}") from None
    try:
        missing = [key for key in known if OmegaConf.is_missing(merged, key)]
        if missing:
            raise SettingsError(f"not set: {', '.join(missing)} (give {missing[0]}=…)")
        return cast(T, OmegaConf.to_object(merged))
    except InterpolationResolutionError as error:  # ${oc.env:DATA_ROOT} in configs/data/full.yaml
        variable = re.search(r"Environment variable '(\w+)' not found", str(error))
        reason = f"{variable[1]} is not set (give {variable[1]}=<folder>)" if variable else one_line(error)
        raise SettingsError(f"{', '.join(source for source, _ in sources if source)}: {reason}") from None


def resolved(settings: object) -> dict[str, Any]:
    """The settings as plain JSON-ready values, as they go into a record."""
    return cast(dict[str, Any], OmegaConf.to_container(OmegaConf.structured(settings), resolve=True))


def setting(help: str, default: Any = MISSING) -> Any:
    """A dataclass field with the line that `--help` prints for it; without `default` it must be given."""
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata={"help": help})
    return dataclasses.field(default=default, metadata={"help": help})


def check(condition: bool, message: str) -> None:
    """Raise `SettingsError(message)` unless `condition`: for range checks in `__post_init__`."""
    if not condition:
        raise SettingsError(message)


def _unresolved(content: DictConfig) -> dict[str, Any]:
    return cast(dict[str, Any], OmegaConf.to_container(content, resolve=False))


def _value(key: str, text: str) -> Any:
    # OmegaConf's own reading of a scalar, a list or null in YAML notation.
    try:
        return cast(DictConfig, OmegaConf.create(f"value: {text}" if text else "value: ''"))["value"]
    except Exception:
        raise SettingsError(f"{key}={text}: not readable as a YAML value") from None


def _relative(path: Path) -> str:
    return str(path.relative_to(CONFIGS.parent)) if path.is_relative_to(CONFIGS.parent) else str(path)
