"""Runs in one program equal the same runs alone, in numbers and in records."""

import dataclasses
import json
import signal
import time

import jax
import numpy as np
import pytest

from clip_jax.config import AnomalyConfig, MeshConfig, ParametrizationConfig
from clip_jax.config.io import to_dict
from clip_jax.distributed.mesh import make_mesh
from clip_jax.evals.in_training import make_evaluator
from clip_jax.models.clip import build
from clip_jax.optim.optimizer import make_optimizer
from clip_jax.storage.json_files import read_json, read_lines
from clip_jax.train import context as train_context
from clip_jax.train.checkpoint import load_params
from clip_jax.train.context import build_context
from clip_jax.train.loop import Diverged, train
from clip_jax.train.metrics import TIMES
from clip_jax.train.state import init_state
from clip_jax.train.step import make_train_step, put_batch
from clip_jax.train.vmapped import trainer as family_module
from clip_jax.train.vmapped.compatibility import check_compatible, group_id, incompatibility
from clip_jax.train.vmapped.trainer import VmappedStep, put_batches, stack, train_vmapped, unstack

from ...user_errors import raises_user_error

pytestmark = pytest.mark.filterwarnings("ignore:.*:DeprecationWarning", "ignore:Sharding info:UserWarning")


@pytest.fixture(autouse=True, scope="module")
def one_device():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_context, "make_mesh", lambda config: make_mesh(config, jax.devices()[:1]))
        yield


def changed(run, seed=0, **optim):
    return dataclasses.replace(run, seed=seed, optim=dataclasses.replace(run.optim, **optim))


def rates_and_decays(run):
    return [changed(run), changed(run, peak_lr=1e-3, weight_decay=0.3, b1=0.8, b2=0.95, eps=1e-5, clip_norm=0.5)]


def seeds(run):
    return [changed(run), changed(run, seed=5), changed(run, peak_lr=1e-3)]


def muon(run):
    return [changed(run, optimizer="muon", ema_decay=0.8, **other) for other in ({}, {"peak_lr": 1e-3, "b1": 0.8})]


def lion(run):
    return [changed(run, optimizer="lion", **other) for other in ({}, {"peak_lr": 1e-3, "b2": 0.9})]


def adafactor(run):
    return [changed(run, optimizer="adafactor", **other) for other in ({}, {"weight_decay": 0.3, "b2": 0.9})]


def schedule_free(run):
    free = {"optimizer": "schedule_free", "schedule": "wsd", "lr_decay_fraction": 0.0}
    return [changed(run, **free, **other) for other in ({}, {"peak_lr": 1e-3, "b1": 0.8})]


def params_of(run, run_dir):
    return load_params(run_dir, build(run.model, make_mesh(run.mesh, jax.devices()[:1])))


def without_key_biases(params):
    """Return the parameters without keys' biases: Lion and Adafactor make whole steps of their gradients' rounding."""
    params = jax.tree.map(np.array, params)
    for tower in ("image", "text"):
        bias = params[tower]["blocks"]["blocks"]["qkv"]["bias"]
        width = bias.shape[-1] // 3
        bias[..., width : 2 * width] = 0
    return params


def assert_same(one, other, rtol, atol=0.0):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=rtol, atol=atol), one, other
    )


def batch_of(run, step):
    """Return any batch that is a function of (seed, step)."""
    rng = np.random.default_rng([run.seed, step])
    tokens = rng.integers(1, 390, (run.batch_size, run.model.text.context_length)).astype(np.int32)
    tokens[:, -1] = 399
    return {"images": rng.integers(0, 255, (run.batch_size, 32, 32, 3), np.uint8), "tokens": tokens}


