"""Safe extraction of untrusted tar and zip archives: only plain files, only below the folder, bounded in size.

An archive is scanned before anything is written; a single unsafe member rejects the whole archive.
"""

import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from regvit_lightning.data.layout import DataError
from regvit_lightning.data.tar_headers import BoundedHeader
from regvit_lightning.errors import UserError, one_line
from regvit_lightning.runtime import atomic

MOST_MEMBERS = 3_000_000
MOST_EXPANSION = 100  # bytes unpacked per byte of the archive; images have 1, JSON about 5

UNREADABLE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError)

Show = Callable[[int, int], None]


@dataclass(frozen=True)
class Member:
    """A plain file in an archive.

    Attributes:
        path: relative path, without `..`.
        size: size in bytes.
        open: opens it for reading.
        executable: its owner may execute it.
    """

    path: PurePosixPath
    size: int
    open: Callable[[], IO[bytes]]
    executable: bool = False


@contextmanager
def opened(archive: Path) -> Iterator[list[Member]]:
    """Open a tar, compressed or not, or a zip, and list its plain files.

    Raises:
        DataError: the archive is unreadable or truncated; or it contains a link, a device, an absolute path, a path
            with `..`, or far more bytes than its own size explains.
    """
    with _reading(archive):
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as pack:
                yield _checked(_zip_members(pack, archive), archive, archive.stat().st_size)
        else:
            with tarfile.open(archive, "r:*", tarinfo=BoundedHeader) as tar:
                yield _checked(_tar_members(tar, archive), archive, archive.stat().st_size)


@contextmanager
def opened_inside(archive: Path, member: Member) -> Iterator[list[Member]]:
    """Open a tar that is itself a member of `archive`, see `opened`."""
    name = archive / member.path
    with _reading(name), member.open() as file, tarfile.open(fileobj=file, mode="r:", tarinfo=BoundedHeader) as tar:
        yield _checked(_tar_members(tar, name), name, member.size)


def unpack(archive: Path, folder: Path, only: str = "", strip: str = "", show: Show = lambda *_: None) -> None:
    """Extract `archive` into `folder`; files that already exist with the right size are skipped.

    Args:
        only: pattern of the members to extract; empty for all.
        strip: leading folder to remove from the members' paths where present.
        show: called with the number of files written so far, and of all.

    Raises:
        DataError: see `opened`.
        UserError: the folder cannot be written, or the disk is full.
    """
    with opened(archive) as members:
        wanted = [member for member in members if not only or fnmatch(str(member.path), only)]
        if not wanted:
            raise DataError(f"{archive} holds no {only or 'file'}: another archive than expected")
        targets = [folder / _stripped(member.path, strip) for member in wanted]
        write(wanted, targets, show)


def write(members: Sequence[Member], targets: Sequence[Path], show: Show = lambda *_: None) -> None:
    """Write each member atomically to its target, unless it already exists with the right size.

    Raises:
        UserError: a target cannot be written, or the disk is full.
    """
    pairs = [(m, target) for m, target in zip(members, targets, strict=True) if not _is_there(m, target)]
    _check_room(targets[0], sum(member.size for member, _ in pairs))
    for count, (member, target) in enumerate(pairs, start=len(members) - len(pairs) + 1):
        _write_one(member, target)
        show(count, len(members))


def _write_one(member: Member, target: Path) -> None:
    temporary = target.with_name(f".{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        output = opened_new(temporary)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror}; choose another folder") from None
    try:
        with output, member.open() as source:
            while chunk := source.read(1 << 20):
                _put(output, chunk, target)
        if temporary.stat().st_size != member.size:
            raise EOFError(f"{member.path} is cut off")
        _rename(temporary, target)
    finally:
        atomic.remove(temporary)


def opened_new(path: Path) -> IO[bytes]:
    """Create a file for writing; a link that lies there is replaced and not followed."""
    path.unlink(missing_ok=True)
    return open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666), "wb")


def _rename(temporary: Path, target: Path) -> None:
    try:
        os.replace(temporary, target)
    except OSError as error:  # e.g. a folder of that name
        raise UserError(f"cannot write {target}: {error.strerror}; move away what is there") from None


def _put(output: IO[bytes], chunk: bytes, target: Path) -> None:
    try:
        output.write(chunk)
        output.flush()
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror}; make room and give the command again") from None


def _is_there(member: Member, target: Path) -> bool:
    try:
        return target.stat().st_size == member.size
    except OSError:
        return False


def _check_room(target: Path, needed: int) -> None:
    folder = next(parent for parent in target.absolute().parents if parent.is_dir())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(f"{folder} has {free / 1e9:.1f} GB left, {needed / 1e9:.1f} are needed: make room")


def _stripped(path: PurePosixPath, first: str) -> PurePosixPath:
    return path.relative_to(first) if first and path.parts[0] == first and len(path.parts) > 1 else path


def _tar_members(tar: tarfile.TarFile, archive: Path) -> Iterator[Member]:
    for entry in tar:
        if entry.isdir():
            continue
        if not entry.isfile() or entry.issparse():
            raise DataError(_refusal(archive, entry.name, "is a link or a device, not a plain file"))
        executable = bool(entry.mode & stat.S_IXUSR)
        yield Member(_path(archive, entry.name), entry.size, partial(_extracted, tar, entry), executable)


def _extracted(tar: tarfile.TarFile, entry: tarfile.TarInfo) -> IO[bytes]:
    file = tar.extractfile(entry)
    assert file is not None  # true for plain files
    return file


def _zip_members(pack: zipfile.ZipFile, archive: Path) -> Iterator[Member]:
    for entry in pack.infolist():
        kind = stat.S_IFMT(entry.external_attr >> 16)  # 0 if the archive was not created on Unix
        if entry.is_dir() or stat.S_ISDIR(kind):
            continue
        if kind and not stat.S_ISREG(kind):
            raise DataError(_refusal(archive, entry.filename, "is a link or a device, not a plain file"))
        # orig_filename: zipfile cuts a name at its first NUL
        yield Member(_path(archive, entry.orig_filename), entry.file_size, partial(pack.open, entry))


def _path(archive: Path, name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or not path.parts:
        raise DataError(_refusal(archive, name, "does not lie below the folder"))
    return path


def _refusal(archive: Path, name: str, reason: str) -> str:
    return f"{archive} is not unpacked: its member {name[:80]!r} {reason}; get the archive from its own source"


def _checked(found: Iterator[Member], archive: Path, size: int) -> list[Member]:
    members: dict[PurePosixPath, Member] = {}
    unpacked = 0
    for member in found:
        members[member.path] = member  # of duplicates the last one wins, as in tar
        unpacked += member.size
        if member.size < 0 or unpacked > MOST_EXPANSION * size or len(members) > MOST_MEMBERS:
            raise DataError(_refusal(archive, str(member.path), "makes it larger than an archive of its size can be"))
    return list(members.values())


@contextmanager
def _reading(archive: Path) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError:
        raise DataError(f"no archive {archive}") from None
    except UNREADABLE as error:
        advice = "remove it and get it again"
        raise DataError(f"unreadable or truncated archive {archive}: {one_line(error)}; {advice}") from None
