"""The Slurm engine: one job array per submission; each of its tasks starts a run's processes with one ``srun``.

Slurm queues, places, preempts and requeues. Only ``sbatch``, ``squeue`` and ``scancel`` are used, with options that
every version in service has; accounting is not needed.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from clip_jax.config.sweep import Resources
from clip_jax.distributed.cluster import compile_cache_of, device_variables
from clip_jax.errors import UserError
from clip_jax.storage.paths import is_remote
from clip_jax.sweep.launch.base import Job, run_command, user_name
from clip_jax.sweep.launch.submission import read_submission
from clip_jax.sweep.run_state import EXIT
from clip_jax.train.run_directory import SUBMISSION

# parts of messages when the controller does not answer, as opposed to when it refuses
DOWN = ("unable to contact slurm controller", "socket timed out", "connection refused", "temporarily", "zero bytes")
QUEUED_STATES = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD", "SUSPENDED")


class Slurm:
    """Engine of job arrays. ``slots`` is the number of tasks of an array that run at once."""

    name = "slurm"
    max_in_flight: int | None = None
    max_jobs_per_submit = 1000  # MaxArraySize is 1001 by default

    def __init__(
        self, sweep_dir: Path, slots: int, resources: Resources, program: tuple[str, ...] | None = None
    ) -> None:
        """Check that the directory is no bucket; raise UserError if it is. ``program`` replaces clip-jax."""
        if is_remote(sweep_dir):
            raise UserError(
                field="engine",
                value="slurm",
                reason=f"cannot take {sweep_dir}, which is in a bucket",
                hint="logs and exit codes need a directory that this machine and the nodes share",
            )
        self.sweep_dir, self.dir, self.slots, self.resources = sweep_dir, sweep_dir / "slurm", slots, resources
        python = resources.python or ("python3" if resources.container_image else shlex.quote(sys.executable))
        self.program = f"{python} -m clip_jax.cli" if program is None else shlex.join(program)  # in the shell's words
        self.poll_s = resources.poll_s

    def submit(self, name: str, jobs: Sequence[Job]) -> None:
        """Submit the jobs as one array."""
        self.dir.mkdir(parents=True, exist_ok=True)
        run_command(("sbatch", "--parsable"), DOWN, self.render(name, jobs))

    def poll(self, run_dirs: Sequence[Path]) -> dict[str, str]:
        """Return the states by ``squeue``, matched by job name and index in the array."""
        positions, queue = _positions(run_dirs), self._queue()
        return {run: queue[position][1] for run, position in positions.items() if position in queue}

    def cancel(self, run_dirs: Sequence[Path]) -> None:
        """Cancel with ``scancel``; Slurm asks the processes to stop and kills them after its KillWait."""
        positions = set(_positions(run_dirs).values())
        ids = [job_id for position, (job_id, _) in self._queue().items() if position in positions]
        if ids:
            run_command(("scancel", *ids), DOWN)

    def detach(self) -> None:
        """Do nothing: the jobs continue without a driver."""

    def _queue(self) -> dict[tuple[str, str], tuple[str, str]]:
        """Return all live jobs of the user: (name, index) -> (id to cancel it by, state)."""
        out = run_command(("squeue", "-h", "-r", "-u", user_name(), "-o", "%j|%F|%K|%T"), DOWN)
        tasks = {}
        for line in filter(None, out.splitlines()):
            name, array, position, state = line.strip().rsplit("|", 3)
            tasks[name, position] = (f"{array}_{position}", "queued" if state in QUEUED_STATES else "running")
        return tasks

    def render(self, name: str, jobs: Sequence[Job]) -> str:
        """Return the script that ``sbatch`` reads."""
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
        options += [f"--cpus-per-task={r.cpus_per_process}"] if r.cpus_per_process else []
        if r.devices_per_process:
            options.append(f"--gres={r.gres}:{r.devices_per_process * r.processes_per_node}")
        if r.time_limit_min:
            # signals the processes of srun but not this script, which must still write their exit code
            options += [f"--time={r.time_limit_min}", f"--signal=TERM@{r.grace_period_s}"]
        options += r.sbatch
        srun = ["srun", "--kill-on-bad-exit=1"]
        srun += [f"--cpus-per-task={r.cpus_per_process}"] if r.cpus_per_process else []
        srun += self._container()
        variables = device_variables(_platform(r.gres), r.devices_per_process, r.devices)
        variables |= compile_cache_of(self.sweep_dir) | r.variables
        tasks = [f'  {i}) runs={_words(job.run_dirs)} log={_word(job.log)} arguments={_words(job.arguments)} ;;'
                 for i, job in enumerate(jobs)]  # fmt: skip
        return "\n".join(
            [
                "#!/bin/bash",
                *(f"#SBATCH {option}" for option in options),
                *(f"# checked: {line}" for line in self._checks(training=jobs[0].made is None)),
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
                *_setup(r.setup_commands),
                f"export {SUBMISSION}={name}",
                *(f"export {k}={shlex.quote(v)}" for k, v in variables.items()),
                f'{" ".join(srun)} {self.program} "${{arguments[@]}}"',
                "ended $?",
                "",
            ]
        )

    def _container(self) -> list[str]:
        """Return the options that start pyxis's container, which sees the sweep's directory under its own path."""
        if not self.resources.container_image:
            return []
        mounts = ",".join((f"{self.sweep_dir}:{self.sweep_dir}", *self.resources.container_mounts))
        return [f"--container-image={_word(self.resources.container_image)}", f"--container-mounts={_word(mounts)}"]

    def _checks(self, *, training: bool) -> list[str]:
        """Return what a job checks before it begins, in words; the script has them as comments."""
        r, platform = self.resources, _platform(self.resources.gres)
        lines = ["each line of resources.setup_commands ends without an error"] if r.setup_commands else []
        if r.devices_per_process:
            kind = f"{platform} devices" if platform else "devices"
            lines.append(f"JAX finds {r.devices_per_process} {kind} in each process, {r.devices} in all")
        return [*lines, *(["the run's data opens, and belongs to the run if it goes on"] if training else [])]


def _platform(gres: str) -> str:
    """Return JAX's name of a generic resource's devices; empty if the resource's name does not tell."""
    return "gpu" if gres.partition(":")[0] == "gpu" else ""


def _setup(lines: Sequence[str]) -> list[str]:
    """Return the user's shell lines, wrapped so that the first one that fails ends the job."""
    if not lines:
        return []
    failed = 'echo "clip-jax: resources.setup_commands: a line of it failed with exit code $code"'
    return [f"trap 'code=$?; {failed}; ended $code' EXIT", "set -e", *lines, "set +e", "trap - EXIT"]


def _word(path: Path | str) -> str:
    return shlex.quote(str(path))


def _words(items: Sequence[object]) -> str:
    return "(" + shlex.join(map(str, items)) + ")"


def _positions(run_dirs: Sequence[Path]) -> dict[str, tuple[str, str]]:
    """Return (name of the submission, index in it) of the runs that were submitted, by run id."""
    submissions = {run_dir.name: read_submission(run_dir) for run_dir in run_dirs}
    return {run: (last["name"], str(last["index"])) for run, last in submissions.items() if last}