def compare(configs, steps, form, check):
    """Train together and apart on the same batches; return the final states.

    ``check(step, losses, losses apart)`` is called with both losses, [N], after each step.
    """
    context = build_context(configs[0])
    optimizers = [make_optimizer(c.optim, c.steps, c.model, axes=context.built.axes) for c in configs]
    apart = [init_state(c, context.built, o, context.mesh) for c, o in zip(configs, optimizers, strict=True)]
    state = stack(apart)
    together = VmappedStep(configs, context.built, context.mesh, form)
    alone = [make_train_step(c, context.built, o, context.mesh) for c, o in zip(configs, optimizers, strict=True)]
    examples = {c.seed: c for c in configs}
    for step in range(steps):
        made = {seed: batch_of(c, step) for seed, c in examples.items()}
        state, metrics = together(state, put_batches([made[s] for s in together.seeds]), np.ones(len(configs), bool))
        losses = []
        for i, config in enumerate(configs):
            apart[i], m = alone[i](apart[i], put_batch(made[config.seed], context.mesh))
            losses.append(float(m["loss"]))
        check(step, [float(m["loss"]) for m in metrics], losses)
    assert together.jitted._cache_size() == 1, "one compilation"
    return unstack(state, len(configs)), apart


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("make", "form"),
    [
        (rates_and_decays, "vmap"),
        (muon, "vmap"),
        (lion, "vmap"),
        pytest.param(adafactor, "vmap", marks=pytest.mark.slow),
        pytest.param(schedule_free, "vmap", marks=pytest.mark.slow),
        pytest.param(seeds, "vmap", marks=pytest.mark.slow),
        pytest.param(seeds, "map", marks=pytest.mark.slow),
    ],
)
def test_train_vmapped_ten_steps_in_float32_equal_separate_runs(tiny_run, make, form):
    def check(step, vmapped, single):
        np.testing.assert_allclose(vmapped, single, rtol=1e-5)
        assert len({round(x, 4) for x in vmapped}) == len(vmapped) or step == 0

    together, apart = compare(make(tiny_run), 10, form, check)
    assert_same(*([without_key_biases(s.params) for s in states] for states in (together, apart)), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (rates_and_decays, ParametrizationConfig("mup", base_image_width=8, base_text_width=8)),
        (seeds, ParametrizationConfig()),
    ],
)
def test_train_vmapped_500_steps_in_float64_equal_separate_runs(tiny_run, make, rule):
    model = dataclasses.replace(tiny_run.model, compute_dtype="float64", param_dtype="float64", parametrization=rule)
    run = dataclasses.replace(tiny_run, model=model, batch_size=8, steps=500)

    def check(step, vmapped, single):
        np.testing.assert_allclose(vmapped, single, rtol=3e-7)  # losses are recorded in float32

    with jax.enable_x64(True):
        together, apart = compare(make(run), run.steps, "vmap", check)
        for vmapped, single in zip(together, apart, strict=True):
            norm = sum(float(np.sum(np.square(x))) for x in jax.tree.leaves(single.params)) ** 0.5
            gap = jax.tree.map(lambda a, b: float(np.sum(np.square(a - b))), vmapped.params, single.params)
            assert sum(jax.tree.leaves(gap)) ** 0.5 <= 1e-8 * norm
            assert jax.tree.leaves(vmapped.params)[0].dtype == np.float64


def without_times(run_dir):
    return [{k: v for k, v in r.items() if k not in TIMES} for r in read_lines(run_dir / "metrics.jsonl")]


def close_rows(one, other):
    for a, b in zip(one, other, strict=True):
        assert a.keys() == b.keys()
        vmapped, single = ([np.nan if row[k] is None else row[k] for k in a] for row in (a, b))  # null was no number
        assert vmapped == pytest.approx(single, rel=1e-4, nan_ok=True)


@pytest.fixture(scope="module")
def members(tiny_run):
    run = dataclasses.replace(tiny_run, evals=dataclasses.replace(tiny_run.evals, at_fractions=(0.5,)))
    return [changed(run), changed(run, seed=3, peak_lr=1e-3)]


