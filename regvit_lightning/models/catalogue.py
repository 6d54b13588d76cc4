"""Released backbones by name: `configs/released.yaml` with family, size, registers, training data, licence and pair."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from regvit_lightning import settings
from regvit_lightning.models import origins
from regvit_lightning.settings import check

FILE = settings.CONFIGS / "released.yaml"
SHAPE = ("size", "registers", "patch", "image_size")  # the order of `is` in the file
OBJECTIVES = ("labels", "images", "captions", "distilled")
UNCERTAIN = "see its page"  # a licence or data that is not stated where we looked


@dataclass(frozen=True)
class Entry:
    """One released backbone.

    Attributes:
        name: as accepted by `make eval`.
        family: what it is called.
        objective: what it was trained by, one of `OBJECTIVES`.
        data: training images, or `UNCERTAIN`.
        licence: of the weights, as timm records it, or `UNCERTAIN`.
        source: paper or repository.
        size: name of the size within the family.
        registers: tokens beside CLS and patches.
        patch, image_size: in pixels.
        has_cls: whether it has a CLS.
        pair: name of the same family and size with fewer registers, empty without one.
        differs: what else differs from the pair.
    """

    name: str
    family: str
    objective: str
    data: str
    licence: str
    source: str
    size: str
    registers: int
    patch: int
    image_size: int
    has_cls: bool = True
    pair: str = ""
    differs: str = ""

    @property
    def record_id(self) -> str:
        """Id of the model in records."""
        return origins.record_id(self.name)


@cache
def entries() -> tuple[Entry, ...]:
    """All released backbones, in the order of the file.

    Raises:
        SettingsError: an entry lacks a fact or has an unknown one, or its pair is not what a pair is.
    """
    read = tuple(_read(settings.read_yaml(FILE)["families"]))
    by_name = {entry.name: entry for entry in read}
    check(len(by_name) == len(read), f"{FILE.name}: a model stands there twice")
    for entry in read:
        _check_pair(entry, by_name.get(entry.pair))
    return read


@cache
def by_record_id() -> dict[str, Entry]:
    """All released backbones by their id in records."""
    return {entry.record_id: entry for entry in entries()}


def not_by_name() -> dict[str, str]:
    """What people compare, too, and the reason why no entry names it."""
    return dict(settings.read_yaml(FILE)["not_by_name"])


def _read(families: dict[str, Any]) -> Iterator[Entry]:
    for family, facts in families.items():
        models = facts.pop("models")
        for name, own in models.items():
            where = f"{FILE.name}: {name}"
            shape, no_cls = own.pop("is", ()), own.pop("no_cls", False)
            check(len(shape) == len(SHAPE), f"{where}: is: {list(shape)}: expected {', '.join(SHAPE)}")
            known = {**facts, **own, **dict(zip(SHAPE, shape, strict=True)), "has_cls": not no_cls}
            try:
                entry = Entry(name=name, family=family, **known)
            except TypeError as error:
                raise settings.SettingsError(f"{where}: {error}") from None
            check(entry.objective in OBJECTIVES, f"{where}: objective={entry.objective}: expected one of {OBJECTIVES}")
            yield replace(entry, size=str(entry.size))


def _check_pair(entry: Entry, pair: Entry | None) -> None:
    """Raise `SettingsError` unless the pair of an entry is of the same family, size and data with fewer registers."""
    where = f"{FILE.name}: {entry.name}: pair {entry.pair}"
    check(bool(entry.pair) or not entry.differs, f"{FILE.name}: {entry.name}: differs without a pair")
    if entry.pair:
        check(pair is not None, f"{where} is no entry")
        same = ("family", "size", "patch", "data", "has_cls")
        assert pair is not None, "checked above"
        different = [key for key in same if getattr(pair, key) != getattr(entry, key)]
        check(not different, f"{where} differs in {', '.join(different)}")
        check(pair.registers < entry.registers, f"{where} has {pair.registers} registers: expected fewer")
