"""A sweep from plan to report, with a trainer that only pretends."""

import contextlib
import dataclasses
import functools
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from clip_jax import flops
from clip_jax.cli.main import main
from clip_jax.config import RunConfig
from clip_jax.config.io import from_dict, load, run_id
from clip_jax.config.sweep import Resources, SweepConfig
from clip_jax.scaling.analysis.analyze import analyze
from clip_jax.scaling.data.runs_table import fit_rows, prepare
from clip_jax.storage.json_files import write_json
from clip_jax.storage.lock import RunLock
from clip_jax.sweep import control as steer
from clip_jax.sweep.analysis.hyperparameter_scaling import fit_rule, rules_text
from clip_jax.sweep.analysis.report import report, report_of_table
from clip_jax.sweep.collect import collect, lr_evidence
from clip_jax.sweep.driver import render, run_sweep
from clip_jax.sweep.launch.submission import note_exit
from clip_jax.sweep.plan import make_plan
from clip_jax.sweep.status import status_table
from clip_jax.train.result import fields_of_config
from clip_jax.train.run_result import RunResult
from clip_jax.train.vmapped.benchmark import Gain

from ..user_errors import error_fields, raises_user_error

SWEEP = SweepConfig(
    name="fake", rungs=(0.5, 1, 1.5, 2, 3), budgets=tuple(np.geomspace(1e11, 1e13, 6)), sizes_per_budget=4,
    optimum_samples_per_param=4.0, min_steps=5,
)  # fmt: skip


class FakeEngine:
    """Writes what training would have written: a power law with a best size and a little noise."""

    name, max_in_flight, max_jobs_per_submit, poll_s = "fake", None, 4, 0.0

    def __init__(self, fail=(), crash=(), diverge=(), cancel=()):
        self.ran, self.fail, self.crash, self.together = [], set(fail), set(crash), []
        self.diverge, self.cancel = set(diverge), set(cancel)

    def poll(self, run_dirs):
        return {}

    def detach(self):
        pass

    def submit(self, name, jobs):
        for job in jobs:
            if len(job.run_dirs) > 1:
                self.submit_family(name, job)
                continue
            (run_dir,) = job.run_dirs
            config = from_dict(RunConfig, json.loads((run_dir / "request.json").read_text()))
            assert run_id(config) == run_dir.name
            self.ran.append(run_dir.name)
            if len(self.ran) in self.fail or run_dir.name in self.crash:
                job.log.write_text("boom\n")
                note_exit(run_dir, name, 1 if run_dir.name in self.crash else 2)
            else:
                self.finish(run_dir, config)

    def submit_family(self, name, job):
        """Finish a group of runs; members of ``diverge`` fail, and one of ``cancel`` is cancelled halfway."""
        assert job.arguments[:1] == ("family",)
        assert job.arguments[1 : 1 + len(job.run_dirs)] == tuple(map(str, job.run_dirs))
        names = [run_dir.name for run_dir in job.run_dirs]
        self.together.append(names)
        if set(names) & self.cancel:
            (gone,) = self.cancel
            steer.cancel(job.run_dirs[0].parent.parent, [gone])
            for run_dir in job.run_dirs:
                note_exit(run_dir, name, 75)
            return
        job.log.write_text("finished\n")
        for run_dir in job.run_dirs:
            if run_dir.name in self.diverge:
                write_json(run_dir / "status.json", {"state": "failed", "reason": "Diverged: the loss"})
            else:
                self.finish(run_dir, from_dict(RunConfig, json.loads((run_dir / "request.json").read_text())))
            self.ran.append(run_dir.name)
            note_exit(run_dir, name, 2 if self.diverge & set(names) else 0)

    def worse(self, config, spent):
        return 0.0

    def finish(self, run_dir, config):
        counted = flops.params(config.model)
        spent = flops.training_flops(config.model, config.samples_seen, config.batch_size)
        away = np.log(config.samples_seen / counted.total / 4.0)
        rate = np.log(config.optim.peak_lr / (4e-3 * (32 / config.model.image.width) ** 0.5))
        noise = 0.004 * np.sin(int(run_id(config)[:6], 16))
        worse = 0.02 * away**2 + 0.05 * rate**2 + noise + self.worse(config, spent.total)
        error = float(0.8 * (spent.total / 1e11) ** -0.1 * np.exp(worse))
        result = RunResult(
            run_id=run_id(config),
            state="finished",
            exit_reason="all steps done",
            final=True,
            **fields_of_config(config),
            unique_samples=config.samples_seen,
            wall_s=1.0,
            eval_s=0.1,
            samples_per_s=1.0,
            mfu=None,
            attempts=1,
            device={"kind": "cpu"},
            versions={"jax": "0"},
            val_loss=3.0,
            val_loss_refit=3.0,
            error_mean=error,
            broken_records=0,
            evals=[{"task": "colour", "metric": "top1", "value": 1 - error, "examples": 9, "chance": 0.1}],
        )
        write_json(run_dir / "result.json", result.to_json())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Run a sweep with its whole report."""
    launcher, lines, root = FakeEngine(), [], tmp_path_factory.mktemp("sweep") / "s"
    law = run_sweep(SWEEP, root, lines.append, launcher)
    return root, law, launcher, lines


@pytest.fixture
def sweep(trained, tmp_path):
    """Return a copy of the sweep's directory."""
    root, *rest = trained
    return shutil.copytree(root, tmp_path / "s"), *rest