def dirs(root, count):
    return [root / str(i) for i in range(count)]


@pytest.fixture(scope="module")
def whole(members, tmp_path_factory):
    """Return (folder, results, seconds passed) of the members, trained together without a break."""
    root, began = tmp_path_factory.mktemp("whole"), time.monotonic()
    results = train_vmapped(members, dirs(root, 2), make_evaluator, progress=False)
    return root, results, time.monotonic() - began


@pytest.fixture(scope="module")
def alone(members, tmp_path_factory):
    """Return (folder, result) of the second one, trained alone."""
    root = tmp_path_factory.mktemp("alone")
    return root, train(members[1], root, make_evaluator, progress=False)


@pytest.mark.thorough
def test_train_vmapped_members_write_the_records_of_single_runs(members, whole, alone):
    root, results, _ = whole
    vmapped, (single, result) = root / "1", alone
    assert {p.name for p in vmapped.iterdir()} == {p.name for p in single.iterdir()}
    assert read_json(vmapped / "result.json") == json.loads(json.dumps(results[1].to_json()))
    assert read_json(vmapped / "config.json") == to_dict(members[1])
    assert results[1].keys() == result.keys()
    close_rows(without_times(vmapped), without_times(single))
    assert [(r["step"], r["task"], r["metric"]) for r in read_lines(vmapped / "evals.jsonl")] == [
        (r["step"], r["task"], r["metric"]) for r in read_lines(single / "evals.jsonl")
    ]
    assert results[1]["val_loss"] == pytest.approx(result["val_loss"], rel=1e-4)
    assert results[0]["val_loss"] != results[1]["val_loss"]
    assert {r["family_id"] for r in results} == {group_id(members)}
    assert result["family_id"] is None
    assert (results[0]["unique_samples"], results[0]["state"]) == (128, "finished")
    assert [result.to_json() for result in train_vmapped(members, dirs(root, 2), progress=False)] == [
        read_json(d / "result.json") for d in dirs(root, 2)
    ], "a finished family is left alone"


@pytest.mark.thorough
def test_train_vmapped_members_share_the_wall_time(whole):
    _, results, passed = whole
    assert passed / 4 < sum(r["wall_s"] for r in results) <= passed
    assert all(sum(r["seconds"].values()) == pytest.approx(r["wall_s"], rel=0.2) for r in results)


@pytest.mark.thorough
def test_train_vmapped_stopped_resumes_bit_for_bit(members, whole, tmp_path):
    parts = dirs(tmp_path, 2)
    assert [r["step"] for r in train_vmapped(members, parts, stop_after=3, progress=False)] == [3, 3]
    # a kill between the two saves of step 4 leaves one member behind the other
    train(members[0], parts[0], stop_after=4, progress=False)
    results = train_vmapped(members, parts, progress=False)
    assert [(r["state"], r["events"][-1]["step"]) for r in results] == [("finished", 3)] * 2
    for run, a, b in zip(members, dirs(whole[0], 2), parts, strict=True):
        assert_same(params_of(run, a), params_of(run, b), rtol=0)
        assert without_times(a) == without_times(b)


def test_train_resumes_a_vmapped_member_alone(members, alone, tmp_path):
    train_vmapped(members, dirs(tmp_path, 2), stop_after=4, progress=False)
    result = train(members[1], tmp_path / "1", progress=False)
    assert (result["state"], result["attempts"], result["family_id"]) == ("finished", 2, None)
    close_rows(without_times(tmp_path / "1"), without_times(alone[0]))


