"""A sweep's forecast: written once, before its runs; graded by the runs that it named."""

import dataclasses
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from clip_jax.cli.main import main
from clip_jax.config.io import to_dict
from clip_jax.config.sweep import SweepConfig
from clip_jax.scaling.analysis.averaging import NO_BREAK
from clip_jax.scaling.analysis.frontier_fit import FrontierFit
from clip_jax.scaling.planning.preregistration import preregister_targets
from clip_jax.scaling.planning.through_loss import Through
from clip_jax.storage.json_files import write_json
from clip_jax.sweep.analysis.forecast import grade_forecast, register_forecast
from clip_jax.sweep.analysis.registrations import registered_rows
from clip_jax.sweep.analysis.report import report_of_table
from clip_jax.sweep.plan import make_cell, plan_of

from ...user_errors import raises_user_error

SWEEP = SweepConfig(
    name="s", rungs=(0.5, 1, 1.5, 2, 3), budgets=tuple(np.geomspace(1e11, 1e13, 6)), sizes_per_budget=3,
    optimum_samples_per_param=4.0, min_steps=5, extra_seeds_at_optimum=(1, 2),
)  # fmt: skip
TARGET = 2.5e13


def trained(config, noise=0.004):
    """Return the table that runs of a planted power law would have recorded."""
    rng, rows = np.random.default_rng(0), []
    for cell in plan_of(config).kept:
        for seed in (*config.seeds, *config.extra_seeds_at_optimum):
            run = make_cell(config, cell.size, cell.budget, seed)
            away = np.log(run.config.samples_seen / run.params / 4.0)
            error = 0.8 * (run.flops / 1e11) ** -0.1 * np.exp(0.02 * away**2 + noise * rng.standard_normal())
            rows.append({
                "run_id": run.run_id, "budget": cell.budget, "flops": run.flops, "params": run.params,
                "samples_seen": run.config.samples_seen, "seed": seed, "rung": cell.size, "kind": "cell",
                "state": "finished", "final": True, "batch_size": 64, "error_mean": error,
            })  # fmt: skip
    return pd.DataFrame(rows)


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """Return (its directory, a function that puts runs into its table)."""
    write_json(tmp_path / "sweep.json", to_dict(SWEEP))
    write_json(tmp_path / "plan.json", {"cells": []})
    same = {"run_id": "a", "budget": 1e13, "params": 9, "seed": 0, "kind": "cell", "low": 0, "high": 1}
    evals = [{**same, "task": t, "metric": "top1", "value": 0.5, "examples": 400, "chance": 0.1} for t in ("x", "y")]
    pd.DataFrame(evals).to_csv(tmp_path / "evals.csv", index=False)
    table = {"rows": trained(SWEEP)}
    monkeypatch.setattr("clip_jax.sweep.collect.collect", lambda root: table["rows"])
    return tmp_path, lambda rows: table.update(rows=rows)


def read_forecasts(root, name="1.json", key="forecasts"):
    """Return what a registration, or its outcome, holds."""
    return json.loads((root / "forecasts" / name).read_text())[key]


def with_loss(table):
    """Return a table with a planted law of val_loss, and an error that follows it; more rows leave the first alone."""
    noise = [np.random.default_rng(seed).standard_normal(len(table)) for seed in (1, 2)]
    best = table["params"] / np.sqrt(table["flops"] / 24)  # four samples per parameter, six FLOPs for each
    loss = (1 + 2.5 * (table["flops"] / 1e11) ** -0.15) * np.exp(0.01 * np.log(best) ** 2)
    loss *= np.exp(0.003 * noise[0])
    error = 0.9 / (1 + np.exp(-6 * (loss / 2.5 - 1))) * np.exp(0.005 * noise[1])
    return table.assign(val_loss=loss, error_mean=error)


