"""Runs under Slurm: one job array a submission, in each of its tasks one ``srun`` that starts a run's processes.

Slurm queues, places, preempts and requeues. Only ``sbatch``, ``squeue`` and ``scancel`` are used, in forms that every
version in service has; accounting need not be there.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from clip_jax.config.sweep import Resources
from clip_jax.distributed.cluster import device_variables
from clip_jax.errors import UserError
from clip_jax.storage.paths import is_remote
from clip_jax.sweep.launch.base import Job, ask, user
from clip_jax.sweep.launch.submission import EXIT, submission
from clip_jax.train.run_directory import SUBMISSION

PROGRAM = (sys.executable, "-m", "clip_jax.cli")
# said when the controller is away, not when it refuses
DOWN = ("unable to contact slurm controller", "socket timed out", "connection refused", "temporarily", "zero bytes")
WAITING = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD", "SUSPENDED")


class Slurm:
    """An engine of job arrays. ``slots`` is how many tasks of an array run at once."""

    name = "slurm"
    at_once: int | None = None
    batch = 1000  # 1001 is MaxArraySize where nobody changed it

    def __init__(self, sweep_dir: Path, slots: int, resources: Resources, program: tuple[str, ...] = PROGRAM) -> None:
        """Raises UserError for a directory in a bucket."""
        if is_remote(sweep_dir):
            raise UserError(
                f"engine='slurm': {sweep_dir} is in a bucket; logs and exit codes need a directory that this machine "
                f"and the nodes share"
            )
        self.dir, self.slots, self.resources, self.program = sweep_dir / "slurm", slots, resources, program
        self.poll_s = resources.poll_s

    def submit(self, name: str, jobs: Sequence[Job]) -> None:
        """One array."""
        self.dir.mkdir(parents=True, exist_ok=True)
        ask(("sbatch", "--parsable"), DOWN, self.render(name, jobs))

    def poll(self, jobs: Sequence[Job]) -> dict[str, str]:
        """From ``squeue``, by job name and place in the array."""
        places = _places(jobs)
        return {places[place]: state for place, (_, state) in self._queue().items() if place in places}

    def cancel(self, jobs: Sequence[Job]) -> None:
        """``scancel``; Slurm asks the processes to stop and kills them after its KillWait."""
        places = _places(jobs)
        ids = [job_id for place, (job_id, _) in self._queue().items() if place in places]
        if ids:
            ask(("scancel", *ids), DOWN)

    def leave(self) -> None:
        """The jobs go on without a driver."""

    def _queue(self) -> dict[tuple[str, str], tuple[str, str]]:
        """Of all our live jobs: (name, place) -> (id to cancel it by, state)."""
        out = ask(("squeue", "-h", "-r", "-u", user(), "-o", "%j|%F|%K|%T"), DOWN)
        found = {}
        for line in filter(None, out.splitlines()):
            name, array, place, state = line.strip().rsplit("|", 3)
            found[name, place] = (f"{array}_{place}", "queued" if state in WAITING else "running")
        return found

    def render(self, name: str, jobs: Sequence[Job]) -> str:
        """The script that ``sbatch`` reads."""
        r = self.resources
        last = len(jobs) - 1
        options = [
            f"--job-name={name}",
            f"--array=0-{last}%{min(self.slots, last + 1)}",
            f"--nodes={r.nodes}",
            f"--ntasks-per-node={r.processes_per_node}",
            "--requeue",
            "--open-mode=append",
            f"--output={_word(self.dir / name)}-%a.out",
        ]
        options += [f"--partition={r.partition}"] if r.partition else []
        options += [f"--cpus-per-task={r.cores}"] if r.cores else []
        if r.devices_per_process:
            options.append(f"--gres={r.gres}:{r.devices_per_process * r.processes_per_node}")
        if r.time_limit_min:
            # to the processes of srun, not to this script, which has yet to write down how they ended
            options += [f"--time={r.time_limit_min}", f"--signal=TERM@{r.stop_before_s}"]
        options += r.sbatch
        cores = f" --cpus-per-task={r.cores}" if r.cores else ""
        tasks = [f'  {i}) runs={_words(job.run_dirs)} log={_word(job.log)} arguments={_words(job.arguments)} ;;'
                 for i, job in enumerate(jobs)]  # fmt: skip
        return "\n".join(
            [
                "#!/bin/bash",
                *(f"#SBATCH {option}" for option in options),
                'case "$SLURM_ARRAY_TASK_ID" in',
                *tasks,
                "esac",
                'exec >>"$log" 2>&1',
                "ended() {",  # note the exit code and end with it
                '  for run in "${runs[@]}"; do',
                f'    echo "{{\\"name\\": \\"{name}\\", \\"code\\": $1}}" >"$run/.{EXIT}"',
                f'    mv "$run/.{EXIT}" "$run/{EXIT}"',
                "  done",
                "  trap - EXIT",
                '  exit "$1"',
                "}",
                *_setup(r.setup),
                f"export {SUBMISSION}={name}",
                *(
                    f"export {k}={v}"
                    for k, v in device_variables(_platform(r.gres), r.devices_per_process, r.devices).items()
                ),
                f'srun --kill-on-bad-exit=1{cores} {shlex.join(self.program)} "${{arguments[@]}}"',
                "ended $?",
                "",
            ]
        )


def _platform(gres: str) -> str:
    """What JAX calls the devices of a generic resource; empty where its name does not tell."""
    return "gpu" if gres.partition(":")[0] == "gpu" else ""


def _setup(lines: Sequence[str]) -> list[str]:
    """Shell lines of the user's, of which the first that fails ends the job."""
    if not lines:
        return []
    failed = 'echo "clip-jax: resources.setup: a line of it failed with exit code $code"'
    return [f"trap 'code=$?; {failed}; ended $code' EXIT", "set -e", *lines, "set +e", "trap - EXIT"]


def _word(path: Path) -> str:
    return shlex.quote(str(path))


def _words(items: Sequence[object]) -> str:
    return "(" + shlex.join(map(str, items)) + ")"


def _places(jobs: Sequence[Job]) -> dict[tuple[str, str], str]:
    """(name of the submission, place in it) -> key."""
    found = {}
    for job in jobs:
        try:
            last = submission(job.run_dirs[0])
        except UserError:  # corrupt: its job, if any, will find that another has the run
            last = None
        if last:
            found[last["name"], str(last["index"])] = job.key
    return found
