"""Job execution on this machine: one child process per free device, shared with other grids on the same folder."""

import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from benchmarks.counter import clock
from benchmarks.grid import child, outcomes, queueing
from benchmarks.grid.board import Board
from benchmarks.grid.child import Child
from benchmarks.grid.nursery import Nursery
from benchmarks.grid.outcomes import MISTAKE, CellOutcome
from benchmarks.grid.queueing import LocalJob
from regvit_lightning.errors import Stopped
from regvit_lightning.runtime import atomic, locks
from regvit_lightning.runtime.locks import Lock

TICK = 0.1  # seconds between polls of the children
LOOK_AGAIN = 1.0  # seconds between checks of jobs that another grid runs
GRACE = 120.0  # seconds for children to end when asked to: a step, and a checkpoint of a large model
ATTEMPTS = 2


@dataclass(frozen=True)
class Machine:
    """Devices, locks and environment of this machine's jobs.

    Attributes:
        slots: one per child: the index of a GPU, or '' for a share of the CPU cores.
        locks: folder of the GPU locks.
        environment: environment of the children.
        nursery: forks the children, with packages that are already imported; None starts a new Python for each.
    """

    slots: Sequence[str]
    locks: Path
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))
    nursery: Nursery | None = None

    def acquire(self, slot: str) -> Lock | None:
        """Acquire the lock of a GPU of this machine, so that two grids do not use it at once."""
        return locks.acquire(self.locks / f"{os.uname().nodename}.gpu{slot}.lock")


