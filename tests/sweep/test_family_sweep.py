"""A sweep whose runs train together, by real processes, gives the table of one whose runs train apart."""

import dataclasses

import pandas as pd
import pytest

from clip_jax.config.sweep import SweepConfig
from clip_jax.sweep.collect import collect
from clip_jax.sweep.driver import run_sweep
from clip_jax.train.vmapped.benchmark import Gain


@pytest.mark.slow
def test_run_sweep_vmapped_table_equals_that_of_single_runs(tmp_path, tiny_run, monkeypatch):
    gain = Gain(2, "vmap", 100, 16, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0)
    monkeypatch.setattr("clip_jax.sweep.batching.measure_gain", lambda *_: gain)
    monkeypatch.setattr("clip_jax.sweep.driver.report", lambda root, echo: {})  # a law needs more than one budget
    monkeypatch.delenv("XLA_FLAGS")  # one device
    apart = SweepConfig(
        name="f", base=tiny_run, rungs=(0.5,), budgets=(1e8,), sizes_per_budget=0, min_steps=2, seeds=(0, 1),
        extra_seeds_at_optimum=(), lr_multipliers=(0.5, 2.0),
    )  # fmt: skip
    lines = []
    run_sweep(dataclasses.replace(apart, vmap_runs="auto"), tmp_path / "together", lines.append)
    run_sweep(apart, tmp_path / "apart", lines.append)
    vmapped, single = (collect(tmp_path / name).set_index("run_id") for name in ("together", "apart"))
    assert len(vmapped) == 4
    assert vmapped["final"].all()
    assert (vmapped["family_id"].nunique(), single["family_id"].count()) == (2, 0)
    timed = {c for c in vmapped if c.endswith(("_s", "_frac")) or c in ("family_id", "mfu", "goodput")}
    numbers = [c for c in vmapped.select_dtypes("number") if c not in timed]
    assert {"val_loss", "val_loss_refit", "error_mean", "flops", "unique_samples"} <= set(numbers)
    pd.testing.assert_frame_equal(vmapped[numbers], single[numbers], rtol=1e-5, atol=1e-8)