@pytest.fixture(autouse=True)
def _fits_only(monkeypatch):
    """Replace figures, page and other frontiers, which take longer than all the rest and are tested in scaling."""
    monkeypatch.setattr("clip_jax.scaling.report.write.analyze", functools.partial(analyze, full=False))
    monkeypatch.setattr("clip_jax.scaling.report.figures.draw_all", lambda analysis, out: {})
    monkeypatch.setattr("clip_jax.scaling.report.page.write_page", lambda *args: None)


@pytest.mark.thorough
def test_run_sweep_runs_cells_then_seeds_then_learning_rates(sweep):
    root, law, launcher, lines = sweep
    df = collect(root)
    assert len(set(launcher.ran)) == len(launcher.ran) == len(df) == df["final"].sum()
    counts = df["kind"].value_counts()
    assert counts["lr_check"] == 12
    assert counts["second_seed"] >= 6
    best = law["frontier"]
    assert len(best) == 6
    assert all(b["seeds"] == 2 for b in best), "the best of every budget has its second seed"
    assert all(r["falls"] for r in best[:-1])
    assert law["winner"] == "power law"
    assert law["forecast_check"][0]["beats_naive"]
    evidence = lr_evidence(df, "error_mean")
    assert len(evidence) == 18
    assert {v for v in evidence["verdict"] if v} <= {"inside"} | {
        v for v in evidence["verdict"] if v.startswith("flat")
    }
    text = "\n".join(lines)
    assert "[  1/" in text
    assert "forecast check" in text
    assert (root / "report" / "report.html").exists()
    assert (root / "runs.parquet").exists()
    assert len((root / "evals.csv").read_text().splitlines()) == len(df) + 1
    assert {"error/colour", "width", "rung", "budget"} <= set(df.columns)


@pytest.fixture
def unreported(monkeypatch, tmp_path):
    """Run a sweep that ends with its table, without a report, whose fits take longer than all the rest."""
    monkeypatch.setattr("clip_jax.sweep.driver.report", lambda root, echo: {})
    launcher = FakeEngine()
    run_sweep(SWEEP, tmp_path / "s", lambda line: None, launcher)
    return tmp_path / "s", launcher


def test_run_sweep_again_trains_nothing(unreported):
    root, _ = unreported
    again = FakeEngine()
    run_sweep(SWEEP, root, lambda line: None, again)
    assert again.ran == []


def test_run_sweep_completes_missing_runs(unreported):
    root, launcher = unreported
    lost = [launcher.ran[2], launcher.ran[-1]]
    for name in lost:
        (root / "runs" / name / "result.json").unlink()
    again = FakeEngine()
    run_sweep(SWEEP, root, lambda line: None, again)
    assert sorted(again.ran) == sorted(lost)


