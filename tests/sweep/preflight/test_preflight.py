"""Preflight: what fits, what is chosen, what is refused and why."""

import dataclasses
import re
from types import SimpleNamespace

import jax
import pytest

from clip_jax import flops
from clip_jax.config import MeshConfig, OptimConfig, RunConfig
from clip_jax.config.presets import preset
from clip_jax.errors import ConfigError
from clip_jax.flops.compiled import BestCase, Kernel
from clip_jax.flops.devices import DEVICES, GIB
from clip_jax.sweep.preflight import preflight as pf
from clip_jax.sweep.preflight.preflight import Step, compile_step, find_fit, find_target, preflight, shape_of
from clip_jax.sweep.preflight.targets import check_plugin, target_config

from ...user_errors import raises_user_error

RUN = RunConfig(model=preset("debug"), batch_size=256, steps=40)


def recomputed(config, policy):
    return dataclasses.replace(config, model=dataclasses.replace(config.model, remat=True, remat_policy=policy))


@pytest.fixture
def this_machine():
    return dataclasses.replace(find_target(), devices=jax.devices()[:1], memory=8 * GIB)


@pytest.mark.thorough
def test_compile_step_memory_is_that_of_the_program(this_machine):
    step = compile_step(RUN, this_machine)
    parameters = 4 * flops.params(RUN.model).total
    assert step.state == pytest.approx(3 * parameters, rel=0.01)  # weights and two moments
    pictures = 256 * 32 * 32 * 3
    assert step.needed > step.state + pictures
    assert step.reason == ""
    assert compile_step(dataclasses.replace(RUN, batch_size=512), this_machine).needed > 1.5 * step.needed


@pytest.mark.thorough
def test_preflight_short_of_memory_tries_remat_then_microbatches(this_machine):
    whole = compile_step(RUN, this_machine)
    least = compile_step(recomputed(RUN, "nothing"), this_machine)
    assert least.needed < whole.needed
    between = dataclasses.replace(this_machine, memory=(least.needed + whole.needed) / 2)
    fit = find_fit("a", RUN, between)
    assert fit.fits
    assert fit.config.model.remat
    assert fit.config.microbatch_size == 0
    assert fit.step.needed <= between.memory
    small = find_fit("a", RUN, dataclasses.replace(this_machine, memory=least.needed * 0.7))
    assert small.fits
    assert 0 < small.config.microbatch_size < 256
    assert 256 % small.config.microbatch_size == 0


def test_preflight_variants_keep_the_users_choice(this_machine):
    chosen = dataclasses.replace(recomputed(RUN, "dots"), microbatch_size=64)
    ways = [(w.model.remat_policy, w.microbatch_size) for w in pf.variants(chosen, this_machine, {})]
    assert ways == [("dots", 64), ("dense", 64), ("nothing", 64)]


def test_compile_step_resolves_auto_settings_for_the_target(this_machine):
    kinds = {"gpu": "NVIDIA H100 80GB HBM3", "tpu": "TPU v5 lite", "cpu": "cpu"}
    bf16 = dataclasses.replace(RUN, model=dataclasses.replace(RUN.model, compute_dtype="bfloat16"), microbatch_size=64)
    by_platform = {}
    for platform, kind in kinds.items():
        target = dataclasses.replace(this_machine, devices=[SimpleNamespace(platform=platform, device_kind=kind)])
        ways = [w.model for w in pf.variants(bf16, target, {})]
        by_platform[platform] = [(w.attention, w.remat, w.remat_policy) for w in ways]
    target = dataclasses.replace(this_machine, devices=[SimpleNamespace(platform="gpu", device_kind=kinds["gpu"])])
    fixed = [w.model.attention for w in pf.variants(dataclasses.replace(bf16, deterministic=True), target, {})]
    assert fixed == ["xla", "xla"]
    kept, less = (True, "dense"), (True, "nothing")
    assert by_platform["gpu"] == [("cudnn", *kept), ("cudnn", *less)]
    assert by_platform["tpu"] == [("xla", *kept), ("xla", *less)]
    assert by_platform["cpu"] == [("auto", False, "nothing"), ("auto", *kept), ("auto", *less)]


@pytest.mark.parametrize(
    ("config", "memory", "reason"),
    [
        (RUN, 1000.0, "parameters and moments alone do not fit.*fsdp"),
        (dataclasses.replace(RUN, mesh=MeshConfig(data=3)), GIB, "data=3.*does not equal the 1 devices"),
    ],
)
def test_preflight_config_that_cannot_run_gives_the_reason(this_machine, config, memory, reason):
    target = dataclasses.replace(this_machine, memory=memory)
    lines = []
    (verdict,) = preflight_on(target, [("cell", config, 1.0)], lines)
    assert not verdict.fits
    assert [line for line in lines if line.startswith("  refused: cell: ")]
    assert re.search(reason, verdict.step.reason)


def preflight_on(target, runs, lines, **options):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pf, "find_target", lambda name, slices: target)
        return preflight(runs, "x", echo=lines.append, **options)


