"""Sweeps on a real Slurm: two nodes on this machine. `make test-slurm` runs them."""

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import pytest

from clip_jax.config.io import to_dict
from clip_jax.config.sweep import Resources, SweepConfig
from clip_jax.storage.json_files import read_json
from clip_jax.sweep.launch.base import Job
from clip_jax.sweep.launch.reconcile import reconcile, submit
from clip_jax.sweep.launch.slurm import Slurm

from ..whole_result import WHOLE_TEXT
from .sandbox import Sandbox, missing

pytestmark = [pytest.mark.slurm, pytest.mark.skipif(bool(missing()), reason=missing())]
COORDINATOR = "export JAX_COORDINATOR_ADDRESS=127.0.0.1:$((61440+SLURM_JOB_ID%4096))"  # n1 and n2 are no host names


@pytest.fixture(scope="module")
def slurm():
    """Start the sandbox."""
    root = Path(tempfile.mkdtemp(prefix="clip-jax-slurm-"))  # short: a socket's path has its limit
    sandbox = Sandbox(root)
    try:
        sandbox.up()
        yield sandbox
    finally:
        sandbox.down()
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
def in_slurm(slurm, monkeypatch):
    """Let an engine in this process use the sandbox."""
    monkeypatch.setenv("SLURM_CONF", slurm.environment["SLURM_CONF"])
    return slurm


def jobs_of(tmp_path, *programs):
    """Return jobs of a shell program each; in it, "$1" is the run's directory."""
    return [Job((tmp_path / f"r{i}",), (program, "-", str(tmp_path / f"r{i}"))) for i, program in enumerate(programs)]


def engine(tmp_path, slots=4, **resources):
    return Slurm(tmp_path, slots, Resources(poll_s=0.3, **resources), program=("bash", "-c"))


def names(path):
    return sorted(p.name for p in path.iterdir())


FINISH = f"echo '{WHOLE_TEXT}' > \"$1/result.json\""


def test_an_array_with_devices_and_what_a_crash_leaves(in_slurm, tmp_path):
    engine_ = engine(tmp_path, devices_per_process=2, setup_commands=("export GREETING=hello",))
    see = "touch $1/on; ls $1/../*/on | wc -l; sleep 1; rm $1/on; echo $GREETING $CUDA_VISIBLE_DEVICES"
    jobs = jobs_of(tmp_path, *[f"{see}; {FINISH}"] * 3, "echo bad; exit 2", "kill -9 $$")
    seen = []
    reconcile(engine_, jobs, 2, seen.append)
    outcomes = {o.job.key: o.reason for o in seen}
    assert outcomes == {
        "r0": "", "r1": "", "r2": "", "r3": "exit code 2: bad",
        "r4": outcomes["r4"],
    }  # fmt: skip
    assert outcomes["r4"].startswith("killed by SIGKILL, 2 times")
    for job in jobs[:3]:
        at_once, later = job.log.read_text().split("\n")[:2]
        assert int(at_once) <= 2, "four devices, two a job"
        assert later == "hello 0,1"
    assert names(tmp_path / "r4" / "logs") == ["attempt-1.log", "attempt-2.log"]


def test_a_time_limit_leaves_time_to_save_and_the_run_goes_on(in_slurm, tmp_path):
    save = 'trap "mkdir -p $1/checkpoints/7; exit 75" TERM'
    program = f'if [ -e "$1/checkpoints" ]; then {FINISH}; else {save}; sleep 100 & wait; fi'
    jobs = jobs_of(tmp_path, program)
    seen = []
    reconcile(engine(tmp_path, time_limit_min=1, grace_period_s=50), jobs, 1, seen.append)
    assert [o.reason for o in seen] == [""], "a run that made a checkpoint has its tries again"
    assert json.loads((tmp_path / "r0" / "submission.json").read_text())["attempt"] == 2