@pytest.mark.thorough
def test_run_sweep_failed_run_is_reported_and_retried(tmp_path):
    lines = []
    run_sweep(SWEEP, tmp_path, lines.append, FakeEngine(fail={2}))
    assert any("FAILED, exit code 2: boom" in line for line in lines)
    df = collect(tmp_path)
    (bad,) = df[~df["final"]].to_dict("records")
    assert (bad["state"], bad["reason"]) == ("failed", "exit code 2: boom")
    assert "1 failed" in status_table(tmp_path)
    law = json.loads((tmp_path / "report" / "law.json").read_text())
    assert {"run_id": bad["run_id"], "reason": "not finished"} in law["left_out"]
    retry = FakeEngine()
    run_sweep(SWEEP, tmp_path, lambda line: None, retry)
    assert bad["run_id"] in retry.ran


def test_run_sweep_in_a_directory_of_another_sweep_is_refused(unreported):
    root, _ = unreported
    other = dataclasses.replace(SWEEP, base=dataclasses.replace(SWEEP.base, seed=5))
    with raises_user_error(field=re.compile(r"s$"), reason="base.seed is 0 there and 5 here"):
        run_sweep(other, root, lambda line: None, FakeEngine())
    run_sweep(dataclasses.replace(SWEEP, max_concurrent_runs=3), root, lambda line: None, FakeEngine())


def test_run_sweep_crashing_cell_and_corrupt_record_leave_the_rest(tmp_path):
    always, corrupt = (cell.run_id for cell in make_plan(SWEEP).kept[3:5])
    run_dir = tmp_path / "runs" / corrupt
    run_dir.mkdir(parents=True)
    (run_dir / "result.json").write_text('{"state": "fini')
    lines, engine = [], FakeEngine(crash={always})
    law = run_sweep(SWEEP, tmp_path, lines.append, engine)
    assert engine.ran.count(always) == SWEEP.resources.max_attempts
    assert engine.ran.count(corrupt) == 1
    df = collect(tmp_path).set_index("run_id")
    assert df.loc[always, "reason"] == "exit code 1, 4 times: boom"
    assert df.loc[corrupt, "final"]
    assert (~df["final"]).sum() == 1
    assert {"run_id": always, "reason": "not finished"} in law["left_out"]
    printed = "\n".join(lines)
    assert f"{corrupt}/result.json: not JSON" in printed
    assert f"left out, failed: {always}: exit code 1, 4 times: boom" in printed
    (run_dir / "result.json").write_text("{")
    assert collect(tmp_path).set_index("run_id").loc[corrupt, "state"] == "failed", "the table comes all the same"
    assert "1 corrupt" in status_table(tmp_path)


def test_run_sweep_second_driver_names_the_first(tmp_path):
    with contextlib.closing(RunLock(tmp_path)) as lock:
        lock.acquire()
        with raises_user_error(field=tmp_path, reason=f"process {os.getpid()} on"):
            run_sweep(SWEEP, tmp_path, lambda line: None, FakeEngine())


def test_run_sweep_in_an_unwritable_directory_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with raises_user_error(field=tmp_path / "file/s", reason="Not a directory"):
        run_sweep(SWEEP, tmp_path / "file" / "s", lambda line: None, FakeEngine())


def test_render_writes_nothing(tmp_path):
    config = dataclasses.replace(
        SWEEP, engine="slurm", max_concurrent_runs=3, resources=Resources(nodes=2, partition="gpu")
    )
    text = render(config, tmp_path / "s")
    assert "runs kept" in text
    assert f"#SBATCH --array=0-{len(make_plan(SWEEP).kept) - 1}%3\n" in text
    assert "#SBATCH --nodes=2\n" in text
    assert not (tmp_path / "s").exists()


def test_run_sweep_without_a_finished_run_is_refused(tmp_path):
    with raises_user_error(field=tmp_path, reason="exit code 2: boom"):
        run_sweep(SWEEP, tmp_path, lambda line: None, FakeEngine(fail=set(range(1000))))


