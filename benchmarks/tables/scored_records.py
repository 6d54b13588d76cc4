"""Records of one data set with per-image scores, read from a results folder or a git commit."""

import io
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.tables.record_checks import fault
from regvit_lightning import records, statistics
from regvit_lightning.data import annotated, layout
from regvit_lightning.data.annotated import Annotated
from regvit_lightning.errors import UserError, one_line
from regvit_lightning.invocation import invocation
from regvit_lightning.records import Record
from regvit_lightning.runtime import git
from regvit_lightning.statistics import Scores


@dataclass(frozen=True)
class ScoredRecord:
    """A record, and its per-image scores by metric, if any.

    Attributes:
        file: path of the record, in a folder or in a commit.
    """

    record: Record
    scores: Mapping[str, Scores]
    file: Path = Path()


@dataclass(frozen=True)
class ScoredRecords:
    """All usable records of one data set.

    Attributes:
        name: display name of the folder or revision that they come from.
        cells: records in the order of their files.
        skipped: one line for each unused file, with the reason.
        known: classes and properties of the test images, by name of the data set.
    """

    name: str
    cells: list[ScoredRecord]
    skipped: list[str]
    known: Mapping[str, Annotated] = field(default_factory=dict)

    @property
    def records(self) -> list[Record]:
        """All records without their scores."""
        return [cell.record for cell in self.cells]


def data_name(data: str) -> str:
    """Name of data given by its name, by its YAML file or, with a slash, by the folder of its images.

    Raises:
        UserError: it is empty, or names no folder below the results; or a YAML file that is missing or unreadable.
    """
    if data.endswith(layout.SUFFIXES):
        return layout.resolve(data, root_needed=False).name
    name = Path(data).resolve().name if "/" in data else data
    if name.strip() in ("", ".", ".."):
        raise UserError(f"data '{data}': expected a name such as mini, or the folder of the images with a /")
    return name


def read_scored_records(results: Path, data: str, source: str = "", required: bool = True) -> ScoredRecords:
    """Read the records of one data set, and what is known of its images; of a revision that of the folder `results`.

    Args:
        results: folder of the results.
        data: name of the data.
        source: another results folder, or a checkout that contains `results`; or a revision of the repository that
            contains `results`; empty for `results` itself.
        required: at least one record must be there.

    Raises:
        UserError: the folder or revision does not exist, or has no record.
    """
    folder = Path(source) if source else results
    advice = f"make some with: {invocation('eval', {'DATA': data})} …"
    if folder.is_dir():
        inside = folder if (folder / data / "cells").is_dir() else folder / results.name
        below = inside / data / "cells"
        files, unreadable = _in_folder(below)
        read = parse_files(files, data, str(folder), below)
        read.skipped.extend(unreadable)
    elif source:
        read = parse_files(_in_commit(results, data, source), data, source, Path(results.name) / data / "cells")
    else:
        raise UserError(f"no folder {folder}: no record in {results / data / 'cells'}; {advice}")
    known, unread = annotated.read_folder(annotated.path(results, data, "").parent)
    read.skipped.extend(unread)
    if required and not read.cells:
        hint = f" ({'; '.join(read.skipped)})" if read.skipped else ""
        where = f"{results / data / 'cells'}{f' of {source}' if source else ''}"
        raise UserError(f"no record in {where}{hint}; {advice}")
    return replace(read, known=known)


def parse_files(files: Mapping[str, bytes], data: str, name: str, folder: Path) -> ScoredRecords:
    """Parse `files` and select the usable records.

    Args:
        files: contents by path relative to the folder of the cells, with slashes.
        data: name of the data.
        name: display name of the files' source.
        folder: folder of the cells, for messages.
    """
    cells, skipped = [], []
    for path in sorted(path for path in files if path.endswith(".json")):
        try:
            record = records.parse(files[path], str(folder / path))
            if wrong := fault(record, data, path):
                raise UserError(f"{folder / path}: {wrong}; {records.AGAIN}")
        except UserError as error:
            skipped.append(str(error))
            continue
        try:
            scores = _scores(record, files.get(str(records.scores_path(Path(path)))), str(folder / path))
        except UserError as error:
            scores = {}
            skipped.append(str(error))
        cells.append(ScoredRecord(record, scores, folder / path))
    return ScoredRecords(name, cells, skipped)


def _scores(record: Record, content: bytes | None, where: str) -> dict[str, Scores]:
    if not record.scores:
        return {}
    if content is None or statistics.digest(content) != record.scores["digest"]:
        state = "are missing" if content is None else "are not those of the record"
        raise UserError(f"{where}: the scores of its images, {record.scores['file']}, {state}; {records.AGAIN}")
    return statistics.unpack(content, record.scores["file"])


def _in_folder(cells: Path) -> tuple[dict[str, bytes], list[str]]:
    """Contents of a folder's files by path, and one line for each unreadable file."""
    contents, unreadable = {}, []
    for file in sorted(file for file in cells.rglob("*") if _is_wanted(file.name)):
        try:
            contents[file.relative_to(cells).as_posix()] = file.read_bytes()
        except OSError as error:
            unreadable.append(f"{file}: not readable ({one_line(error)}); {records.AGAIN}")
    return contents, unreadable


def _in_commit(results: Path, data: str, revision: str) -> dict[str, bytes]:
    """Contents of a commit's files, without a checkout."""
    folder = results.resolve().parent
    commit = git.output(folder, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    if not commit:
        raise UserError(f"{revision}: neither a folder nor a revision of git in {folder}")
    below = f"{results.name}/{data}/cells/"
    listed = git.output(folder, "ls-tree", "-r", "-z", commit.decode().strip(), "--", below).decode()
    entries = [entry.split("\t", 1) for entry in listed.split("\0") if entry]
    blobs = {path.removeprefix(below): facts.split()[2] for facts, path in entries if _is_wanted(path)}
    return dict(zip(blobs, _blobs(folder, list(blobs.values())), strict=True))


def _is_wanted(path: str) -> bool:
    return path.endswith((".json", statistics.SUFFIX))


def _blobs(folder: Path, names: list[str]) -> list[bytes]:
    """Contents of git objects, read by a single process."""
    answer = io.BytesIO(
        git.output(folder, "cat-file", "--batch", given="".join(f"{name}\n" for name in names).encode())
    )
    contents = []
    for _ in names:
        size = int(answer.readline().split()[2])  # <name> blob <size>
        contents.append(answer.read(size))
        answer.readline()
    return contents