def test_what_is_cancelled_is_gone_and_a_lost_driver_finds_its_jobs(in_slurm, tmp_path):
    program = 'trap "touch $1/saved; exit 75" TERM; touch $1/up; sleep 100 & wait'
    jobs = jobs_of(tmp_path, program, program)
    submit(engine(tmp_path), jobs)
    Sandbox.until(lambda: all((job.run_dirs[0] / "up").exists() for job in jobs))
    next_driver, run_dirs = engine(tmp_path), [job.run_dirs[0] for job in jobs]
    assert next_driver.poll(run_dirs) == {"r0": "running", "r1": "running"}
    next_driver.cancel(run_dirs[:1])
    Sandbox.until(lambda: next_driver.poll(run_dirs) == {"r1": "running"})
    assert (tmp_path / "r0" / "saved").exists()
    next_driver.cancel(run_dirs)
    Sandbox.until(lambda: next_driver.poll(run_dirs) == {})


def columns(root):
    """Return the numbers of a sweep without its timings."""
    table = pd.read_csv(root / "runs.csv").sort_values("run_id").reset_index(drop=True)
    return table.drop(columns=["wall_s", "eval_s", "samples_per_s", "mfu", "attempts", "goodput"])


def training(root, since=0.0):
    """Return the runs whose processes began after this moment and have not ended."""
    states = [read_json(path) or {} for path in root.glob("runs/*/status.json")]
    return [s for s in states if s["state"] == "running" and s["started"] > since]


def test_a_sweep_comes_through_preemption_a_lost_node_and_a_lost_driver(slurm, tmp_path, tiny_run):
    sweep = SweepConfig(
        name="hard", base=dataclasses.replace(tiny_run, checkpoint_every=20), rungs=(0.5, 1), budgets=(2e8, 4e8, 8e8),
        sizes_per_budget=0, min_steps=2, extra_seeds_at_optimum=(), lr_multipliers=(), max_concurrent_runs=3,
        engine="slurm", resources=Resources(
            nodes=2, poll_s=1.0, setup_commands=(COORDINATOR,), python=f"env TRIED=prefix {sys.executable}"
        ),
    )  # fmt: skip
    root, config, driver_log = tmp_path / "sweep", tmp_path / "s.json", tmp_path / "driver.log"
    config.write_text(json.dumps(to_dict(sweep)))
    environment = slurm.environment | {"XLA_FLAGS": "", "CLIP_JAX_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "clip_jax.cli", "sweep", "run", f"--config={config}"]

    def drive():
        with driver_log.open("a") as log:
            return subprocess.Popen([*command, f"--dir={root}"], env=environment, stdout=log, stderr=log)

    driver = drive()
    try:
        Sandbox.until(lambda: len(training(root)) == 3 and any(root.glob("runs/*/metrics.jsonl")), 240)
        slurm.ask("sbatch", "-p", "urgent", "-N2", "--ntasks-per-node=1", "-c4", "--output=/dev/null", "--wrap=sleep 1")
        Sandbox.until(lambda: slurm.log().count("has been requeued to reclaim") >= 3)
        preempted = time.time()
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        driver = drive()
        Sandbox.until(lambda: len(training(root, preempted)) >= 2, 240)
        slurm.kill("slurmd.n2", signal.SIGKILL)
        slurm.ask("scontrol", "update", "nodename=n2", "state=down", "reason=lost")  # as it would find itself, later
        Sandbox.until(lambda: "due to failure of node n2" in slurm.log())
        slurm.start_node("n2")
        assert driver.wait(600) == 0, driver_log.read_text()
    finally:
        driver.kill()
        driver.wait()
    results = [read_json(path) for path in root.glob("runs/*/result.json")]
    attempts = [e for result in results for e in result["events"] if e["event"] == "attempt"]
    assert {e["processes"] for e in attempts} == {2}
    assert len(attempts) > len(results) == 6

    # one process with two devices does the same sums
    alone = environment | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    fields = ["--engine=local", "--max_concurrent_runs=2", '--resources={"nodes": 1}']
    done = subprocess.run([*command, f"--dir={tmp_path / 'local'}", *fields], env=alone, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pd.testing.assert_frame_equal(columns(root), columns(tmp_path / "local"), check_exact=False, rtol=1e-5)
