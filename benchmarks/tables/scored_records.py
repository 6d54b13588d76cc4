"""Cells as they are kept: records with the scores of single images, in a folder of results or in a commit of git."""

import io
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from regvit_lightning import records, statistics
from regvit_lightning.errors import UserError
from regvit_lightning.records import Record
from regvit_lightning.statistics import Scores


@dataclass(frozen=True)
class ScoredRecord:
    """A record, and scores of single images by metric where it has some."""

    record: Record
    scores: Mapping[str, Scores]


@dataclass(frozen=True)
class ScoredRecords:
    """What is kept of one data set.

    Attributes:
        name: of the place, for a person.
        cells: in the order of their files.
        skipped: a line for each file that is not used, and why.
    """

    name: str
    cells: list[ScoredRecord]
    skipped: list[str]

    @property
    def records(self) -> list[Record]:
        """Of all cells."""
        return [cell.record for cell in self.cells]


def read_scored_records(results: Path, data: str, place: str = "") -> ScoredRecords:
    """Cells of one data set.

    Args:
        results: folder of the results.
        data: name of the data.
        place: another folder of results, or of a checkout that has `results`; or a revision of the repository that
            `results` lies in; empty for `results` itself.

    Raises:
        UserError: there is no such folder or revision, or nothing in it.
    """
    folder = Path(place) if place else results
    if folder.is_dir():
        inside = folder if (folder / data / "cells").is_dir() else folder / results.name
        kept = _read(_in_folder(inside / data / "cells"), str(folder))
    elif place:
        kept = _read(_in_commit(results, data, place), place)
    else:
        raise UserError(f"no folder {folder}; make some records with: make eval DATA={data} …")
    if not kept.cells:
        hint = f" ({'; '.join(kept.skipped)})" if kept.skipped else ""
        where = f"{results / data / 'cells'}{f' of {place}' if place else ''}"
        raise UserError(f"no record in {where}{hint}; make some with: make eval DATA={data} …")
    return kept


def _read(files: Mapping[str, bytes], name: str) -> ScoredRecords:
    """Records among `files`, by path below the folder of the cells."""
    cells, skipped = [], []
    for path in sorted(files):
        if not path.endswith(".json"):
            continue
        try:
            record = records.parse(files[path], path)
        except UserError as error:
            skipped.append(str(error))
            continue
        try:
            found = _scores(record, files.get(str(records.scores_path(Path(path)))), path)
        except UserError as error:
            found = {}
            skipped.append(str(error))
        cells.append(ScoredRecord(record, found))
    return ScoredRecords(name, cells, skipped)


def _scores(record: Record, content: bytes | None, path: str) -> dict[str, Scores]:
    if not record.scores:
        return {}
    if content is None or statistics.digest(content) != record.scores["digest"]:
        what = "are missing" if content is None else "are not those of the record"
        raise UserError(f"{path}: the scores of its images, {record.scores['file']}, {what}; {records.AGAIN}")
    return statistics.unpack(content, record.scores["file"])


def _in_folder(cells: Path) -> dict[str, bytes]:
    files = [file for pattern in ("*/*.json", f"*/*{statistics.SUFFIX}") for file in cells.glob(pattern)]
    return {file.relative_to(cells).as_posix(): file.read_bytes() for file in files}


def _in_commit(results: Path, data: str, revision: str) -> dict[str, bytes]:
    """The same from a commit, without a checkout."""
    folder = results.resolve().parent
    commit = _git(folder, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    if not commit:
        raise UserError(f"{revision}: neither a folder nor a revision of git in {folder}")
    below = f"{results.name}/{data}/cells/"
    listed = _git(folder, "ls-tree", "-r", "-z", commit.decode().strip(), "--", below).decode()
    entries = [entry.split("\t", 1) for entry in listed.split("\0") if entry]
    blobs = {path.removeprefix(below): facts.split()[2] for facts, path in entries if _wanted(path)}
    return dict(zip(blobs, _blobs(folder, list(blobs.values())), strict=True))


def _wanted(path: str) -> bool:
    return path.endswith((".json", statistics.SUFFIX))


def _blobs(folder: Path, names: list[str]) -> list[bytes]:
    """Contents of git's objects: one process for all of them."""
    answer = io.BytesIO(_git(folder, "cat-file", "--batch", given="".join(f"{name}\n" for name in names).encode()))
    contents = []
    for _ in names:
        size = int(answer.readline().split()[2])  # <name> blob <size>
        contents.append(answer.read(size))
        answer.readline()
    return contents


def _git(folder: Path, *arguments: str, given: bytes = b"") -> bytes:
    """Output of git, empty where it fails."""
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, input=given, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return b""
    return done.stdout
