"""Configs, a sweep and a run of the code before the package was re-filed and its config fields renamed.

``before/rooms.tar.gz`` is what ``before/make_rooms.py`` made with the code of commit 4e659c5.
"""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest

from clip_jax.config import DistributedConfig, RunConfig
from clip_jax.config.io import from_dict, load, run_id, to_dict
from clip_jax.config.sweep import SweepConfig
from clip_jax.inference import load_model
from clip_jax.scaling.data.provenance import rows_hash
from clip_jax.scaling.data.runs_table import fit_rows, prepare
from clip_jax.scaling.planning.preregistration import READ
from clip_jax.storage.json_files import read_lines
from clip_jax.sweep.driver import run_sweep
from clip_jax.sweep.plan import make_cell, plan_of, setting_checks
from clip_jax.sweep.search.config import SearchConfig, apply
from clip_jax.sweep.search.samplers import propose

from .before.make_rooms import SUBPROCESS_ENV, machine

STORED = Path(__file__).parent / "before" / "rooms.tar.gz"
TIMES = {"wall_s", "step_s", "samples_per_s", "goodput", "mfu"}  # keys of metrics.jsonl that are measured


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Return the folder with the files of the earlier code."""
    folder = tmp_path_factory.mktemp("rooms")
    with tarfile.open(STORED) as tar:
        tar.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module")
def configs(stored):
    """Return stored configs of each kind, with the ids that the earlier code gave."""
    return json.loads((stored / "configs.json").read_text())


def test_run_id_of_stored_run_configs_is_unchanged(configs, caplog):
    for row in configs["run"]:
        config = from_dict(RunConfig, row["config"])
        assert run_id(config) == row["id"]
        assert from_dict(RunConfig, to_dict(config)) == config
    assert len({row["id"] for row in configs["run"]}) >= 100
    assert not caplog.records  # a stored record's old names are no concern of the user


def test_plan_of_stored_sweep_configs_holds_the_same_run_ids(configs):
    for row in configs["sweep"]:
        config = from_dict(SweepConfig, row["config"])
        cells = list(plan_of(config).cells)
        for cell in plan_of(config).kept:
            cells += setting_checks(config, cell.size, cell.budget)
            cells += [
                make_cell(config, cell.size, cell.budget, 0, lr_factor=factor) for factor in config.lr_multipliers
            ]
        assert [cell.run_id for cell in cells] == row["ids"]
        assert from_dict(SweepConfig, to_dict(config)) == config


def test_proposals_of_stored_search_configs_have_the_same_run_ids(configs):
    for row in configs["search"]:
        config = from_dict(SearchConfig, row["config"])
        assert from_dict(SearchConfig, to_dict(config)) == config
        if row["ids"]:
            settings = propose(config.dimensions, config.method, config.trials, config.proposal_seed, 1, [])
            assert [run_id(apply(config.base, setting)) for setting in settings] == row["ids"]
    for row in configs["distributed"]:
        assert from_dict(DistributedConfig, row["config"]) != DistributedConfig()


def test_rows_of_the_registered_forecast_hash_as_they_did_when_it_was_made():
    folder = Path(__file__).parents[1] / "experiments" / "results" / "icons"
    registered = json.loads((folder / "forecast.json").read_text())
    runs, metric = pd.read_csv(folder / "runs.csv", dtype={"run_id": str}), registered["metric"]
    below = prepare(runs[runs["budget"] < registered["target"] * 0.999], metric)
    rows, _ = fit_rows(below, metric, registered["chance"], keep_above_chance=True)
    assert (len(rows), rows_hash(rows[[*READ, metric]])) == (registered["rows"], registered["rows_sha256"])


class _NoEngine:
    """An engine that refuses to train."""

    max_in_flight, max_jobs_per_submit = 1, 1

    def detach(self):
        """Leave it; nothing runs."""

    def __getattr__(self, name):
        raise AssertionError(f"the engine was asked for {name}")


@pytest.mark.thorough
def test_run_sweep_on_a_finished_directory_trains_nothing(stored, tmp_path):
    root = tmp_path / "sweep"
    shutil.copytree(stored / "sweep", root)
    before = {path: path.read_bytes() for path in sorted((root / "runs").rglob("*")) if path.is_file()}
    config = load(SweepConfig, stored / "sweep.json")
    run_sweep(config, root, echo=lambda line: None, engine=_NoEngine())
    after = {path: path.read_bytes() for path in sorted((root / "runs").rglob("*")) if path.is_file()}
    assert after == before
    assert (root / "report" / "law.json").exists()


def train(config, run_dir):
    """Train in a process of its own, with XLA's settings as users have them."""
    command = [sys.executable, "-m", "clip_jax.cli", "train", f"--config={config}", f"--dir={run_dir}", "--quiet"]
    subprocess.run(command, check=True, env=os.environ | SUBPROCESS_ENV, capture_output=True)


def end_of(run_dir):
    """Return a run's parameters, and its metrics (without times) and evaluation values by step."""
    leaves = jax.tree_util.tree_leaves_with_path(load_model(str(run_dir)).params)
    params = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}
    return {"params": params, **_rows(run_dir)}


def _rows(folder):
    metrics = {
        f"{row['step']}/{name}": value
        for row in read_lines(folder / "metrics.jsonl")
        for name, value in row.items()
        if name not in TIMES
    }
    evals = {f"{r['step']}/{r['task']}/{r['metric']}": r["value"] for r in read_lines(folder / "evals.jsonl")}
    return {"metrics": metrics, "evals": evals}


def stored_end(folder):
    """Return the end that the earlier code gave, as `end_of`."""
    return {"params": dict(np.load(folder / "params.npz")), **_rows(folder)}


def _differences(a, b, close):
    """Return the names whose values differ; ``close`` says whether two arrays count as the same."""
    names = [(part, name) for part in a for name in a[part].keys() | b[part].keys()]
    return [
        name
        for part, name in names
        if name not in a[part] or name not in b[part] or not close(a[part][name], b[part][name])
    ]


def _same_bits(a, b):
    return np.array_equal(np.asarray(a), np.asarray(b))


def _near(a, b):
    return np.allclose(a, b, rtol=2e-2, atol=2e-3)


@pytest.mark.thorough
def test_a_half_trained_run_goes_on_and_ends_as_the_earlier_code_ended(stored, tmp_path):
    """Compare three ends of one config: the earlier code's, the stored run's that goes on here, and one from scratch.

    The bits of a step depend on the compiler's version and the CPU's instructions. Where those are the ones that made
    the archive, the run from scratch has to end in the stored bits. Wherever it does, the run that goes on has to, too.
    On other machines all three are compared within the tolerance of rounding, and the run that goes on has to keep the
    stored rows of its first steps bit by bit.
    """
    shutil.copytree(stored / "run", tmp_path / "run")
    for run_dir in (tmp_path / "run", tmp_path / "scratch"):
        train(stored / "run.json", run_dir)
    old, resumed, scratch = stored_end(stored / "end"), end_of(tmp_path / "run"), end_of(tmp_path / "scratch")
    for end in (resumed, scratch):
        assert _differences(old, end, _near) == []
    made_here = json.loads((stored / "end" / "machine.json").read_text()) == machine()
    same_scratch = _differences(old, scratch, _same_bits)
    if made_here:
        assert same_scratch == []
    if not same_scratch:
        assert _differences(old, resumed, _same_bits) == []
    first = {name: value for name, value in old["metrics"].items() if int(name.partition("/")[0]) <= 5}
    assert first.items() <= resumed["metrics"].items()
