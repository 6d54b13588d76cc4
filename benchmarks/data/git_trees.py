"""Git's hashes of the files in an archive: one published number, that of a folder, checks every file in it.

A blob's hash is the SHA-1 of `blob <size>`, a NUL and its content; a tree's that of `tree <size>`, a NUL and its
entries, `<mode> <name>`, a NUL and the 20 bytes of the entry's own hash, sorted by name, where a folder's name counts
as if it ended in `/` (git-scm.com/book, "Git Internals - Git Objects"; git's tree-walk.c).
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath

from benchmarks.data import archives
from benchmarks.data.archives import Member
from regvit_lightning.data.layout import DataError

FILE, EXECUTABLE, FOLDER = b"100644", b"100755", b"40000"
CHUNK = 1 << 20

Entry = tuple[bytes, bytes]  # mode, and hash of 20 bytes
Show = Callable[[int, int], None]


def check(archive: Path, trees: Mapping[str, str], show: Show = lambda *_: None) -> None:
    """Compare every file of some folders of a git archive with git's hash of the folder.

    Args:
        trees: hash in hexadecimal digits by folder, below the one folder in which such an archive keeps everything.
        show: called with the number of files read so far, and of all.

    Raises:
        DataError: a file is missing, added or changed; or the archive is unreadable, see `archives.opened`.
    """
    with archives.opened(archive) as members:
        wanted = {below(member): member for member in members if below(member).parts[:1] and _is_in(member, trees)}
        blobs = {}
        for number, (path, member) in enumerate(wanted.items(), start=1):
            blobs[path] = EXECUTABLE if member.executable else FILE, blob(member)
            show(number, len(wanted))
    for folder, expected in trees.items():
        inside = {path.relative_to(folder): entry for path, entry in blobs.items() if path.is_relative_to(folder)}
        if tree(inside).hex() != expected:
            what = f"{folder} is not the published one: git's hash of its {len(inside):,} files is not {expected}"
            raise DataError(f"{archive}: {what}; remove it and give the command again")


def below(member: Member) -> PurePosixPath:
    """Path of a member below the first folder of an archive."""
    return PurePosixPath(*member.path.parts[1:])


def _is_in(member: Member, folders: Iterable[str]) -> bool:
    return any(below(member).is_relative_to(folder) for folder in folders)


def blob(member: Member) -> bytes:
    """Git's hash of a file."""
    digest = hashlib.sha1(b"blob %d\0" % member.size, usedforsecurity=False)
    with member.open() as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.digest()


def tree(files: Mapping[PurePosixPath, Entry]) -> bytes:
    """Git's hash of a folder, from the entries of all files in it by their path below it."""
    entries = {path.name: entry for path, entry in files.items() if len(path.parts) == 1}
    folders: dict[str, dict[PurePosixPath, Entry]] = {}
    for path, entry in files.items():
        if len(path.parts) > 1:
            folders.setdefault(path.parts[0], {})[PurePosixPath(*path.parts[1:])] = entry
    named = [(name.encode(), entry) for name, entry in entries.items()]
    named += [(name.encode(), (FOLDER, tree(inside))) for name, inside in folders.items()]
    named.sort(key=lambda one: one[0] + b"/" * (one[1][0] == FOLDER))
    content = b"".join(mode + b" " + name + b"\0" + digest for name, (mode, digest) in named)
    return hashlib.sha1(b"tree %d\0" % len(content) + content, usedforsecurity=False).digest()
