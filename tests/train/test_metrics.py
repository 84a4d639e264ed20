"""Rows of metrics, and the time that led to them."""

import dataclasses
import time
from types import SimpleNamespace

import numpy as np
import pytest

from clip_jax.config import AnomalyConfig, MeshConfig
from clip_jax.distributed.mesh import make_mesh
from clip_jax.train.anomalies import Anomaly
from clip_jax.train.metrics import TIMES, Meter
from clip_jax.train.timer import Clock
from clip_jax.train.trackers import NoTracker


class Rows:
    """A record that keeps its rows in memory; the run is 100 seconds old."""

    def __init__(self):
        self.rows, self.wall_s = [], 100.0
        self.beats = []

    def append(self, name, row):
        assert name == "metrics.jsonl"
        self.rows.append(row)

    def heartbeat(self, **values):
        self.beats.append(values)


@pytest.fixture
def world(tiny_run):
    record, clock = Rows(), Clock()

    def make(step, rows, **anomalies):
        run = dataclasses.replace(tiny_run, anomalies=AnomalyConfig(**anomalies))
        return Meter(run, make_mesh(MeshConfig()), record, NoTracker(), clock, step, rows, show=False)

    return SimpleNamespace(record=record, clock=clock, make=make)


def metrics(loss):
    return {"loss": np.float32(loss)}


def test_meter_goodput_excludes_discarded_time(world):
    earlier = [{"step": 2, "loss": 3.0, "step_s": 20.0}, {"step": 4, "loss": 2.0, "step_s": 40.0}]
    meter = world.make(4, earlier)
    with world.clock.measure("step"):
        time.sleep(0.05)
    meter.defer(6, metrics(1.0))
    meter.flush()
    assert 40.05 <= world.record.rows[0]["step_s"] < 41
    assert world.record.rows[0]["goodput"] == pytest.approx(0.4, abs=0.01)
    assert set(world.record.rows[0]) == {"step", "samples_seen", "loss", *TIMES} - {"samples_per_s"}
    assert world.record.beats[0]["step"] == 6
    meter.resume_from(2)  # a rollback: the steps after it were for nothing
    assert 20.0 <= meter.step_s < 20.05
    with world.clock.measure("step"):
        time.sleep(0.05)
    assert 20.05 <= meter.step_s < 21


def test_meter_spike_window_includes_earlier_attempts(world):
    earlier = [{"step": s, "loss": 1.0} for s in (2, 4)]
    meter = world.make(4, [*earlier, {"step": 6, "loss": None}], on_spike="stop", spike_window=2)
    meter.defer(8, metrics(2.5))
    with pytest.raises(Anomaly):
        meter.flush()
    assert world.record.rows[0]["loss"] == 2.5, "on record before it is judged"
    meter.defer(10, metrics(np.nan))
    with pytest.raises(Anomaly, match="not finite at step 10"):
        meter.flush()


def test_meter_speed_excludes_evaluation(world):
    meter = world.make(0, [])
    for step in (2, 4):
        with world.clock.measure("step"):
            time.sleep(0.05)
        with world.clock.measure("evaluation"):
            time.sleep(0.2)
        meter.defer(step, metrics(1.0))
        meter.flush()
    assert "samples_per_s" not in world.record.rows[0], "its time went into compiling"
    assert 2 * 16 / 0.2 < world.record.rows[1]["samples_per_s"] <= 2 * 16 / 0.05
    assert meter.speed == pytest.approx(world.record.rows[1]["samples_per_s"])
    assert meter.mfu(1.0) is None
    meter.peak = 1e9
    assert meter.mfu(1.0) > 0
