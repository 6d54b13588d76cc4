"""Stopping on a signal: the step is completed and saved, and the same command resumes from there."""

import multiprocessing
import signal
from multiprocessing import util
from types import FrameType
from typing import Any

from lightning import Trainer

from regvit_lightning.errors import Stopped
from regvit_lightning.runtime import slurm
from regvit_lightning.runtime.agreement import Agreement


class Signals:
    """Context manager that records stop signals until the current step is done.

    Those are Ctrl-C, SIGTERM and SIGHUP, the end of the terminal, which nohup makes the process ignore; and, in a Slurm
    job, SIGUSR1 and SIGUSR2, which announce that its time limit is near (the convention of Lightning and submitit). A
    second Ctrl-C stops at once.
    """

    def __init__(self) -> None:
        self.job = slurm.job()
        self.numbers = [signal.SIGINT, signal.SIGTERM, *([signal.SIGUSR1, signal.SIGUSR2] if self.job else [])]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            self.numbers.append(signal.SIGHUP)
        self.received: signal.Signals | None = None
        self.before: dict[signal.Signals, Any] = {}
        self.agreement = Agreement()

    def __enter__(self) -> "Signals":
        self.before = {number: signal.getsignal(number) for number in self.numbers}
        self.listen()
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def listen(self) -> None:
        """Install the signal handlers; must be called again after Lightning has installed its own."""
        for number in self.numbers:
            signal.signal(number, self._remember)

    def agreed(self, trainer: Trainer) -> bool:
        """Whether a signal has reached any of the processes, for several of them before the step before this one ended.

        All of them must call it after each step.
        """
        return self.agreement.any(trainer, self.received is not None)

    def stop(self, trainer: Trainer) -> None:
        """End this process after its state was saved.

        Raises:
            Stopped: in the first process, with the message for the user.
            SystemExit: in the processes of further devices, without a message.
        """
        if not trainer.is_global_zero:
            raise SystemExit(0)
        line = f"stopped at step {trainer.global_step:,} of {trainer.max_steps:,}"
        number = self.received or signal.SIGTERM
        if not self.job:
            raise Stopped(f"{line}; give the same command to continue", number)
        reason = slurm.requeue(self.job)
        if reason:
            line += f"; job {self.job} is not queued again here ({reason})"
            raise Stopped(f"{line}; if Slurm does not do it, give the same command to continue", number)
        raise Stopped(f"{line}; job {self.job} is queued again and continues from there", number)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)


def leave_to_main_process(worker: int) -> None:
    """Ignore stop signals in a loader worker: those sent to the process group are handled by the training process."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)


def end_workers_at_exit() -> None:
    """Kill the loader workers that are left when this process ends.

    They ignore the SIGTERM with which multiprocessing ends its children before it waits for them. Left are those of a
    loader whose iterator is still referred to, as by the traceback of an image that cannot be read.
    """
    util.Finalize(None, _kill_workers, exitpriority=0)


def _kill_workers() -> None:
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()
