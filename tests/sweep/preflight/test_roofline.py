"""The least time of a step, term by term."""

import dataclasses
import runpy
from pathlib import Path

import jax
import pytest

from clip_jax import flops
from clip_jax.config import MeshConfig, RunConfig
from clip_jax.config.presets import ladder, preset
from clip_jax.flops.devices import device_of
from clip_jax.sweep.preflight.roofline import roofline

RUN = RunConfig(model=preset("debug"), batch_size=256, steps=40)
RECOMPUTED = dataclasses.replace(RUN, model=dataclasses.replace(RUN.model, remat=True))
V5E = device_of("TPU v5 lite")


def test_roofline_flops_equal_the_formula_without_the_optimizer():
    def work(config, devices):
        """Return the FLOPs of a device's share: the seconds that they take at one FLOP a second."""
        return roofline(config, jax.devices()[:devices], None, 1.0).compute

    whole = work(RUN, 1)
    formula = flops.training_flops(RUN.model, 256, 256)
    first = 2 * 3 * 16**2 * 16 * 4 * 256  # pixels need no gradient
    assert whole == pytest.approx(formula.total - first, rel=1e-6)
    assert 4 * work(RUN, 4) == pytest.approx(whole, rel=1e-6)  # the logits of the other rows are in it
    assert 1.2 < work(RECOMPUTED, 1) / whole < 4 / 3


def test_roofline_names_the_limit():
    config = RunConfig(model=ladder(8), batch_size=1024)
    devices = jax.devices()[:1]
    fast = roofline(config, devices, V5E)
    assert fast.bound == "memory"  # a small model moves more than it computes
    assert fast.network == 0
    slow = roofline(config, devices, dataclasses.replace(V5E, half=1e9, single=1e9))
    assert slow.bound == "compute"
    assert slow.seconds == slow.compute
    unknown = roofline(config, devices, None)
    assert (unknown.seconds, unknown.bound) == (None, "unknown")
    assert roofline(config, devices, None, 1e9).compute == pytest.approx(slow.compute)


def test_network_time_counts_gradients_and_slow_slice_links():
    gradients, devices = 4 * flops.params(RUN.model).total, jax.devices()
    assert roofline(RUN, devices[:4], V5E).network == pytest.approx(2 * gradients * 3 / 4 / V5E.link)
    two = dataclasses.replace(RUN, mesh=MeshConfig(slices=2))
    assert roofline(two, devices, V5E).network == pytest.approx(2 * gradients / 2 / 4 / V5E.slow_link)


def test_training_flops_of_an_unrolled_step_equal_xla():
    counts = runpy.run_path(str(Path(__file__).parents[3] / "benchmarks" / "step_flops.py"))["counts"]
    model = preset("ViT-S/32")
    towers = {"image": dataclasses.replace(model.image, depth=2), "text": dataclasses.replace(model.text, depth=2)}
    formula, walk, xla = counts(dataclasses.replace(model, **towers), 8)
    assert xla / formula == pytest.approx(1, abs=0.02)
    assert walk == formula - 2 * 3 * 32**2 * 384 * 49 * 8  # pixels need no gradient
