"""A Slurm of two nodes on this machine, with its own munge, for the tests only."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "sinfo")
CONF = """\
ClusterName=sandbox
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CryptoType=crypto/munge
AuthInfo=cred_expire=5,socket={root}/run/munge.sock
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool/%n
SlurmctldPidFile={root}/run/slurmctld.pid
SlurmdPidFile={root}/run/slurmd.%n.pid
SlurmctldLogFile={root}/log/slurmctld.log
SlurmdLogFile={root}/log/slurmd.%n.log
ReturnToService=2
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=1,sched_interval=2,bf_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
GresTypes=gpu
JobRequeue=1
KillWait=15
OverTimeLimit=0
MinJobAge=300
SlurmdTimeout=10
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={port1} CPUs=4 RealMemory=4000 Gres=gpu:2 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={port2} CPUs=4 RealMemory=4000 Gres=gpu:2 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE
PartitionName=urgent Nodes=ALL Default=NO MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""


def missing() -> str:
    """Return why no sandbox can run here; empty if it can."""
    absent = [p for p in PROGRAMS if not find(p)]
    return f"no {', '.join(absent)} on this machine" if absent else ""


def find(program: str) -> str | None:
    """Find a daemon's program, which is often outside of a user's PATH."""
    return shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin:/usr/local/sbin")


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


class Sandbox:
    """Nodes n1 and n2 with 4 CPUs and two pretended GPUs each; partitions main, and urgent, which preempts it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("state", "log", "run", "spool/n1", "spool/n2"):
            (root / name).mkdir(parents=True)
        self.environment = os.environ | {"SLURM_CONF": str(root / "slurm.conf")}
        ports = {"port": _free_port(), "port1": _free_port(), "port2": _free_port()}
        host = socket.gethostname().partition(".")[0]
        user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
        (root / "slurm.conf").write_text(CONF.format(root=root, host=host, user=user, **ports))
        for i in range(4):  # any device file will do
            (root / f"gpu{i}").symlink_to("/dev/null")
        (root / "gres.conf").write_text(
            "".join(f"NodeName=n{n + 1} Name=gpu File={root}/gpu[{2 * n}-{2 * n + 1}]\n" for n in range(2))
        )
        key = root / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o600)

    def up(self) -> None:
        """Start everything and wait until both nodes are idle."""
        run = self.root / "run"
        self.ask(
            "munged", "--force", f"--key-file={self.root / 'munge.key'}", f"--socket={run / 'munge.sock'}",
            f"--pid-file={run / 'munged.pid'}", f"--log-file={self.root / 'log' / 'munged.log'}",
            f"--seed-file={run / 'munge.seed'}",
        )  # fmt: skip
        self.ask("slurmctld", "-c")
        for node in ("n1", "n2"):
            self.start_node(node)
        self.until(
            lambda: self.ask("sinfo", "-h", "-N", "-p", "main", "-t", "idle", "-o", "%N").split() == ["n1", "n2"]
        )

    def down(self) -> None:
        """Stop everything, jobs too."""
        with contextlib.suppress(subprocess.SubprocessError, TimeoutError):
            self.ask("scancel", "--partition=main")
            self.ask("scancel", "--partition=urgent")
            self.until(lambda: not self.ask("squeue", "-h"), 40)
        daemons = ("slurmctld", "slurmd.n1", "slurmd.n2", "munged")
        for name in daemons:
            self.kill(name, signal.SIGTERM)
        with contextlib.suppress(TimeoutError):  # they write to the last
            self.until(lambda: not any((self.root / "run" / f"{name}.pid").exists() for name in daemons), 10)

    def start_node(self, node: str) -> None:
        self.ask("slurmd", "-N", node)

    def kill(self, daemon: str, number: int) -> None:
        """Kill a daemon by its own pid file."""
        path = self.root / "run" / f"{daemon}.pid"
        with contextlib.suppress(OSError, ValueError):
            os.kill(int(path.read_text()), number)

    def ask(self, program: str, *arguments: str) -> str:
        """Return the output of a command. Raises CalledProcessError."""
        return subprocess.run(
            [find(program) or program, *arguments],
            env=self.environment, capture_output=True, text=True, check=True, timeout=60,
        ).stdout  # fmt: skip

    def log(self) -> str:
        return (self.root / "log" / "slurmctld.log").read_text()

    @staticmethod
    def until(condition, seconds: float = 60.0) -> None:
        """Wait for it. Raises TimeoutError."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError(f"not so within {seconds} s")
            time.sleep(0.2)
