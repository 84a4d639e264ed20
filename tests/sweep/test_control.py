"""Watching and steering a sweep from outside, by the command line."""

import json
import time

import pytest
import yaml

from clip_jax.cli.main import main
from clip_jax.config.io import to_dict
from clip_jax.config.sweep import Resources, SweepConfig
from clip_jax.storage.json_files import write_json
from clip_jax.storage.lock import RunLock
from clip_jax.sweep.launch.local import Local
from clip_jax.sweep.plan import make_plan
from clip_jax.sweep.status import watch

from ..whole_result import WHOLE

SWEEP = SweepConfig(
    name="s", rungs=(0.5, 1), budgets=(1e9,), sizes_per_budget=0, min_steps=2, seeds=(0, 1), extra_seeds_at_optimum=(),
    resources=Resources(price_per_device_hour=2.0),
)  # fmt: skip


@pytest.fixture
def sweep(tmp_path):
    """Write a sweep directory with a finished, a running, a failed and a waiting run."""
    plan = make_plan(SWEEP)
    write_json(tmp_path / "sweep.json", to_dict(SWEEP))
    write_json(tmp_path / "plan.json", {"cells": plan.rows()})
    dirs = [tmp_path / "runs" / cell.run_id for cell in plan.kept]
    done, runs, failed, _ = dirs
    for run_dir in (done, runs, failed):
        (run_dir / "logs").mkdir(parents=True)
    write_json(done / "result.json", WHOLE | {"steps": 9, "error_mean": 0.5})
    status = {"state": "running", "step": 4, "attempt": 3, "wall_s": 1800.0, "heartbeat": time.time()}
    write_json(runs / "status.json", status)
    row = {"step": 4, "loss": 2.5, "samples_per_s": 10.0, "mfu": 0.25}
    (runs / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    (runs / "events.jsonl").write_text(json.dumps({"event": "attempt", "devices": 8}) + "\n")
    write_json(failed / "failure.json", {"code": 2, "reason": "boom", "log": "attempt-1.log"})
    (failed / "logs" / "attempt-1.log").write_text("first\nboom\n")
    return tmp_path, dirs


def line_of(table, run_dir):
    return next(line for line in table.splitlines() if run_dir.name in line)


def test_sweep_status_shows_the_state_of_each_run(sweep, monkeypatch, capsys):
    root, (done, runs, failed, rest) = sweep
    monkeypatch.setattr(Local, "poll", lambda self, jobs: {runs.name: "running"})
    assert main(["sweep", "status", f"--dir={root}"]) == 0
    table = capsys.readouterr().out
    shown = line_of(table, runs).split()
    assert shown[-7:-1] == ["running", "2.500", "10", "25.0%", "26s", "3"]
    assert shown[-1] == "8.00", "half an hour of eight devices at 2"
    assert f"{1e9:.2e} FLOPs: 1 finished, best error 0.5000 at rung 0.5; 1 waiting" in table
    assert line_of(table, failed).endswith("boom")
    assert "1 failed, 1 finished, 1 running, 1 waiting; 8.00 spent" in table
    monkeypatch.setattr(Local, "poll", lambda self, jobs: {rest.name: "queued"})
    main(["sweep", "status", f"--dir={root}"])
    table = capsys.readouterr().out
    assert "gone" in line_of(table, runs)
    assert "queued" in line_of(table, rest)
    main(["sweep", "status", f"--dir={root}", "--all"])
    assert "finished" in line_of(capsys.readouterr().out, done)


def test_sweep_status_without_the_engine_is_shown(sweep, monkeypatch, capsys):
    root, _ = sweep
    resources = to_dict(Resources(devices_per_process=8, price_per_device_hour=2.0))
    write_json(root / "sweep.json", to_dict(SWEEP) | {"resources": resources})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert main(["sweep", "status", f"--dir={root}"]) == 0
    out = capsys.readouterr().out
    assert "1 failed, 1 finished, 1 running, 1 waiting" in out
    assert "not known which jobs are queued: max_concurrent_runs=1: need 8 GPUs with these resources" in out


def test_watch_continues_until_the_driver_has_ended(sweep):
    root, dirs = sweep
    shown, looks = [], []
    lock = RunLock(root)
    lock.acquire()

    class Engine:
        def poll(self, run_dirs):
            looks.append(None)
            if len(looks) == 2:  # all that is known is over, and the driver plans the next stage
                for run_dir in dirs:
                    run_dir.mkdir(exist_ok=True)
                    write_json(run_dir / "result.json", WHOLE | {"steps": 9})
            elif len(looks) == 4:
                lock.close()
            return {}

    watch(root, Engine(), 0.0, 0.01, shown.append)
    assert len(looks) == 5
    assert len(shown) == 2, "in a file, a table that has not changed is not repeated"
    assert "4 finished" in shown[1]
    assert not any("\x1b" in table for table in shown)


def test_watch_without_a_driver_ends_when_nothing_runs(sweep):
    root, (_, runs, *_) = sweep
    shown, queue = [], [{runs.name: "running"}, {runs.name: "queued"}, {}]

    class Engine:
        def poll(self, run_dirs):
            return queue.pop(0)

    watch(root, Engine(), 0.0, 0.01, shown.append)
    assert not queue
    assert shown[-1] == "  no driver is at work; `clip-jax sweep run` completes the sweep"


def test_watch_clears_a_terminal(sweep, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    shown = []
    watch(sweep[0], None, 0.0, 0.01, lambda text: (shown.append(text), write_json(sweep[1][1] / "status.json", {})))
    assert shown[0].startswith("\x1b[H\x1b[2J")


def test_sweep_cancel_and_retry_set_and_clear_failures(sweep, capsys):
    root, (done, runs, failed, rest) = sweep
    assert main(["sweep", "cancel", f"--dir={root}", rest.name[:6]]) == 0
    assert json.loads((rest / "failure.json").read_text())["reason"] == "cancelled"
    assert main(["sweep", "retry", f"--dir={root}", failed.name]) == 0
    assert not (failed / "failure.json").exists()
    assert (rest / "failure.json").exists()
    assert main(["sweep", "cancel", f"--dir={root}"]) == 0
    assert not (done / "failure.json").exists()
    assert main(["sweep", "retry", f"--dir={root}"]) == 0
    assert not any((d / "failure.json").exists() for d in (done, runs, failed, rest))
    printed = capsys.readouterr().out.splitlines()
    assert [line.partition(" runs")[0] for line in printed] == ["1", "1", "3", "3"]


def test_sweep_logs_prints_every_attempt(sweep, capsys):
    root, (_, _, failed, rest) = sweep
    assert main(["sweep", "logs", f"--dir={root}", failed.name[:6]]) == 0
    assert capsys.readouterr().out.endswith("attempt-1.log:\nfirst\nboom\n\n")
    assert main(["sweep", "logs", f"--dir={root}", rest.name]) == 2
    assert "no log" in capsys.readouterr().err
    assert main(["sweep", "logs", f"--dir={root}", ""]) == 2
    assert "names 4" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        (["--engine=pbs"], "engine='pbs': must be one of local, slurm, jobset"),
        (["--engine=slurm"], "engine: squeue is not installed on this machine; start the sweep where it is"),
        (
            ["--engine=jobset", "--resources.container_image=i", "--resources.pvc_name=c", "--resources.mount_path=/"],
            "engine: kubectl is not installed on this machine; start the sweep",
        ),
    ],
)
def test_sweep_run_without_the_engines_command_is_refused(tmp_path, monkeypatch, capsys, fields, line):
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "s.json").write_text(json.dumps(to_dict(SWEEP) | {"resources": {}}))
    assert main(["sweep", "run", f"--config={tmp_path / 's.json'}", f"--dir={tmp_path / 's'}", *fields]) == 2
    *start, last = capsys.readouterr().err.splitlines()
    known = "--engine=pbs" not in fields
    assert [text.split(": ")[1] for text in start] == ["sweep directory", "data", "engine"] * known
    assert line in last


def test_sweep_run_dry_run_of_pods_prints_yaml(tmp_path, capsys):
    config = tmp_path / "s.json"
    config.write_text(json.dumps(to_dict(SWEEP) | {"resources": {}}))
    pods = [
        "--engine=jobset",
        "--resources.container_image=i",
        "--resources.pvc_name=c",
        f"--resources.mount_path={tmp_path}",
    ]
    assert main(["sweep", "run", "--dry-run", f"--config={config}", f"--dir={tmp_path / 's'}", *pods]) == 0
    out = capsys.readouterr().out
    documents = list(yaml.safe_load_all(out[out.index("---") :]))
    assert [d["kind"] for d in documents] == ["JobSet"] * 4
    assert not (tmp_path / "s").exists()
