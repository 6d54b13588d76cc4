"""Submit a program's command to a Slurm cluster through submitit."""

import contextlib
import io
import runpy
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError

from regvit_lightning.errors import UserError
from regvit_lightning.runtime import atomic, slurm
from regvit_lightning.settings import check

NOTICE = 120  # seconds between the signal and a job's time limit: a step and a checkpoint must fit


@dataclass(frozen=True)
class SlurmJob:
    """A command and the resources that it requests.

    Attributes:
        program: name in `benchmarks` of the program, run once per device.
        words: its `key=value` arguments.
        folder: folder of submitit's files and logs, on a file system shared by all machines.
        nodes: number of machines.
        devices: number of GPUs, and of processes, on each machine.
        cpus: number of cores of each process.
        hours: time limit; a program that writes checkpoints is then requeued and resumes.
        partition: partition of the cluster; empty for its default.
        after: id of a job that must succeed first; if it fails, this one is cancelled.
    """

    program: str
    words: Sequence[str]
    folder: Path
    nodes: int
    devices: int
    cpus: int
    hours: float
    partition: str = ""
    after: str = ""


class Words:
    """Body of a job: a program with its arguments. submitit requeues it if it is stopped before it handles signals."""

    def __init__(self, program: str, words: Sequence[str]) -> None:
        self.program, self.words = program, list(words)

    def __call__(self) -> None:
        sys.argv = [self.program, *self.words]
        runpy.run_module(f"benchmarks.{self.program}", run_name="__main__")

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        return submitit.helpers.DelayedSubmission(self)


def prepare(job: SlurmJob, cluster: str = "slurm") -> submitit.AutoExecutor:
    """Create the executor that submits the job; nothing is written yet.

    Account, QOS, memory and the like are taken from sbatch's own environment variables (`SBATCH_ACCOUNT`, …).

    Args:
        job: the command.
        cluster: `slurm`; submitit's `local` and `debug` run it here.

    Raises:
        UserError: Slurm is not available, or the job requests invalid resources.
    """
    if cluster == "slurm" and shutil.which("sbatch") is None:
        raise UserError(
            "launcher=slurm: there is no sbatch here; give the command on a login node, or leave LAUNCHER out"
        )
    executor = submitit.AutoExecutor(folder=job.folder, cluster=cluster)
    executor.update_parameters(**parameters(job))
    return executor


def submit(job: SlurmJob, executor: submitit.AutoExecutor) -> "submitit.Job[None]":
    """Submit a job and store its id in its folder.

    Raises:
        UserError: the folder cannot be written, or Slurm rejects the job.
    """
    (submitted,) = submit_array([job], executor)
    atomic.write_text(job.folder / "job", submitted.job_id)
    return submitted


def submit_array(jobs: Sequence[SlurmJob], executor: submitit.AutoExecutor) -> list["submitit.Job[None]"]:
    """Submit jobs that differ only in their arguments as one array, or a single one by itself; see `submit`."""
    atomic.check_writable(jobs[0].folder / "job")
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # submitit both prints and raises sbatch's message
            return executor.submit_array([Words(job.program, job.words) for job in jobs])
    except (FailedJobError, FailedSubmissionError) as error:
        reason = next((line for line in str(error).splitlines() if "error" in line), str(error))
        raise UserError(f"Slurm refuses the job: {reason.strip()}") from None


def parameters(job: SlurmJob) -> dict[str, Any]:
    """Parameters of submitit's executor for the job."""
    check(job.hours > 0, f"hours={job.hours}: must be positive")
    return {
        "name": job.program,
        "nodes": job.nodes,
        "tasks_per_node": job.devices,
        "gpus_per_node": job.devices,
        "cpus_per_task": job.cpus,
        "timeout_min": max(1, round(60 * job.hours)),
        **({"slurm_partition": job.partition} if job.partition else {}),
        "slurm_signal_delay_s": NOTICE,
        "slurm_srun_args": [f"--cpus-per-task={job.cpus}"],  # since 22.05 srun does not inherit it from sbatch
        "slurm_additional_parameters": {"requeue": True, **({"kill-on-invalid-dep": "yes"} if job.after else {})},
        **({"slurm_dependency": f"afterok:{job.after}"} if job.after else {}),
    }


def active(folder: Path) -> str:
    """Id and state of the last job submitted from `folder`, `12 (running)`; empty when it has ended."""
    file = folder / "job"
    if not file.exists() or shutil.which("squeue") is None:
        return ""
    number = file.read_text(encoding="utf-8").strip()
    state = slurm.command("squeue", "--noheader", "--jobs", number, "--format", "%T").stdout.strip()
    return f"{number} ({state.lower()})" if state else ""


def advice(job: SlurmJob, submitted: "submitit.Job[None]") -> str:
    """Message for the user after submission: job id, log, and what to do next."""
    where = f"partition {job.partition}" if job.partition else "the default partition"
    return "\n".join(
        [
            f"job {submitted.job_id} is submitted: {job.nodes} nodes × {job.devices} devices in {where}",
            f"  log     tail -F {submitted.paths.stderr}",
            f"  state   squeue --jobs {submitted.job_id}",
            f"  stop    scancel {submitted.job_id}  (a checkpoint is written)",
            f"  Pre-empted, or after {job.hours:g} hours, it is queued again and continues; if it ends otherwise,",
            "  give the same command again.",
        ]
    )