@pytest.mark.thorough
def test_forecasts_of_targets_and_metrics_are_graded_as_their_runs_finish(sweep, capsys):
    root, put = sweep
    put(with_loss(trained(SWEEP)))
    targets = [2e13, 5e13, 1e14]
    words = ["--at=2e13,5e13,1e14", "--metrics=error_mean,val_loss", "--through=val_loss"]
    assert main(["sweep", "forecast", f"--dir={root}", *words]) == 0
    printed = capsys.readouterr().out
    registered = read_forecasts(root)
    kinds = [("error_mean", False), ("val_loss", False), ("error_mean", True)]
    assert [(f["metric"], "through" in f, f["target"]) for f in registered] == [(*k, t) for k in kinds for t in targets]
    assert printed.count("of the measured mean") == len(registered)
    assert all(f["through"]["link"]["points"] == len(trained(SWEEP)) for f in registered[6:])
    first = registered[6]
    (alone,) = preregister_targets(
        with_loss(trained(SWEEP)), "error_mean", (targets[0],), seeds=3, pictures=first["noise"]["pictures"],
        chance=first["chance"], through=Through("val_loss", first["through"]["chance"]),
    )  # fmt: skip
    assert {key: first[key] for key in ("predicted", "mean", "run")} == {
        key: alone[key] for key in ("predicted", "mean", "run")
    }, "it does not depend on other targets"
    assert {r["flops"] > 4e13 for f in registered if f["target"] == 5e13 for r in f["runs"]} == {True}

    more = with_loss(trained(dataclasses.replace(SWEEP, budgets=(*SWEEP.budgets, targets[0]))))
    put(more)
    assert main(["sweep", "forecast", f"--dir={root}"]) == 0
    assert capsys.readouterr().out.count("not graded, ") == 6
    assert len(read_forecasts(root, "1.outcome.json", "outcomes")) == 3

    put(with_loss(trained(dataclasses.replace(SWEEP, budgets=(*SWEEP.budgets, *targets)))))
    assert main(["sweep", "forecast", f"--dir={root}"]) == 0
    graded = read_forecasts(root, "1.outcome.json", "outcomes")
    assert [(o["metric"], o["target"]) for o in graded] == [(m, t) for m, _ in kinds for t in targets]
    assert all(o["inside"] and not o["amendments"] for o in graded)
    through = [o for o in graded if o["form"] == "through val_loss"]
    assert all(abs(o["error"]) < 0.2 * o["measured"] for o in through)
    assert (root / "forecast.png").is_file()


def test_a_former_forecast_file_is_graded_as_before(sweep):
    root, put = sweep
    register_forecast(root, TARGET)
    former = read_forecasts(root)[0]
    (root / "forecasts" / "1.json").unlink()
    former = {key: value for key, value in former.items() if key != "noise_floor"}
    write_json(root / "forecast.json", former)
    with raises_user_error(field=re.compile(r"forecast\.json$"), reason="registered already"):
        register_forecast(root, TARGET)
    put(trained(dataclasses.replace(SWEEP, budgets=(*SWEEP.budgets, TARGET))))
    assert "inside the band" in grade_forecast(root)
    outcome = json.loads((root / "outcome.json").read_text())
    assert outcome["inside"]
    assert not {"form", "noise_floor"} & set(outcome)
    assert not list((root / "forecasts").glob("*"))


@pytest.mark.parametrize("words", [["--through=val_loss"], ["--metrics=val_loss"]])
def test_forecast_options_without_a_target_are_refused(sweep, capsys, words):
    assert main(["sweep", "forecast", f"--dir={sweep[0]}", *words]) == 2
    assert "--at=FLOPS" in capsys.readouterr().err


def test_a_loss_among_the_metrics_alone_has_no_way_through(sweep):
    with raises_user_error(field="--through", value="val_loss"):
        register_forecast(sweep[0], TARGET, ["val_loss"], "val_loss")


