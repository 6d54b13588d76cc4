"""Runs the parts one after another within a budget of seconds, each in a process that cannot harm the others.

A part that raises, dies, hangs or leaves the GPU in a bad state ends in a line; the next one starts in a new process,
forked from a server that has loaded the code and never touched the GPU.
"""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing import forkserver
from multiprocessing.connection import Connection

from benchmarks.gpu_check.check import Check
from benchmarks.gpu_check.lines import FAILED, NOT_RUN, Line, failure

GRACE = 30  # seconds, and twice the planned ones: how long a part may take at most
PRELOADED = "benchmarks.gpu_check.parts"


@dataclass(frozen=True)
class Part:
    """A part, run in a process of its own.

    Attributes:
        name: name by which `only=` selects it: all parts that begin with a given word.
        seconds: planned seconds. Where fewer are left, the part is not run.
        work: yields its lines.
        on_cpu: the GPU is hidden from it.
        needed: other parts need it, so it is always run.
    """

    name: str
    seconds: int
    work: Callable[[Check], Iterator[Line]]
    on_cpu: bool = False
    needed: bool = False


def start() -> multiprocessing.context.BaseContext:
    """Start the server from which the parts' processes are forked; it loads the code while this process goes on."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([PRELOADED])
    forkserver.ensure_running()
    return context


def run(parts: Sequence[Part], check: Check, budget: float, keep: Callable[[list[Line]], None]) -> list[Line]:
    """Lines of all parts; `keep` is called with those so far after every part."""
    begun, lines = time.monotonic(), list[Line]()
    context = start()
    for part in parts:
        left = budget - (time.monotonic() - begun)
        if part.seconds > left:
            why = f"no time left: {part.seconds} s planned, {left:.0f} s left"
            lines.append(Line(part.name, state=NOT_RUN, source=why))
            continue
        started = time.monotonic()
        known = {line.name: line.facts for line in lines}
        given = replace(check, known=known, device="cpu" if part.on_cpu else check.device)
        for line in lines_of(part, given, min(left, 2 * part.seconds + GRACE), context):
            lines.append(line)
            print(f"  {line.state:<8} {line.name}: {_short(line)}", flush=True)
        print(f"gpu_check: {part.name} took {time.monotonic() - started:.0f} s", flush=True)
        keep(lines)
    keep(lines)
    return lines


def _short(line: Line) -> str:
    value = "" if line.value is None else f"{line.value:.4g} {line.unit}".strip() + "; "
    return f"{value}{line.source}"


def lines_of(part: Part, check: Check, most: float, context: multiprocessing.context.BaseContext) -> Iterator[Line]:
    """Lines of a part as they come, for at most `most` seconds; its processes are ended afterwards."""
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(part.work, check, theirs))  # type: ignore[attr-defined]
    process.start()
    theirs.close()
    until = time.monotonic() + most
    try:
        while ours.poll(max(until - time.monotonic(), 0)):
            yield ours.recv()
        yield Line(part.name, state=FAILED, source=f"stopped after {most:.0f} s, {part.seconds} s were planned")
    except EOFError:
        process.join(5)
        if process.exitcode:
            yield Line(part.name, state=FAILED, source=f"its process died with status {process.exitcode}")
    finally:
        with suppress(ProcessLookupError):  # its loaders and compilers, too
            os.killpg(process.pid, signal.SIGKILL)
        process.join()


def _work(work: Callable[[Check], Iterator[Line]], check: Check, lines: Connection) -> None:
    """Body of a part's process: sends its lines."""
    from benchmarks import progress

    os.setsid()
    multiprocessing.set_start_method(
        "fork", force=True
    )  # of its loaders, as in a user's process; a server imports for each
    if check.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    progress.quiet()
    try:
        for line in work(check):
            lines.send(line)
    except Exception as error:
        lines.send(failure(getattr(work, "__name__", "part"), error))
    lines.close()
    sys.stderr.flush()
