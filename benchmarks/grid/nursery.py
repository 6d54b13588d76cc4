"""Process with the large packages imported, from which the cells of a grid are forked: no cell imports them again.

On small data the imports are up to a third of a cell's time. A forked cell is a process of its own as before, with its
own log, locks, environment and signals, and imports the suite itself, as it is then. It is a child of the grid: what
the nursery forks is orphaned at once and adopted by the grid, which waits for it and whose end ends it.

Only for machines without a GPU: a forked process could not use CUDA if a package had touched it while it was imported.
Linux only; elsewhere, and where anything fails, every cell is started as a new Python.
"""

import atexit
import ctypes
import gc
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from regvit_lightning.runtime.locks import PASSED_ON

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # options of prctl(2)
MOST_BYTES = 2**20  # of a request
MOST_LOCKS = 64  # of a cell
# Imported by most cells, none of the suite's own: their code is read when a cell begins, and named in its record.
PACKAGES = (
    *("torch", "torchvision.transforms.v2", "timm", "lightning.pytorch", "torchmetrics", "open_clip", "omegaconf"),
    *("scipy.stats", "matplotlib", "h5py"),
)


@dataclass
class Forked:
    """A forked child of this process, with the parts of `subprocess.Popen` that a grid uses."""

    pid: int

    def wait(self) -> int:
        """Exit status, or minus the number of the signal that ended it."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def terminate(self) -> None:
        """Ask it to end."""
        os.kill(self.pid, signal.SIGTERM)


class Nursery:
    """Starts cells by forking a process that is started with the first of them.

    Args:
        environment: environment of the forking process.
        packages: what it imports.
    """

    def __init__(self, environment: Mapping[str, str], packages: Sequence[str] = PACKAGES) -> None:
        self.environment, self.packages = dict(environment), list(packages)
        self.works = sys.platform.startswith("linux")
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None

    def __enter__(self) -> "Nursery":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the forking process; cells go on."""
        if self._socket is not None:
            self._socket.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = self._socket = None

    def start(
        self, command: Sequence[str], environment: Mapping[str, str], log: int, locks: Sequence[int]
    ) -> Forked | None:
        """Fork a child that runs `python -m <module> <words>`; None for another command, or where that fails.

        Args:
            command: program and arguments.
            environment: its whole environment.
            log: descriptor of its output.
            locks: descriptors that it inherits; their numbers are told to it, see `locks.PASSED_ON`.
        """
        if not self.works or list(command[:2]) != [sys.executable, "-m"]:
            return None
        try:
            request = json.dumps({"command": list(command[2:]), "environment": dict(environment)}).encode()
            nursery = self._running()
            socket.send_fds(nursery, [request], [log, *locks])
            return Forked(int(nursery.recv(64)))
        except (OSError, ValueError):  # a request that is too large, or the nursery has ended
            self.works = False
            self.close()
            return None

    def _running(self) -> socket.socket:
        if self._socket is None:
            _prctl(PR_SET_CHILD_SUBREAPER, 1)
            self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            for end in (self._socket, theirs):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MOST_BYTES)
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.grid.nursery", str(theirs.fileno()), *self.packages],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={**self.environment, "PYTHONUNBUFFERED": "1"},
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                preexec_fn=die_with(os.getpid()),
            )
            theirs.close()
        return self._socket


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value)


def die_with(parent: int) -> Callable[[], None]:
    """Function for a child of `parent`: SIGTERM ends it when that dies, and it ends if that has happened."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl  # looked up before the fork

    def arrange() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(128 + signal.SIGTERM)

    return arrange


def serve(requests: socket.socket, packages: Sequence[str]) -> None:
    """Import the packages, then fork a cell for each request until the grid closes the socket.

    Returns only in the forked cells, which then run.
    """
    gc.disable()  # a quarter of the time of the imports, whose objects stay
    for name in packages:
        with suppress(Exception):  # the cell that needs it says why
            import_module(name)
    gc.freeze()  # collections in the cells leave these objects alone, whose pages would be copied
    gc.enable()
    grid = os.getppid()
    while True:
        request, descriptors, _, _ = socket.recv_fds(requests, MOST_BYTES, MOST_LOCKS)
        if not request:
            os._exit(0)
        reading, writing = os.pipe()
        if (between := os.fork()) == 0:
            if (cell := os.fork()) != 0:
                os.write(writing, str(cell).encode())
                os._exit(0)
            for descriptor in (reading, writing):
                os.close(descriptor)
            requests.close()
            _become(json.loads(request), descriptors, grid)
            return
        for descriptor in (*descriptors, writing):  # of the locks, or this process would hold them, too
            os.close(descriptor)
        os.waitpid(between, 0)  # the grid has adopted the cell when it hears of it
        requests.send(os.read(reading, 64))
        os.close(reading)


def _become(request: dict[str, Any], descriptors: Sequence[int], grid: int) -> None:
    """Make a forked process what `child.start` makes of a new one, with the words of the request."""
    while os.getppid() != grid:  # until the process between has ended and the grid has adopted this one
        if not _runs(grid):
            os._exit(128 + signal.SIGTERM)
        time.sleep(0.001)
    os.setsid()
    die_with(grid)()
    log, *locks = descriptors
    for number in (1, 2):
        os.dup2(log, number)
    os.close(log)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.environ[PASSED_ON] = ",".join(map(str, locks))
    sys.argv = request["command"]


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except OSError:
        return False
    return True


def _status_of(module: str) -> int:
    """Run a module as `python -m` does; returns the exit status of the process."""
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _exit(status: int) -> None:
    """End as an interpreter does, but leave the imported packages to the kernel: taking them down takes a second."""
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2:])
    _exit(_status_of(sys.argv[0]))
