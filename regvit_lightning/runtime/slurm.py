"""Slurm jobs: Lightning's plugin, the current job, requeueing."""

import os
import re
import subprocess

from lightning.pytorch.plugins.environments import SLURMEnvironment


def environment() -> list[SLURMEnvironment]:
    """Lightning's plugin for a task of a Slurm job.

    Its own requeueing is disabled: it writes a checkpoint of another name in the middle of a step. See `interruption`.
    """
    return [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []


def job() -> str:
    """Id of the job that this process is a task of, `12`, or `12_3` in an array; empty outside of Slurm."""
    if not SLURMEnvironment.detect():
        return ""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array else os.environ["SLURM_JOB_ID"]


def requeue(number: str) -> str:
    """Requeue a running job under the same number, unless Slurm or its user is ending it.

    Returns:
        The reason why it was not requeued; empty on success.
    """
    shown = command("scontrol", "show", "job", "--oneliner", number)
    state = re.search(r"JobState=(\w+)", shown.stdout)
    if state is None or state[1] != "RUNNING":
        return state[1].lower() if state else shown.stderr.strip()
    answer = command("scontrol", "requeue", number)
    return "" if answer.returncode == 0 else answer.stderr.strip()


def command(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a Slurm command, such as `squeue`, and ignore its exit status.

    Raises:
        subprocess.TimeoutExpired: no response within a minute.
    """
    return subprocess.run(words, capture_output=True, text=True, timeout=60)
