"""Robust output to a terminal of any width, a pipe whose reader leaves, any encoding, or closed descriptors.

`prepare` makes standard output and error handle all of these; `command.run` calls it once for every program.
"""

import codecs
import errno
import io
import os
import re
import shutil
import sys
import textwrap
import unicodedata
from typing import Any

from regvit_lightning.errors import UserError, one_line

# Characters printed by the programs that do not decompose into ASCII by themselves, as é and … do.
ASCII = dict(zip("–—·−×━─", "----x#-", strict=True)) | {"±": "+-", "→": "->", "≥": ">=", "≤": "<=", "≈": "~"}
ASCII |= {"▲": "++", "▼": "--", "△": "+", "▽": "-"}
NOBODY_READS = (errno.EPIPE, errno.EIO)  # the reader of a pipe has exited; the terminal was closed
UNBROKEN = "\N{NO-BREAK SPACE}"
INTERVAL = re.compile(r"\[[-\d.]+, [-\d.]+\]")  # is not broken between two lines
SHOW_CURSOR = "\x1b[?25h"


class Descriptor(io.FileIO):
    """File descriptor that is redirected to the null device after the first failed write.

    Output must not stop the work: a training continues when its reader exits, or when the disk of its log is full.

    Attributes:
        lost: reason why output was lost; empty if nobody reads it any more.
    """

    lost = ""

    def write(self, data: Any) -> int:  # type: ignore[override]
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in NOBODY_READS:
                self.lost = one_line(error) if error.strerror is None else error.strerror
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())
            os.close(null)
            return memoryview(data).nbytes


def prepare() -> None:
    """Replace `sys.stdout` and `sys.stderr` by streams that tolerate a reader that exits and any encoding.

    Streams that are not the process's own (a test's, a notebook's) are left alone.
    """
    codecs.register_error("readable", readable)
    _open_closed()
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 until the process ends
        elif stream is getattr(sys, f"__{name}__"):
            setattr(sys, name, _bearing(stream))


def _open_closed() -> None:
    """Open closed descriptors 0 to 2 on the null device, or the next file opened would receive the output."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number


def _bearing(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    raw = Descriptor(stream.fileno(), "wb", closefd=False)
    buffer: Any = raw if stream.write_through else io.BufferedWriter(raw)
    flags = stream.line_buffering, stream.write_through
    return io.TextIOWrapper(buffer, stream.encoding, "readable", None, *flags)


def readable(error: UnicodeError) -> tuple[str, int]:
    """Encoding error handler that replaces characters by similar-looking ASCII.

    `×` becomes `x`, `é` becomes `e`, an undecodable byte of a file name `\\xff`, anything else `?`.
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_plain, error.object[error.start : error.end])), error.end


def _plain(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # see `os.fsdecode`
        return f"\\x{ord(character) & 0xFF:02x}"
    parts = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return ASCII.get(character) or parts or "?"


def finish() -> None:
    """Flush standard output.

    Raises:
        UserError: not all of it could be written, e.g. on a full disk.
    """
    sys.stdout.flush()
    buffer = getattr(sys.stdout, "buffer", None)
    lost = getattr(getattr(buffer, "raw", buffer), "lost", "")
    if lost:
        raise UserError(f"not all that was printed could be written: {lost}")


def show_cursor() -> None:
    """Show the cursor of the terminal, in case it was hidden."""
    if sys.stderr.isatty():
        print(SHOW_CURSOR, end="", file=sys.stderr, flush=True)


def columns() -> int | None:
    """Width in characters of the terminal on standard output; None if it is not a terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def paragraph(text: str) -> str:
    """Format prose in lines of 120 characters, or as one line for `show` to wrap if the terminal is narrower."""
    width = columns()
    return text if width is None or width >= 120 else " ".join(text.split())


def show(text: str) -> None:
    """Print `text` and flush; on a terminal long lines are wrapped between words."""
    width = columns()
    print(text if width is None else fitted(text, width), flush=True)


def fitted(text: str, columns: int) -> str:
    """Wrap `text` to lines of at most `columns` characters, between words.

    Continuation lines are aligned with the second column of a list (`  name   what it is`), begin with the `#` of a
    comment, or are indented slightly more than their line. A word longer than a line is not broken, nor is an interval
    such as `[0.2, 2.4]`.
    """
    return "\n".join(_broken(line, columns) for line in text.split("\n"))


def _broken(line: str, columns: int) -> str:
    if len(line) <= columns:
        return line
    line = INTERVAL.sub(lambda interval: interval[0].replace(" ", UNBROKEN), line)
    second = re.match(r" *\S.*? {2,}(?=\S)|\s*# ", line)
    lead = second[0] if second else ""
    if len(lead) > columns // 2:
        line, lead = line.replace(lead, f"{lead.rstrip()}  ", 1), ""
    lead = lead or line[: len(line) - len(line.lstrip())] + "  "
    indent = lead if lead.lstrip().startswith("#") else " " * len(lead)
    options: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False, "replace_whitespace": False}
    return textwrap.fill(line, columns, subsequent_indent=indent, **options).replace(UNBROKEN, " ")


def say_once(line: str) -> None:
    """Print a line in the first of the processes of several devices, which all run the same program."""
    from regvit_lightning.runtime import hardware

    if hardware.first_process():
        print(line)