def test_preflight_compiles_each_shape_once_and_adds_hours(this_machine):
    runs = [(f"seed {s}", dataclasses.replace(RUN, seed=s, steps=3600 * (s + 1)), 1.0) for s in range(3)]
    lines = []
    (verdict,) = preflight_on(this_machine, runs, lines, flop_per_second=1e9, price=2.0)
    assert "seed 0 × 3" in lines[2]
    hours = verdict.time.seconds * 3600 * 6 / 3600
    assert f"{hours:8.2f}" in lines[2]
    assert lines[2].endswith(f"{2 * hours:9.0f}")


def test_shape_of_determines_the_compiled_program():
    other = dataclasses.replace(
        RUN, seed=3, steps=99, optim=dataclasses.replace(RUN.optim, peak_lr=0.5, weight_decay=0.0)
    )
    assert shape_of(other) == shape_of(RUN)
    assert shape_of(dataclasses.replace(RUN, batch_size=128)) != shape_of(RUN)
    free = {"optimizer": "schedule_free", "schedule": "wsd", "lr_decay_fraction": 0.0}
    shapes = {shape_of(dataclasses.replace(RUN, optim=OptimConfig(**f))) for f in ({}, {"optimizer": "muon"}, free)}
    assert len(shapes) == 3


def test_preflight_unknown_target_or_empty_plan_is_refused():
    with raises_user_error(field="--target", value="v5e", reason="or GPUs such as h100:8"):
        find_target("v5e")
    with raises_user_error(field="plan", reason="no cell"):
        preflight([], "here")


def test_microbatch_divides_the_batch_evenly():
    assert pf.even_microbatch(4096, 16, 0.3) == 64 * 16
    assert pf.even_microbatch(4096, 16, 0.001) == 0
    assert pf.even_microbatch(96, 1, 0.5) == 48


def test_compile_step_with_an_undivided_tensor_axis_is_no_error(this_machine):
    assert isinstance(compile_step(dataclasses.replace(RUN, mesh=MeshConfig(tensor=3)), this_machine), Step)
    with raises_user_error(ConfigError, field="microbatch_size", value=100):
        dataclasses.replace(RUN, microbatch_size=100)


@pytest.mark.parametrize("name", ["l40s:8", "h300:4x8"])
def test_gpu_without_figures_is_refused_by_name(name):
    with raises_user_error(
        field="--target", value=name, reason=name.split(":")[0], hint="known: b200, h200, h100, a100"
    ):
        find_target(name)


def test_plugin_that_is_absent_or_of_another_version_is_refused(monkeypatch):
    versions = {"jaxlib": "0.10.2", "jax-cuda13-plugin": "0.10.2", "jax-cuda13-pjrt": "0.10.1"}
    monkeypatch.setattr("importlib.metadata.version", lambda package: versions[package])
    with raises_user_error(field="--target", reason="jax-cuda13-pjrt 0.10.1", hint="jax-cuda13-pjrt==0.10.2"):
        check_plugin("h100:8")
    versions["jax-cuda13-pjrt"] = "0.10.2"
    check_plugin("h100:8")


@pytest.mark.parametrize("device", [d for d in DEVICES if d.chip], ids=lambda d: d.name)
def test_target_config_has_balanced_braces_and_every_figure(device):
    text = target_config(device.chip, device.capability)
    assert text.count("{") == text.count("}") == 4
    for wanted in (device.chip.cores, device.chip.memory, device.chip.bandwidth, device.chip.description):
        assert str(wanted) in text
    assert device.chip.memory == pytest.approx(device.memory, rel=0.08)
    assert device.chip.bandwidth == pytest.approx(device.bandwidth, rel=0.05)


def test_preflight_takes_hours_and_cost_from_the_program_and_explains_it(this_machine, monkeypatch):
    best = BestCase(0.5, ((Kernel("a", "", "products", 24, 1e9, 1e12), 0.4), (Kernel("b", "", "copies", 3, 1e9), 0.1)))
    device = next(d for d in DEVICES if d.name == "h100")
    monkeypatch.setattr(pf, "compile_step", lambda config, target: Step(1.0, 2.0, 3.0, "", best))
    files = {"source": "webdataset", "paths": ("train.tar",), "val_paths": ("val.tar",)}
    config = dataclasses.replace(
        RUN, steps=3600, data=dataclasses.replace(RUN.data, **files),
        model=dataclasses.replace(RUN.model, compute_dtype="bfloat16"),
    )  # fmt: skip
    lines = []
    target = dataclasses.replace(this_machine, device=device, host_devices=1)
    (verdict,) = preflight_on(target, [("cell", config, 1.0)], lines, price=2.0, explain=True)
    assert verdict.seconds == 0.5
    work = flops.training_flops(config.model, 256, 256).total
    assert lines[2].endswith(f"   0.500 {work / 989e12 / 0.5:6.1%}     0.50       0.5         1")
    assert "400.00 ms  80.0%  matrix products and convolutions: 24 kernels, 22.4 GiB, 2.4e+13 FLOPs" in lines[3]
    assert lines[4].split()[:3] == ["100.00", "ms", "20.0%"]
    assert lines[5].strip() == "needs 512 pairs/s per host, about 2 cores to decode (pillow, JPEGs of 500 × 375)"