@pytest.mark.thorough
def test_train_vmapped_diverging_member_ends_alone(members, whole, tmp_path):
    pair = [members[0], changed(members[1], seed=3, peak_lr=1e30)]
    results = train_vmapped(pair, dirs(tmp_path, 2), progress=False)
    with pytest.raises(Diverged) as alone:
        train(pair[1], tmp_path / "wild", progress=False)
    assert (results[0]["state"], results[1]["state"]) == ("finished", "failed")
    status, other_status = (read_json(d / "status.json") for d in (tmp_path / "1", tmp_path / "wild"))
    assert status["state"] == other_status["state"] == "failed"
    assert status["reason"].split(": ")[2] == str(alone.value).split(": ")[1]  # the same step, the same advice
    assert [e["step"] for e in read_lines(tmp_path / "1" / "events.jsonl") if e["event"] == "nan"] == [
        results[1]["step"]
    ]
    assert not (tmp_path / "1" / "result.json").exists()
    losses = [[(r["step"], r["loss"]) for r in without_times(tmp_path / d)] for d in ("1", "wild")]
    assert [step for step, _ in losses[0]] == [step for step, _ in losses[1]]
    assert losses[0][-1] == losses[1][-1] == (results[1]["step"], None)
    assert_same(params_of(pair[0], tmp_path / "0"), params_of(pair[0], whole[0] / "0"), rtol=0)
    assert train_vmapped(pair, dirs(tmp_path, 2), progress=False)[1] == results[1], "and stays failed"


def test_train_vmapped_finished_member_keeps_its_state(tiny_run):
    configs = rates_and_decays(tiny_run)  # whose program is compiled by now
    context = build_context(tiny_run)
    before = [init_state(c, context.built, make_optimizer(c.optim, c.steps, c.model), context.mesh) for c in configs]
    step = VmappedStep(configs, context.built, context.mesh)
    after, _ = step(stack(before), put_batches([batch_of(tiny_run, 0)]), np.array([False, True]))
    moved = [
        any(np.any(np.asarray(a) != np.asarray(b)) for a, b in zip(*map(jax.tree.leaves, pair), strict=True))
        for pair in zip(before, unstack(after, 2), strict=True)
    ]
    assert moved == [False, True]


def test_train_vmapped_sigterm_saves_checkpoints(members, tmp_path, monkeypatch):
    taken = []
    put = family_module.put_batches
    monkeypatch.setattr(
        family_module, "put_batches",
        lambda batches: (taken.append(1), len(taken) == 3 and signal.raise_signal(signal.SIGTERM), put(batches))[2],
    )  # fmt: skip
    results = train_vmapped(members, dirs(tmp_path, 2), progress=False)
    assert [(r["state"], r["step"], r["exit_reason"]) for r in results] == [("stopped", 3, "signal SIGTERM")] * 2
    assert [params_of(c, d)[0] for c, d in zip(members, dirs(tmp_path, 2), strict=True)] == [3, 3]


def test_train_vmapped_incompatible_runs_are_refused(tiny_run):
    for other, attributes in (
        (dataclasses.replace(tiny_run, batch_size=32), {"field": "batch_size", "value": 32}),
        (tiny_run, {"field": "configs", "reason": "run twice"}),
        (dataclasses.replace(tiny_run, steps=9), {"field": "steps", "value": 9}),
    ):
        with raises_user_error(**attributes):
            check_compatible([tiny_run, other])
    for run, attributes in (
        (dataclasses.replace(tiny_run, mesh=MeshConfig(fsdp=2)), {"field": "mesh.fsdp", "value": 2}),
        (dataclasses.replace(tiny_run, microbatch_size=8), {"field": "microbatch_size", "value": 8}),
        (
            dataclasses.replace(tiny_run, anomalies=AnomalyConfig(on_nan="rollback")),
            {"field": "anomalies.on_nan", "value": "rollback"},
        ),
    ):
        with raises_user_error(**attributes):
            check_compatible([run])
    assert incompatibility(tiny_run) is None


def test_train_vmapped_on_several_devices_is_refused(members, tmp_path, monkeypatch):
    monkeypatch.setattr(train_context, "make_mesh", make_mesh)
    with raises_user_error(field="mesh", reason="8"):
        train_vmapped(members, dirs(tmp_path, 2), progress=False)
