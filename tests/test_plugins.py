"""What an installed package adds by entry points: tests/outside_package, used through the ordinary commands."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from clip_jax import plugins
from clip_jax.cli.main import main
from clip_jax.config import DataConfig, EvalConfig, LossConfig, RunConfig
from clip_jax.config.io import from_dict, run_id, to_dict
from clip_jax.config.sweep import SweepConfig
from clip_jax.data.open import open_source
from clip_jax.errors import ConfigError
from clip_jax.scaling.laws import law_named

from .user_errors import raises_user_error

ENTRY_POINTS = """
[clip_jax.laws]
sqrt = clip_extras:SquareRoot
broken = clip_extras:NoSuchLaw

[clip_jax.losses]
hinge = clip_extras:hinge

[clip_jax.sources]
squares = clip_extras:Squares
no-source = builtins:print

[clip_jax.evaluators]
similarity = clip_extras:similarity

[clip_jax.engines]
in-turn = clip_extras:InTurn
"""


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Install the outside package into a folder of the search path; return that folder."""
    site = tmp_path / "site"
    shutil.copytree(Path(__file__).parent / "outside_package", site)
    (site / "clip_extras-1.0.dist-info").mkdir()
    (site / "clip_extras-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: clip-extras\nVersion: 1.0\n"
    )
    (site / "clip_extras-1.0.dist-info" / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(str(site))
    yield site
    sys.modules.pop("clip_extras", None)


def test_package_has_fifty_lines_at_most():
    lines = (Path(__file__).parent / "outside_package" / "clip_extras.py").read_text().splitlines()
    assert sum(bool(line.strip()) for line in lines) <= 50


@pytest.mark.parametrize(
    ("make", "field", "known"),
    [
        (lambda: DataConfig(source="squares", paths=("3",)), "data.source", "webdataset"),
        (lambda: LossConfig(name="hinge"), "loss.name", "sigmoid"),
        (lambda: EvalConfig(evaluators=("similarity",)), "evals.evaluators", "none of that name"),
        (lambda: SweepConfig("x", engine="in-turn"), "engine", "jobset"),
        (lambda: law_named("sqrt"), "law", "chinchilla"),
    ],
)
def test_name_that_nobody_adds_is_refused_with_those_that_exist(make, field, known):
    with raises_user_error(ConfigError, field=field, reason=known, hint="entry points"):
        make()


def test_own_names_are_not_looked_up(monkeypatch):
    monkeypatch.setattr(plugins, "entry_points", lambda **_: pytest.fail("looked up"))
    RunConfig()
    SweepConfig("x")
    assert law_named("power").key == "power"


def test_error_lists_what_packages_add(installed):
    with pytest.raises(ConfigError) as raised:
        LossConfig(name="triplet")
    assert raised.value.reason == "must be one of softmax, sigmoid, hinge"


def test_broken_entry_points_are_named_with_their_package(installed):
    with raises_user_error(field="law", value="broken", reason="clip_extras:NoSuchLaw of the package clip-extras"):
        law_named("broken")
    with raises_user_error(field="data.source", value="no-source"):
        open_source(DataConfig(source="no-source", paths=("3",)), "train", 8)


def test_settings_that_an_added_loss_ignores_are_refused(installed):
    with raises_user_error(ConfigError, field="loss.implementation, loss.chunk_size", reason="hinge"):
        LossConfig(name="hinge", implementation="ring")


def test_config_with_added_names_has_an_id_and_is_read_back(installed, extra_run):
    assert from_dict(RunConfig, json.loads(json.dumps(to_dict(extra_run)))) == extra_run
    ids = {run_id(extra_run), run_id(dataclasses.replace(extra_run, loss=LossConfig()))}
    ids.add(run_id(dataclasses.replace(extra_run, evals=dataclasses.replace(extra_run.evals, evaluators=()))))
    assert len(ids) == 3


@pytest.fixture
def extra_run(installed, tiny_run):
    """Return the tiny run with a loss, a source and an evaluator of the outside package."""
    evals = dataclasses.replace(tiny_run.evals, zero_shot=(), evaluators=("similarity",))
    data = DataConfig(source="squares", paths=("80",), val_fraction=0.5, tokenizer_train_captions=80, num_threads=1)
    return dataclasses.replace(
        tiny_run, data=data, loss=LossConfig(name="hinge"), evals=evals, steps=4, batch_size=8, log_every=1
    )


def test_law_named_finds_an_added_law(installed):
    assert law_named("sqrt").formula == "E + a·C^-0.5"


@pytest.mark.thorough
def test_fit_with_an_added_law(installed, tmp_path, capsys):
    flops = np.geomspace(1e10, 1e13, 8)
    pd.DataFrame({"flops": flops, "error": 0.2 + 3e4 * flops**-0.5}).to_csv(tmp_path / "runs.csv", index=False)
    assert main(["fit", str(tmp_path / "runs.csv"), "--law=sqrt", "--at=1e14"]) == 0
    printed = capsys.readouterr().out
    assert "square root" in printed
    assert "0.203" in printed  # 0.2 + 3e4 · 1e14^-0.5


@pytest.mark.thorough
def test_sweep_trains_an_added_loss_source_and_evaluator_on_an_added_engine(installed, extra_run, tmp_path):
    sweep = SweepConfig(
        "extras", base=extra_run, rungs=(0.5,), budgets=(3e7,), seeds=(0,), extra_seeds_at_optimum=(),
        lr_multipliers=(), metric="val_loss_refit", min_steps=2, sizes_per_budget=0, engine="in-turn",
    )  # fmt: skip
    (tmp_path / "sweep.json").write_text(json.dumps(to_dict(sweep)))
    path = os.pathsep.join([str(installed), str(Path(__file__).parents[1])])
    command = [
        sys.executable,
        "-m",
        "clip_jax.cli",
        "sweep",
        "run",
        f"--config={tmp_path}/sweep.json",
        f"--dir={tmp_path}/s",
    ]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (result,) = [json.loads(p.read_text()) for p in (tmp_path / "s" / "runs").glob("*/result.json")]
    assert result["state"] == "finished"
    assert [row["metric"] for row in result["evals"] if row["task"] == "similarity"] == ["cosine"]