@pytest.fixture
def measured(monkeypatch):
    """Return a sweep whose vmapped groups gain a factor of two; it ends with the table, without a report."""
    gain = Gain(2, "vmap", 100, 64, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0)
    monkeypatch.setattr("clip_jax.sweep.batching.measure_gain", lambda *_: gain)
    monkeypatch.setattr("clip_jax.sweep.driver.report", lambda root, echo: {})
    return dataclasses.replace(SWEEP, budgets=SWEEP.budgets[:3], vmap_runs="auto")


def test_run_sweep_vmapped_gives_the_same_table(measured, tmp_path):
    engine, alone, lines = FakeEngine(), FakeEngine(), []
    run_sweep(measured, tmp_path / "f", lines.append, engine)
    run_sweep(dataclasses.replace(measured, vmap_runs="off"), tmp_path / "s", lambda line: None, alone)
    assert sorted(engine.ran) == sorted(alone.ran)
    assert [len(names) for names in engine.together] == [2] * 3, "the two rates beside each best"
    assert alone.together == []
    assert collect(tmp_path / "f").equals(collect(tmp_path / "s"))
    assert sum(line.endswith(": used") for line in lines) == 3
    assert "[  6/6] lr_check" in "\n".join(lines)
    engine = FakeEngine()
    wide = dataclasses.replace(measured, budgets=SWEEP.budgets[:1], max_concurrent_runs=2)
    run_sweep(wide, tmp_path / "wide", lines.append, engine)
    assert engine.together == [], "two runs for two slots"


def test_run_sweep_vmapped_failing_member_is_left_out_alone(measured, tmp_path):
    checks = FakeEngine()
    run_sweep(measured, tmp_path / "all", lambda line: None, checks)
    bad, good = checks.together[0]
    engine, lines = FakeEngine(diverge={bad}), []
    run_sweep(measured, tmp_path / "s", lines.append, engine)
    assert sorted(engine.ran) == sorted(checks.ran), "nothing is repeated"
    df = collect(tmp_path / "s").set_index("run_id")
    assert (df.loc[bad, "state"], df.loc[bad, "reason"]) == ("failed", "Diverged: the loss")
    assert df["final"].sum() == len(df) - 1
    assert sum("FAILED" in line for line in lines) == 1
    again = FakeEngine()
    run_sweep(measured, tmp_path / "s", lambda line: None, again)
    assert (again.ran, again.together) == ([bad], []), "tried again by itself"
    assert "finished" in steer.log_of(tmp_path / "s", good), "the log of its family"


def test_run_sweep_vmapped_cancelled_member_leaves_the_others(measured, tmp_path):
    checks = FakeEngine()
    run_sweep(measured, tmp_path / "all", lambda line: None, checks)
    gone, other = checks.together[2]
    lines = []
    engine = FakeEngine(cancel={gone})
    run_sweep(measured, tmp_path / "s", lines.append, engine)
    df = collect(tmp_path / "s").set_index("run_id")
    assert list(df.index[~df["final"]]) == [gone]
    assert engine.ran.count(other) == 1
    assert sum("FAILED, cancelled" in line for line in lines) == 1


def test_run_sweep_impossible_vmap_settings_are_refused(measured, tmp_path, monkeypatch):
    base = dataclasses.replace(SWEEP.base, microbatch_size=8)
    with raises_user_error(field="vmap_runs", reason="microbatch_size=8"):
        run_sweep(dataclasses.replace(measured, base=base), tmp_path / "s", lambda line: None, FakeEngine())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with raises_user_error(field="resources.devices_per_process", reason="2 GPUs"):
        run_sweep(measured, tmp_path / "s", lambda line: None, FakeEngine())


class Tuned(FakeEngine):
    """The best decay grows with the budget and the best batch with its square root; a longer warm-up is worse."""

    def worse(self, config, spent):
        decay = np.log(config.optim.weight_decay / (0.1 * (spent / 1e12) ** 0.25))
        batch = np.log(config.batch_size / (128 * (spent / 1e12) ** 0.5))
        return 0.1 * decay**2 + 0.1 * batch**2 + config.optim.warmup_steps / config.steps