def test_forecast_is_registered_then_graded_after_training(sweep, capsys):
    root, put = sweep
    trained(SWEEP)
    assert main(["sweep", "forecast", f"--dir={root}", f"--at={TARGET}"]) == 0
    out, err = capsys.readouterr()
    start = f"clip-jax: reading {root}: {len(trained(SWEEP))} runs, {len(trained(SWEEP))} finished"
    assert err.startswith(f"{start}\nclip-jax: fitting error_mean of ")
    assert err.endswith(f"clip-jax: writing {root}/forecasts/1.json\n")
    registered = read_forecasts(root)[0]
    assert "commit it, then train with --budgets='[100000000000.0, " in out
    assert f"{registered['predicted']:.4f}, 95 % band" in out
    assert registered["noise"]["pictures"] == [[0.5, 400], [0.5, 400]]  # two tasks
    assert registered["noise"]["seeds"] == 3
    assert len(registered["runs"]) == 9
    grown = dataclasses.replace(SWEEP, budgets=(*SWEEP.budgets, TARGET))
    put(trained(grown))
    assert main(["sweep", "forecast", f"--dir={root}"]) == 0
    out, err = capsys.readouterr()
    assert err.endswith(f" finished\nclip-jax: writing {root}/forecasts/1.outcome.json\n")
    graded = read_forecasts(root, "1.outcome.json", "outcomes")[0]
    assert graded["inside"]
    assert "inside the band" in out
    assert "not as registered: nothing" in out
    assert {s["run_id"] for s in graded["seeds"]} <= {r["run_id"] for r in registered["runs"]}
    assert (root / "forecast.png").stat().st_size > 10_000


def test_register_forecast_text_has_the_union_and_the_limit(sweep):
    root, _ = sweep
    text = register_forecast(root, TARGET)
    registered = read_forecasts(root)[0]
    assert "[{}, {}]".format(*("open" if e is None else f"{e:.4f}" for e in registered["union"])) in text
    assert registered["averaging"]["limit"] == NO_BREAK
    assert NO_BREAK in text
    assert registered["warnings"] == []


@pytest.mark.thorough
def test_register_forecast_says_why_a_side_is_open(sweep, monkeypatch):
    root, whole = sweep[0], FrontierFit.prediction_at
    monkeypatch.setattr(FrontierFit, "prediction_at", lambda f, c: replace(whole(f, c), converged=(False, True)))
    text = register_forecast(root, TARGET)
    registered = read_forecasts(root)[0]
    reason = "the band of the power law at the target is open below: the fits behind it did not converge"
    assert reason in registered["warnings"]
    assert f"note: {reason}" in text
    assert registered["union"][0] is None
    assert "all forms together: [open, " in text


def test_grade_forecast_names_unregistered_runs(sweep):
    root, put = sweep
    register_forecast(root, TARGET)
    grown = trained(dataclasses.replace(SWEEP, budgets=(*SWEEP.budgets, TARGET)))
    extra = grown[grown["budget"] == TARGET].iloc[:1].assign(run_id="other", seed=7)
    put(pd.concat([grown, extra]))
    assert "not as registered: run other (rung " in grade_forecast(root)


def test_register_forecast_once_and_before_the_runs(sweep):
    root, put = sweep
    with raises_user_error(reason="no forecast", hint="--at=FLOPS"):
        grade_forecast(root)
    register_forecast(root, TARGET)
    with raises_user_error(field=re.compile(r"forecasts/1\.json$"), reason="registered already"):
        register_forecast(root, TARGET)
    with raises_user_error(field="target", value=2.5e13, reason="has finished"):
        grade_forecast(root)
    (root / "forecasts" / "1.json").unlink()
    put(trained(dataclasses.replace(SWEEP, budgets=(*SWEEP.budgets, TARGET))))
    with raises_user_error(field="target", value=2.5e13, hint="before its runs"):
        register_forecast(root, TARGET)


def test_register_forecast_of_an_unfinished_sweep_counts_missing_cells(sweep):
    root, put = sweep
    rows = trained(SWEEP)
    rows.loc[rows.index[-3:], "state"] = "missing"
    rows.loc[rows.index[:2], "state"] = "failed"  # left out of the law, as in a report
    put(rows)
    with raises_user_error(field=root, reason=f"3 of {len(rows)} cells are unfinished"):
        register_forecast(root, TARGET)
    assert not (root / "forecasts").exists()


