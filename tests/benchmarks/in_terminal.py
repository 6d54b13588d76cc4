"""A program on a terminal of its own: what it writes, keys, and the end of the terminal."""

import errno
import fcntl
import os
import select
import subprocess
import termios
import time

SHOW, HIDE = "\x1b[?25h", "\x1b[?25l"  # the cursor


class OnTerminal:
    """A command whose standard input, output and error are a terminal.

    Args:
        command: program and arguments.
        columns: width of the terminal.
        environment, folder: of the command.
    """

    def __init__(self, command, columns, environment=None, folder=None):
        inherited = dict(environment or os.environ)
        inherited.pop("COLUMNS", None)  # which stands before the width of the terminal, and pytest-xdist sets it
        self.keys, terminal = os.openpty()
        termios.tcsetwinsize(terminal, (24, columns))
        self.shown = b""
        self.process = subprocess.Popen(
            command,
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # so that Ctrl-C reaches it as a signal
            env={**inherited, "TERM": "xterm", "OMP_NUM_THREADS": "1"},
            cwd=folder,
        )
        os.close(terminal)

    def text(self):
        """Everything that was written so far."""
        return self.shown.decode(errors="replace")

    def wait_for(self, words, seconds=60):
        """Read until `words` were written."""
        end = time.monotonic() + seconds
        while words not in self.text():
            assert time.monotonic() < end, self.text()
            assert self.read(), self.text()

    def press(self, keys):
        """Type something; Ctrl-C is `\\x03`."""
        os.write(self.keys, keys.encode())

    def close(self):
        """Close the terminal's window."""
        os.close(self.keys)

    def end(self, seconds=60):
        """The exit status, everything being read."""
        end = time.monotonic() + seconds
        while self.read():
            assert time.monotonic() < end, self.text()
        return self.process.wait(10)

    def read(self):
        """Read what there is; False when nothing more can come."""
        ready, _, _ = select.select([self.keys], [], [], 0.2)
        if not ready:
            return self.process.poll() is None
        try:
            new = os.read(self.keys, 65536)
        except OSError as error:  # how Linux says that the other side is closed
            if error.errno != errno.EIO:
                raise
            new = b""
        self.shown += new
        return bool(new)


def widest_line(text):
    """Number of characters of the longest line, escape sequences not counted."""
    import re

    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)
    return max(len(line) for line in re.split(r"[\r\n]", plain))
