"""Tar headers of bounded size: extended headers are read into memory as a whole, and a tar.gz can hold gigabytes."""

import tarfile
from typing import Any, NoReturn, Self

LARGEST = 1 << 20  # bytes of an extended header: a name or a comment
EXTENDED = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)


class BoundedHeader(tarfile.TarInfo):
    """Header of a member, to be passed to `tarfile.open` as `tarinfo`.

    Raises:
        tarfile.ExtractError: an extended header of more than `LARGEST` bytes, or a sparse file, whose map of holes has
            no bound. Other errors of `tarfile` would be taken for the end of the archive.
    """

    @classmethod
    def frombuf(cls, buf: Any, encoding: str, errors: str) -> Self:
        member = super().frombuf(buf, encoding, errors)
        if member.type in EXTENDED and member.size > LARGEST:
            raise tarfile.ExtractError(f"a header of {member.size:,} bytes; at most {LARGEST:,} are read")
        if member.type == tarfile.GNUTYPE_SPARSE:
            _refuse_sparse()
        return member

    # The three forms of sparse files in the pax format, each of which reads a map of any length.
    def _proc_gnusparse_00(self, *_: Any) -> NoReturn:
        _refuse_sparse()

    def _proc_gnusparse_01(self, *_: Any) -> NoReturn:
        _refuse_sparse()

    def _proc_gnusparse_10(self, *_: Any) -> NoReturn:
        _refuse_sparse()


def _refuse_sparse() -> NoReturn:
    raise tarfile.ExtractError("a sparse file, not a plain one")