def test_forecast_of_a_sweep_with_one_seed_names_the_field(sweep):
    root, _ = sweep
    one_seed = dataclasses.replace(SWEEP, extra_seeds_at_optimum=())
    write_json(root / "sweep.json", to_dict(one_seed))
    with raises_user_error(field="extra_seeds_at_optimum"):
        register_forecast(root, TARGET)
    assert not (root / "forecasts").exists()


def test_report_of_a_table_gets_the_forecast_registered_beside_it(tmp_path, monkeypatch):
    icons = Path(__file__).parents[3] / "experiments" / "results" / "icons"
    (row,) = registered_rows(icons)
    assert (row["registration"], row["times"], row["inside"]) == ("forecast", 1e13 / 4.6e12, True)
    assert row["off"] == row["predicted"] / row["measured"] - 1
    passed = {}
    monkeypatch.setattr("clip_jax.scaling.report.write.write_report", lambda *args, **fields: passed.update(fields))
    monkeypatch.setattr("clip_jax.scaling.report.write.text_summary", lambda law: "")
    report_of_table(icons / "runs.csv", str(tmp_path), "error_mean", lambda line: None)
    assert passed["forecasts"] == [row]
    assert (tmp_path / "forecast.png").is_file()


DAMAGED = [
    ("forecasts/1.json", "{", "JSON"),
    ("forecasts/1.json", {}, "lacks the field forecasts"),
    ("forecasts/1.json", {"forecasts": None}, "must be a list"),
    ("forecasts/1.json", {"forecasts": [3]}, "must be an object"),
    ("forecasts/1.json", {"forecasts": [{"metric": "error_mean"}]}, "lacks the field target"),
    ("forecast.json", {"a": 1}, "lacks the field metric"),
    ("forecasts/1.outcome.json", {"outcomes": [{}]}, "lacks the field metric"),
]


@pytest.mark.parametrize(("name", "content", "reason"), DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_registration_is_named(tmp_path, name, content, reason):
    (tmp_path / "forecasts").mkdir()
    if "outcome" in name:
        (tmp_path / "forecasts" / "1.json").write_text('{"forecasts": []}')
    (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    with raises_user_error(field=re.compile(name.replace(".", r"\.")), reason=reason):
        registered_rows(tmp_path)


@pytest.mark.parametrize("key", ["predicted", "mean", "frontier", "noise", "target"])
def test_a_registered_forecast_with_a_changed_field_is_named(tmp_path, key):
    icons = Path(__file__).parents[3] / "experiments" / "results" / "icons"
    forecast = json.loads((icons / "forecast.json").read_text())
    write_json(tmp_path / "forecast.json", forecast | {key: []})
    with raises_user_error(field=re.compile(r"forecast\.json: forecast 1$")):
        registered_rows(tmp_path)


def test_other_files_beside_registrations_are_not_read(tmp_path):
    (tmp_path / "forecasts").mkdir()
    for name in ("plan.json", "notes.txt", "1b.json"):
        (tmp_path / "forecasts" / name).write_text("{}")
    assert registered_rows(tmp_path) == []


@pytest.mark.parametrize("at", ["abc", "", "1e13,", "inf", "1e400", "0", "-1e14", "nan"])
def test_forecast_at_something_else_than_flops_is_refused(sweep, capsys, at):
    assert main(["sweep", "forecast", f"--dir={sweep[0]}", f"--at={at}"]) == 2
    assert "--at" in (error := capsys.readouterr().err)
    assert "must be FLOPs above 0" in error
    assert not (sweep[0] / "forecasts").exists()


def test_an_error_explains_no_error(sweep):
    with raises_user_error(field="--through", value="error_mean"):
        register_forecast(sweep[0], TARGET, ["error_mean"], "error_mean")


@pytest.mark.thorough
def test_equal_targets_and_metrics_are_registered_once_and_budgets_name_all_targets(sweep):
    root, _ = sweep
    register_forecast(root, [TARGET, TARGET * (1 + 1e-9)], ["error_mean", "error_mean"])
    assert len(read_forecasts(root)) == 1
    text = register_forecast(root, 2 * TARGET)
    assert f"{TARGET}, {2 * TARGET}]'" in text