def test_run_sweep_setting_checks_give_rules_and_enter_no_law(tmp_path, monkeypatch):
    monkeypatch.setattr("clip_jax.sweep.driver.report", lambda root, echo: {})
    checked = dataclasses.replace(
        SWEEP, rungs=(1, 2), lr_multipliers=(), weight_decay_multipliers=(0.25, 0.5, 2, 4), warmup_multipliers=(0.5, 2),
        batch_multipliers=(0.0625, 0.125, 0.25, 0.5, 2, 4, 8),
    )  # fmt: skip
    lines = []
    run_sweep(checked, tmp_path, lines.append, Tuned())
    df = collect(tmp_path)
    counts = df["kind"].value_counts()
    assert (counts["decay_check"], counts["warmup_check"]) == (24, 12)
    assert counts["batch_check"] + sum(line.startswith("batch_check") for line in lines) == 42
    fitted, left_out = fit_rows(prepare(df, "error_mean"), "error_mean")
    assert set(fitted["kind"]) == {"cell", "second_seed"}
    assert {"a check of the weight decay", "a check of the batch size"} <= {x["reason"] for x in left_out}
    usual = df[df["kind"] == "cell"]
    assert set(usual["weight_decay"]) == {0.1}
    assert usual["warmup_fraction"].between(0.09, 0.11).all()
    decay, batch = (fit_rule(df, setting=s, x="budget") for s in ("weight_decay", "batch_size"))
    assert decay.power == pytest.approx(0.25, abs=0.03)
    assert batch.power == pytest.approx(0.5, abs=0.05)
    text = rules_text(tmp_path)
    assert "peak_lr: only the usual value was tried; lr_multipliers tries others" in text
    assert "warmup_fraction over budget: not identified: a best warmup_fraction is known at 0 values" in text
    assert "time_scale " in text
    assert "batch_size ≈ " in text
    assert "critical batch, in samples: " in text
    fields = dict(line.strip()[2:].split("=") for line in text.splitlines() if "--" in line)
    assert fields["compute_scaling.weight_decay_power"] == f"{decay.power:.3g}"
    assert fields["base.batch_size"] == "128"
    (tmp_path / "next.json").write_text('{"name": "next"}')
    again = load(SweepConfig, tmp_path / "next.json", fields)
    assert again.base.optim.weight_decay == pytest.approx(0.1, rel=0.1)
    assert again.compute_scaling.base_budget == pytest.approx(1e12, rel=0.05)


@pytest.mark.thorough
def test_report_again_gives_the_same_law(sweep):
    root, law, *_ = sweep
    assert report(root, lambda line: None) == report(root, lambda line: None)
    assert report(root, lambda line: None)["fits"] == law["fits"]
    with raises_user_error(reason="plan.json"):
        report(root / "nothing", lambda line: None)


@pytest.mark.thorough
def test_report_of_table_gives_the_same_law(sweep, tmp_path, capsys):
    root, law, *_ = sweep
    lines = []
    again = report_of_table(root / "runs.csv", str(tmp_path / "out"), "error_mean", lines.append)
    assert [f["values"] for f in again["fits"]] == [f["values"] for f in law["fits"]]
    assert again["lr_evidence"] == law["lr_evidence"]
    assert (tmp_path / "out" / "law.json").exists()
    assert main(["report", str(root), "--out=x"]) == 2
    assert error_fields(capsys.readouterr().err) == ["--out"]


def test_report_of_table_of_the_committed_runs_gives_the_committed_law(tmp_path):
    committed = Path(__file__).parents[2] / "experiments" / "results" / "icons"
    again = report_of_table(committed / "runs.csv", str(tmp_path), "error_mean", lambda line: None)
    law = json.loads((committed / "law.json").read_text())
    assert again["winner"] == law["winner"]
    assert again["rows_sha256"] == law["rows_sha256"]
    for fit, stored in zip(again["fits"], law["fits"], strict=True):
        assert fit["values"] == pytest.approx(stored["values"], rel=1e-4, abs=1e-9)
    assert (tmp_path / "forecast.png").stat().st_size > 10_000
