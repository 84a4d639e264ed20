"""A sweep whose directory is in a bucket, from plan to report."""

import json

import pandas as pd
import pytest

from clip_jax.cli.main import main
from clip_jax.config.io import to_dict
from clip_jax.config.sweep import SweepConfig
from clip_jax.storage.paths import as_path
from clip_jax.sweep.collect import collect
from clip_jax.sweep.directory import lock_sweep
from clip_jax.sweep.driver import run_sweep
from clip_jax.sweep.launch.submission import note_exit, set_aside_corrupt
from clip_jax.sweep.run_state import RunState

from ..user_errors import error_fields, raises_user_error

THERE = "gs://bucket/sweep"
CLOCK = ("wall_s", "eval_s", "samples_per_s", "mfu", "goodput", "attempts")


class InProcess:
    """An engine that trains in this process; ``stop`` makes it pause the first run and the driver die."""

    name, max_in_flight, max_jobs_per_submit, poll_s = "in-process", None, 1, 0.0

    def __init__(self, stop=False):
        self.stop = stop

    def poll(self, run_dirs):
        return {}

    def detach(self):
        pass

    def submit(self, name, jobs):
        for job in jobs:
            code = main([*job.arguments, *(["--until=2"] if self.stop else [])])
            if self.stop:
                raise KeyboardInterrupt
            note_exit(job.run_dirs[0], name, code)


@pytest.fixture
def config(tiny_run):
    return SweepConfig(
        name="two",
        base=tiny_run,
        rungs=(0.5,),
        budgets=(1e8, 2e8),
        min_steps=2,
        extra_seeds_at_optimum=(),
        lr_multipliers=(),
    )


@pytest.mark.thorough
def test_bucket_sweep_equals_a_local_sweep(bucket, config, tmp_path, capsys):
    law = run_sweep(config, tmp_path / "s", lambda line: None, InProcess())
    with pytest.raises(KeyboardInterrupt):
        run_sweep(config, THERE, lambda line: None, InProcess(stop=True))
    lines = []
    in_bucket = run_sweep(config, THERE, lines.append, InProcess())
    rows = {"rows_sha256": None}  # which holds times
    assert in_bucket | rows == law | rows
    pd.testing.assert_frame_equal(
        collect(THERE).drop(columns=list(CLOCK)), collect(tmp_path / "s").drop(columns=list(CLOCK))
    )
    assert max(collect(THERE)["attempts"]) == 2, "the run that was paused went on"
    folders = {name.partition("/")[0] for name in bucket.names("sweep/")}
    assert folders == {p.name for p in (tmp_path / "s").iterdir()} - {".lock"} | {".lease"}
    assert set(bucket.names("sweep/report/")) == {p.name for p in (tmp_path / "s" / "report").iterdir()}
    assert lines[-1].endswith(f"{THERE}/report/report.html")
    capsys.readouterr()
    tables = []
    for root in (THERE, str(tmp_path / "s")):
        assert main(["sweep", "status", f"--dir={root}"]) == 0
        tables.append(capsys.readouterr().out)
    assert "2 finished" in tables[0]
    assert [line.split()[:8] for line in tables[0].splitlines()] == [
        line.split()[:8] for line in tables[1].splitlines()
    ]
    broken = next(name for name in bucket.names("") if name.endswith("result.json"))
    bucket.put(broken, b"{", {})
    assert main(["sweep", "status", f"--dir={THERE}"]) == 0
    assert "corrupt" in (line := next(x for x in capsys.readouterr().out.splitlines() if "not JSON" in x))
    assert f"gs://bucket/{broken}: not JSON" in line
    assert collect(THERE)["state"].tolist().count("failed") == 1
    set_aside_corrupt(RunState.read(as_path(f"gs://bucket/{broken}").parent), lines.append)
    assert lines[-1].endswith("moved to result.json.corrupt")
    assert bucket.text(f"{broken}.corrupt") == "{"


def test_bucket_sweep_second_driver_is_refused(bucket, config):
    lease = lock_sweep(config, as_path(THERE))
    with raises_user_error(field="gs://bucket/sweep", reason="drives"):
        run_sweep(config, THERE, lambda line: None, InProcess())
    lease.close()
    lock_sweep(config, as_path(THERE)).close()


def test_bucket_sweep_refuses_slurm_and_needs_no_volume_claim(bucket, config, tmp_path, capsys):
    file = tmp_path / "c.json"
    file.write_text(json.dumps(to_dict(config)))
    dry = ["sweep", "run", f"--config={file}", "--dry-run"]
    assert main([*dry, f"--dir={THERE}", "--engine=slurm"]) == 2
    assert error_fields(capsys.readouterr().err) == ["engine"]
    pods = [*dry, "--engine=jobset", "--resources.container_image=i"]
    assert main([*pods, f"--dir={tmp_path}"]) == 2
    assert error_fields(capsys.readouterr().err) == ["resources.mount_path, resources.pvc_name"]
    assert main([*pods, f"--dir={THERE}", "--resources.pvc_name=c", "--resources.mount_path=/c"]) == 2
    assert error_fields(capsys.readouterr().err) == ["resources.mount_path, resources.pvc_name"]
    assert main([*pods, f"--dir={THERE}"]) == 0
    written = capsys.readouterr().out
    assert "- --dir=gs://bucket/sweep/runs/" in written
    assert "olume" not in written
    assert bucket.names("") == [], "a dry run writes nothing"
