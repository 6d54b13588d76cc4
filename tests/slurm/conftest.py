"""A real Slurm on this machine: a node with two processors and two GPUs that are only counted, and a pair of nodes.

The two nodes of the pair, each with a processor and a GPU, are further daemons of this machine on ports of their own.
"""

import os
import secrets
import shutil
import socket
import subprocess
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

PAIR = ("pair0", "pair1")
COMMANDS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel", "sinfo")
SBIN = "/usr/sbin:/sbin"


@dataclass
class Cluster:
    """A running Slurm.

    Attributes:
        environment: of processes that use it.
    """

    environment: dict[str, str]

    def run(self, *command, check=True):
        """Standard output of one of Slurm's commands."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0 or not check, done.stderr
        return done.stdout.strip()

    def state(self, job):
        """The job's state in Slurm's words, and how often it was queued again."""
        shown = self.run("scontrol", "show", "job", "--oneliner", job)
        facts = dict(word.split("=", 1) for word in shown.split() if "=" in word)
        return facts["JobState"], int(facts["Restarts"])


def wait(condition, seconds, describe):
    """Wait until `condition()`; fail with what `describe()` says."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, describe()
        time.sleep(0.1)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    if os.geteuid() != 0:
        pytest.skip("only root may start slurmd")
    path = f"{os.environ['PATH']}:{SBIN}"
    missing = [name for name in COMMANDS if shutil.which(name, path=path) is None]
    if missing:
        pytest.skip(f"Slurm is not installed: no {', '.join(missing)} (Debian: slurm-wlm, munge)")
    root = Path(tmp_path_factory.mktemp("slurm"))
    environment = {**os.environ, "PATH": path, "SLURM_CONF": str(configure(root)), "OMP_NUM_THREADS": "1"}
    environment["MASTER_ADDR"] = "127.0.0.1"  # the names of the pair are no hosts
    daemons = []
    try:
        for command in commands(root):
            log = (root / f"{command[0]}{command[-1] if command[0] == 'slurmd' else ''}.out").open("w")
            daemons.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
            if command[0] == "munged":
                wait((root / "munge.socket").exists, 20, lambda: (root / "munged.out").read_text())
        found = Cluster(environment)
        idle = ("sinfo", "--noheader", "--Node", "--format", "%T")
        ready = ["idle"] * (1 + len(PAIR))
        wait(lambda: found.run(*idle, check=False).split() == ready, 120, lambda: logs(root))
        yield found
        found.run("scancel", "--user", "root", check=False)
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()


def logs(root):
    """The last lines of what the daemons say."""
    return "\n".join("\n".join(file.read_text().splitlines()[-15:]) for file in root.glob("*.out"))


def commands(root):
    """The daemons in the order of their start, in the foreground."""
    munged = ["munged", "--foreground", "--force", f"--key-file={root}/munge.key", f"--socket={root}/munge.socket"]
    munged += [f"--pid-file={root}/munge.pid", f"--log-file={root}/munge.log", f"--seed-file={root}/munge.seed"]
    return [munged, ["slurmctld", "-D", "-i"], *(["slurmd", "-D", "-N", name] for name in (host(), *PAIR))]


def host():
    """Name of this machine, and of its node with two processors."""
    return socket.gethostname().split(".")[0]


def ports(count):
    """So many ports that nobody uses."""
    with ExitStack() as sockets:
        opened = [sockets.enter_context(socket.socket()) for _ in range(count)]
        for one in opened:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in opened]


def configure(root):
    """Write keys and configuration; the path of slurm.conf."""
    (root / "munge.key").write_bytes(secrets.token_bytes(128))
    (root / "munge.key").chmod(0o400)
    for folder in ("state", "spool"):
        (root / folder).mkdir()
    controller, own, *of_pair = ports(2 + len(PAIR))
    for name in ("gpu0", "gpu1"):  # Slurm counts device files, whatever they are
        (root / name).touch()
    devices = [f"NodeName={host()} Name=gpu File={root}/gpu[0-1]"]
    devices += [f"NodeName={name} Name=gpu File={root}/gpu{number}" for number, name in enumerate(PAIR)]
    (root / "gres.conf").write_text("\n".join(devices) + "\n")
    nodes = "\n".join(
        f"NodeName={name} NodeHostname={host()} NodeAddr=127.0.0.1 Port={port} CPUs=1 Gres=gpu:1 State=UNKNOWN"
        for name, port in zip(PAIR, of_pair, strict=True)
    )
    (root / "slurm.conf").write_text(
        f"""\
ClusterName=tests
SlurmctldHost={host()}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={own}
SlurmUser=root
AuthType=auth/munge
# A job that is queued again waits until its credentials have expired.
AuthInfo=socket={root}/munge.socket,cred_expire=5
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool/%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
MpiDefault=none
ReturnToService=2
JobRequeue=0
KillWait=20
SchedulerParameters=sched_interval=2,batch_sched_delay=0
NodeName={host()} NodeAddr=127.0.0.1 CPUs=2 Gres=gpu:2 State=UNKNOWN
{nodes}
PartitionName=debug Nodes={host()} Default=YES MaxTime=INFINITE State=UP
PartitionName=pair Nodes={",".join(PAIR)} MaxTime=INFINITE State=UP
"""
    )
    return root / "slurm.conf"
