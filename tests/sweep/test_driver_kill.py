"""A sweep whose driver is killed is completed by the same command. Minutes long: `make test-slow`."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from clip_jax.config.io import to_dict
from clip_jax.config.sweep import SweepConfig
from clip_jax.storage.json_files import read_json


@pytest.mark.slow
def test_sweep_run_completes_after_the_driver_was_killed(tmp_path, tiny_run):
    sweep = SweepConfig(
        name="killed",
        base=tiny_run,
        rungs=(0.5, 1),
        budgets=(1e8, 2e8, 4e8),
        sizes_per_budget=0,
        min_steps=2,
        max_concurrent_runs=2,
    )
    (tmp_path / "s.json").write_text(json.dumps(to_dict(sweep)))
    command = [sys.executable, "-m", "clip_jax.cli", "sweep", "run", f"--config={tmp_path / 's.json'}"]
    root = tmp_path / "sweep"
    driver = subprocess.Popen([*command, f"--dir={root}"], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while len(list(root.glob("runs/*/result.json"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    before = {p: os.stat(p).st_mtime_ns for p in root.glob("runs/*/result.json")}
    assert not (root / "report" / "law.json").exists()
    done = subprocess.run([*command, f"--dir={root}"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (root / "report" / "law.json").exists()
    for path, time_ns in before.items():
        assert os.stat(path).st_mtime_ns == time_ns, "a finished run was repeated"
    for run_dir in (root / "runs").iterdir():
        result = read_json(run_dir / "result.json")
        assert result is not None
        assert result["attempts"] <= 2