class Workers:
    """Runs all jobs, longest first, regardless of failures; a crashed job is retried once.

    Args:
        jobs: jobs in any order.
        machine: where they run.
        board: progress display.
        held: tells whether a job's result exists, since another grid may have completed it meanwhile.
        result: describes what a job has measured, in a few words; '' if there is nothing to say.

    Attributes:
        outcomes: outcomes by name of the jobs that have ended, including those whose dependency failed.
    """

    def __init__(
        self,
        jobs: Sequence[LocalJob],
        machine: Machine,
        board: Board,
        held: Callable[[LocalJob], bool],
        result: Callable[[LocalJob], str] = lambda job: "",
    ) -> None:
        self.machine, self.board, self.held, self.result = machine, board, held, result
        self.jobs, self.waiting = list(jobs), queueing.longest_first(jobs)
        self.names, self.total = {job.name for job in jobs}, len(jobs)
        self.free = list(machine.slots)
        self.running: list[Child] = []
        self.outcomes: dict[str, CellOutcome] = {}
        self.elsewhere: dict[str, float] = {}  # when to check again
        self.began = time.time()
        self.stopped_by = 0

    def run(self) -> dict[str, CellOutcome]:
        """Run all jobs.

        Raises:
            Stopped: a signal asked to stop; the children have ended, and their checkpoints remain.
        """
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        if before[signal.SIGHUP] is signal.SIG_IGN:  # nohup: the grid outlives its terminal
            del before[signal.SIGHUP]
        for number in before:
            signal.signal(number, self._stop)
        try:
            while (self.waiting or self.running) and not self.stopped_by:
                self._reap()
                self._begin()
                self._show()
                time.sleep(TICK)
            if self.stopped_by:
                self._end_children()
        finally:
            for one in self.running:
                one.kill()
            for number, handler in before.items():
                signal.signal(number, handler)
        return self.outcomes

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.stopped_by:  # second signal
            for one in self.running:
                one.kill()
        self.stopped_by = number

    def _end_children(self) -> None:
        self.board.say(f"stopping: {len(self.running)} running cells may write a checkpoint; once more to end at once")
        for one in self.running:
            one.terminate()
        end = time.monotonic() + GRACE
        while self.running:
            for one in self.running[:]:
                if time.monotonic() > end:
                    one.kill()
                if (status := one.poll()) is not None:
                    self._free(one)
                    if status == 0:
                        self._ended(one, status)
            time.sleep(TICK)
        left = self.total - len(self.outcomes)
        raise Stopped(f"stopped; {left} of {self.total} are left: give the same command to continue", self.stopped_by)

    def _reap(self) -> None:
        for one in self.running[:]:
            status = one.poll()
            self.board.heard(one.news())
            if status is None:
                continue
            if status not in (0, MISTAKE) and one.attempt < ATTEMPTS:
                why = outcomes.ended(one.job.name, status, one.job.file(".log"), one.seconds).error
                self.board.say(f"{one.job.name} crashed ({why}) and is tried once more")
                self.running.remove(one)
                self._start(one.job, one.devices, one.locks, one.attempt + 1)
                continue
            self._ended(one, status)
            self._free(one)

    def _ended(self, one: Child, status: int) -> None:
        outcome = outcomes.ended(one.job.name, status, one.job.file(".log"), one.seconds)
        outcome.save(one.job.file(".json"))
        self._keep(outcome)

    def _keep(self, outcome: CellOutcome) -> None:
        self.outcomes[outcome.name] = outcome
        how = f"failed: {outcome.error}" if outcome.error else f"done in {clock(outcome.seconds)}"
        job = next(job for job in self.jobs if job.name == outcome.name)
        measured = "" if outcome.error else self.result(job)
        left = f"; {words}" if (words := self._left()) else ""
        self.board.say(f"[{len(self.outcomes)}/{self.total}] {outcome.name} {how}{measured and f': {measured}'}{left}")

    def _free(self, one: Child) -> None:
        self.running.remove(one)
        self.free += one.devices or [""] * one.job.devices
        for lock in one.locks:
            lock.release()

    def _begin(self) -> None:
        self._block()
        now = time.monotonic()
        done = {name for name, outcome in self.outcomes.items() if not outcome.error}
        done |= {job.needs for job in self.waiting} - self.names
        looked_at = [job for job in self.waiting if self.elsewhere.get(job.name, 0.0) <= now]
        while self.free and not self.stopped_by and (job := queueing.ready(looked_at, done, len(self.free))):
            looked_at.remove(job)
            lock = locks.acquire(locks.beside(job.folder))
            if lock is None:
                if job.name not in self.elsewhere:
                    who = locks.in_words(locks.holder(locks.beside(job.folder)) or {})
                    self.board.say(f"{job.name} is run by {who}")
                self.elsewhere[job.name] = now + LOOK_AGAIN
            elif (found := self._found(job)) is not None:
                lock.release()
                self.waiting.remove(job)
                self._keep(found)
                return  # jobs that became ready are started on the next tick
            elif (taken := self._take(job.devices)) is None:
                lock.release()
                return
            else:
                self.waiting.remove(job)
                devices, device_locks = taken
                self._start(job, devices, [lock, *device_locks])

    def _block(self) -> None:
        """Give up jobs whose dependency has failed."""
        for job in self.waiting[:]:
            needed = self.outcomes.get(job.needs)
            if needed is not None and needed.error:
                self.waiting.remove(job)
                why = f"not run: {job.needs} failed"
                self.outcomes[job.name] = CellOutcome(job.name, why, needed.log, 0.0, time.time())

    def _found(self, job: LocalJob) -> CellOutcome | None:
        """Outcome of a job that another grid has ended since the start; None if this grid must run it."""
        outcome = outcomes.read_outcome(job.file(".json"))
        if outcome is not None and outcome.ended >= self.began:
            return outcome
        return CellOutcome(job.name, "", "", 0.0, time.time()) if self.held(job) else None

    def _take(self, count: int) -> tuple[list[str], list[Lock]] | None:
        """Acquire devices that no other grid uses, with their locks; None while there are too few."""
        if self.free[0] == "":
            del self.free[:count]
            return [], []
        taken: dict[str, Lock] = {}
        for slot in self.free:
            lock = self.machine.acquire(slot) if len(taken) < count else None
            if lock is not None:
                taken[slot] = lock
        if len(taken) < count:
            for lock in taken.values():
                lock.release()
            return None
        for slot in taken:
            self.free.remove(slot)
        return list(taken), list(taken.values())

    def _start(self, job: LocalJob, devices: Sequence[str], held: Sequence[Lock], attempt: int = 1) -> None:
        device = f"GPU {','.join(devices)}" if devices else "CPU"
        facts: dict[str, Any] = {"host": os.uname().nodename, "device": device, "since": time.time()}
        held[0].say(**facts, process=os.getpid())
        atomic.remove(job.file(".json"))
        one = child.start(job, devices, held, self.machine.environment, attempt, self.machine.nursery)
        self.running.append(one)
        if attempt == 1:
            self.board.note(f"{job.name} begins on {device}; log {job.file('.log')}")

    def _pace(self) -> float:
        """Ratio of actual to expected duration of ended jobs; 0 before the first has ended."""
        ran = [job for job in self.jobs if (outcome := self.outcomes.get(job.name)) and outcome.seconds]
        expected = sum(job.seconds for job in ran)
        return sum(self.outcomes[job.name].seconds for job in ran) / expected if expected else 0.0

    def _left(self) -> str:
        """Time left, as `about 7:30 left`; empty at the end, and before the first job has ended."""
        running = [one for one in self.running if one.job.name not in self.outcomes]
        jobs = [*self.waiting, *(one.job for one in running)]
        begun = {one.job.name: one.seconds for one in running}
        seconds = queueing.seconds_left(jobs, begun, len(self.machine.slots)) * self._pace()
        return f"about {clock(seconds)} left" if seconds > 0 else ""

    def _show(self) -> None:
        failed = sum(bool(outcome.error) for outcome in self.outcomes.values())
        counts = f"{len(self.outcomes)} of {self.total} ended, {failed} failed, {len(self.running)} running"
        lines = [", ".join(filter(None, [counts, self._left()]))]
        for one in self.running:
            where = f"GPU {','.join(one.devices)}" if one.devices else "CPU"
            what = one.last if one.job.name in one.last else f"{one.job.name}  {one.last}"
            lines.append(f"  {where}  {clock(one.seconds):>7}  {what}")
        with suppress(OSError):  # closed terminal
            self.board.show(lines)
