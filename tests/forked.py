"""Programs in processes forked from this one, which saves the seconds of starting Python and importing torch."""

import contextlib
import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

from lightning.pytorch.strategies.launchers import subprocess_script
from lightning.pytorch.utilities.rank_zero import rank_zero_only

FORK = multiprocessing.get_context("fork")


def command_line(name, *words):
    """`python -m benchmarks.<name> <words>` in this process."""
    module = importlib.import_module(f"benchmarks.{name}")
    if hasattr(module, "__path__"):  # a folder's program is its __main__.py
        module = importlib.import_module(f"benchmarks.{name}.__main__")
    before, sys.argv = sys.argv, [name, *map(str, words)]
    try:
        module.cli()
    finally:
        sys.argv = before


class Forked:
    """A function in a process of its own, with what tests use of `subprocess.Popen`.

    The process leads a session. A process that Lightning would start for a further device runs the same function,
    forked, too; what this process has imported and patched holds in all of them.

    Args:
        function, arguments: what the process runs.
        environment: all its variables; those of this process by default.
        helper: a process of the same session and output.
    """

    def __init__(self, function, *arguments, environment=None, helper=False):
        self.files = [None, None] if helper else [os.fdopen(os.memfd_create("output")) for _ in range(2)]
        self.process = FORK.Process(target=self._run, args=(function, arguments, environment))
        self.process.start()
        self.pid = self.process.pid

    def _run(self, function, arguments, environment):
        if environment is not None:
            os.environ.clear()
            os.environ.update(environment)
        rank_zero_only.rank = int(os.environ.get("LOCAL_RANK", 0))  # which it reads where it is imported
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        if self.files[0]:
            os.setsid()
            for number, file in enumerate(self.files, 1):
                os.dup2(file.fileno(), number)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))

        def start(command, env, cwd):
            return Forked(function, *arguments, environment=env, helper=True)

        subprocess_script.subprocess = SimpleNamespace(Popen=start)
        function(*arguments)

    @property
    def returncode(self):
        """Exit status; negative number of the signal that ended the process; None while it runs."""
        return self.process.exitcode

    def poll(self):
        """Exit status, or None."""
        return self.returncode

    def wait(self, timeout=None):
        """Exit status, when the process has ended."""
        self.process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("forked", timeout, *map(self._read, range(2)))
        return self.returncode

    def send_signal(self, number):
        """Send a signal, unless the process has ended."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self):
        """End the process at once."""
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout=None):
        """(standard output, standard error), when the process has ended."""
        self.wait(timeout)
        return self._read(0), self._read(1)

    def _read(self, number):
        file = self.files[number].fileno()
        return os.pread(file, os.fstat(file).st_size, 0).decode()  # leaves the position of those who write
