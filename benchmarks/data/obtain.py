"""Obtain data sets: downloads or locates the files of `configs/downloads`, checks, unpacks and counts them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.data import archives, download, git_trees, photos, prepare
from benchmarks.data.shown import Shown
from regvit_lightning import settings
from regvit_lightning.data.layout import DataError, DataSettings
from regvit_lightning.errors import UserError
from regvit_lightning.settings import SettingsError, check

PREPARE = {
    function.__name__: function
    for function in (prepare.imagenet_train, prepare.imagenet_val, prepare.nyu_test, photos.photos)
}


@dataclass
class File:
    """One file of a data set.

    Attributes:
        name: file name.
        urls: download URLs in order of preference; empty if it must be downloaded by hand.
        get: where to download it by hand, for a file without `urls`.
        bytes, md5, sha256: published size and checksums, see `download.ExpectedFile`.
        keep: folder below the data's root that takes the file as is; empty for an archive.
        into: folder below the root into which the archive is unpacked; empty leaves that to `prepare`.
        only, strip: see `archives.unpack`.
        trees: of a git archive, its folders that are used and git's hash of each: every file in them is checked.
        source, licence: whose it is and under which terms, printed before it is fetched; empty where README says it.
    """

    name: str = settings.MISSING
    urls: list[str] = field(default_factory=list)
    get: str = ""
    bytes: int = settings.number("[0, 1e15]", 0)
    md5: str = ""
    sha256: str = ""
    keep: str = ""
    into: str = ""
    only: str = ""
    strip: str = ""
    trees: dict[str, str] = field(default_factory=dict)
    source: str = ""
    licence: str = ""


@dataclass
class DataSource:
    """Instructions to obtain one data set; a YAML file of `configs/downloads/` each.

    Attributes:
        files: source files.
        prepare: function of `prepare.py` that builds it, or empty.
        checks: names of the counts checked at the end (`benchmarks.data.checks`).
        data: file of `configs/data/` that states those counts.
    """

    files: list[File] = field(default_factory=list)
    prepare: str = ""
    checks: list[str] = field(default_factory=list)
    data: str = "full"

    def __post_init__(self) -> None:
        known = ", ".join(PREPARE)
        check(self.prepare in ("", *PREPARE), f"prepare={self.prepare}: expected one of {known}")


Checks = dict[str, Callable[[DataSettings], int]]


def read_data_source(name: str) -> DataSource:
    """Read `configs/downloads/<name>.yaml`."""
    return settings.build(DataSource, settings.find("downloads", name))


def obtain(names: Sequence[str], data: DataSettings, folder: Path, checks: Checks) -> None:
    """Obtain the data sets `names` of `configs/downloads`, or all of them; a failure does not stop the others.

    Args:
        data: layout and counts that they must match.
        folder: folder of the archives, existing and downloaded.
        checks: functions that count the images of a data set.

    Raises:
        UserError: some could not be obtained; the message lists which and why.
    """
    known = settings.names("downloads")
    unknown = [name for name in names if name not in (*known, "all")]
    if unknown:
        raise SettingsError(f"get={unknown[0]}: {settings.nearest(unknown[0], known)}, or all")
    failures = []
    for name in _all_of(data, known) if "all" in names else names:
        try:
            obtain_one(name, read_data_source(name), data, folder, checks)
        except UserError as error:
            failures.append(f"{name}: {error}")
    if failures:
        raise UserError("not got\n  " + "\n  ".join(failures))


def _all_of(data: DataSettings, known: Sequence[str]) -> list[str]:
    """The data sets of one collection; of one that `configs/downloads` does not name, those of `full`."""
    mine = {name: read_data_source(name).data for name in known}
    wanted = data.name if data.name in mine.values() else "full"
    return [name for name, collection in mine.items() if collection == wanted]


def obtain_one(name: str, recipe: DataSource, data: DataSettings, folder: Path, checks: Checks) -> None:
    """Obtain one data set unless it is present; an interrupted attempt is resumed.

    Raises:
        DataError: an archive that must be downloaded by hand is missing, a download fails, a file differs from the
            published one, or the final count is wrong.
        SettingsError: the expected number of images of `data` is unknown.
    """
    uncounted = [check for check in recipe.checks if check.split()[0] not in data.counts]
    check(not uncounted, f"data '{data.name}' does not say how many images it has: get it with data={recipe.data}")
    if _is_whole(recipe, data, checks):
        print(f"data: {name} in {data.root} is whole already")
        return
    root = Path(data.root)
    files = {file.name: (root / file.keep if file.keep else folder) / file.name for file in recipe.files}
    for file in recipe.files:
        if file.source:
            print(f"data: {file.name}: {file.source}; licence: {file.licence}")
    _ask_for_missing(recipe, files)
    for file in recipe.files:
        _provide(file, files[file.name])
    for file in recipe.files:
        if file.into:
            with Shown(f"unpacking {file.name}", "files") as show:
                archives.unpack(files[file.name], root / file.into, file.only, file.strip, show)
    if recipe.prepare:
        with Shown(f"preparing {name}", "files") as show:
            PREPARE[recipe.prepare](files, root, show)
    counted = [f"{checks[one](data):,} images ({one})" for one in recipe.checks]
    print(f"data: {name} in {root} is whole: {', '.join(counted)}")
    kept = [str(files[file.name]) for file in recipe.files if not file.keep]
    if kept:
        print(f"data: no longer needed: {', '.join(kept)}")


def _is_whole(recipe: DataSource, data: DataSettings, checks: Checks) -> bool:
    try:
        return all(checks[one](data) for one in recipe.checks)
    except DataError:
        return False


def _ask_for_missing(recipe: DataSource, files: dict[str, Path]) -> None:
    absent = [file for file in recipe.files if not file.urls and not files[file.name].exists()]
    if absent:
        wanted = "; ".join(f"{files[file.name]} (from {file.get})" for file in absent)
        raise DataError(f"fetch by hand, or say archives=<folder> where it is, and give the command again: {wanted}")


def _provide(file: File, target: Path) -> None:
    """Download the file unless it exists; either way verify that it is the published one."""
    expected = download.ExpectedFile(file.bytes, file.md5, file.sha256, checked_inside=bool(file.trees))
    shown = [Shown(f"{doing}{file.name}", "MB", 1_000_000) for doing in ("", "checking ")]
    with shown[0] as show, shown[1] as check_shown:
        if not target.exists():
            download.fetch(file.urls, target, expected, show, check_shown)
        elif fault := expected.fault(target, check_shown):
            raise DataError(f"{target}: {fault}; remove it and give the command again")
    if file.trees:
        with Shown(f"checking {file.name}", "files") as show:
            git_trees.check(target, file.trees, show)
