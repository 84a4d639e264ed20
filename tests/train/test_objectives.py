"""The four arms of the paper's efficiency figure in the one training loop."""

import dataclasses

import jax
import numpy as np
import pytest

from clip_jax import flops
from clip_jax.config import MeshConfig
from clip_jax.distributed.mesh import make_mesh
from clip_jax.evals.in_training import make_evaluator
from clip_jax.models.clip import build, init_params
from clip_jax.storage.json_files import read_lines
from clip_jax.train.checkpoint import load_params
from clip_jax.train.loop import train
from clip_jax.train.step import make_loss, put_batch

ARMS = [
    ("contrastive", "transformer"),
    ("contrastive", "bag_of_words"),
    ("bag_of_words", "transformer"),
    ("caption", "transformer"),
]


@pytest.fixture
def reds(tmp_path, write_shard, jpeg):
    """Write a task of which the captions name one class only, "red"."""
    samples = {}
    for i in range(6):
        samples |= {f"{i}.jpg": jpeg((40 * i, 0, 0)), f"{i}.cls": str(i // 3).encode()}
    write_shard(tmp_path / "reds" / "test" / "0.tar", samples)
    (tmp_path / "reds" / "classnames.txt").write_text("darkish\nbrightish red\n")
    (tmp_path / "reds" / "zeroshot_classification_templates.txt").write_text("a {c} picture\n")
    return tmp_path / "reds"


@pytest.mark.thorough
@pytest.mark.parametrize(("objective", "encoder"), ARMS)
def test_train_of_each_objective_learns_is_evaluated_and_resumes(run_of, reds, tmp_path, objective, encoder):
    run = run_of(objective, encoder)
    evals = dataclasses.replace(run.evals, zero_shot=(str(reds),), at_fractions=(0.5,))
    run = dataclasses.replace(run, evals=evals, steps=24, checkpoint_every=12)
    result = train(run, tmp_path / "whole", make_evaluator, progress=False)
    losses = [r["loss"] for r in read_lines(tmp_path / "whole" / "metrics.jsonl")]
    assert np.mean(losses[-3:]) < 0.97 * np.mean(losses[:2])

    value = {(r["task"], r["metric"]): r["value"] for r in result["evals"]}
    assert result["error_mean"] == 1 - value["reds", "top1"]
    if objective == "contrastive":
        assert result["val_loss"] == value["validation", "loss"]
    else:
        assert result["val_loss"] is None, "no other loss may stand where InfoNCE does"
        assert value["validation", f"{objective}_loss"] > 0
        assert not any(task == "retrieval" for task, _ in value)
    assert value.get(("reds", "uncovered_classes")) == (1.0 if objective == "bag_of_words" else None)

    per_pair = flops.flops_per_sample(run.model).total
    logits = 6 * 16 * run.model.embed_dim if objective == "contrastive" else 0
    assert result["flops"] == 24 * 16 * (3 * per_pair + logits)
    assert result["flops_logits"] == 24 * 16 * logits
    assert result["flops_per_sample"] == per_pair
    assert result["eval_flops"] > 2 * 32 * per_pair, "the validation pairs, twice, and more"

    assert train(run, tmp_path / "parts", stop_after=7, progress=False)["state"] == "stopped"
    train(run, tmp_path / "parts", progress=False)
    built = build(run.model, make_mesh(run.mesh))
    one, other = (load_params(tmp_path / d, built)[1] for d in ("whole", "parts"))
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.thorough
@pytest.mark.parametrize("objective", ["caption", "bag_of_words"])
def test_predictive_loss_is_that_of_the_global_batch(run_of, objective):
    rng = np.random.default_rng(0)
    tokens = np.zeros((16, 16), np.int32)
    for row, length in zip(tokens, [1, 1, 2, 2, 14, 14, 9, 9, 0, 0, 5, 5, 3, 3, 7, 7], strict=True):
        row[: length + 2] = [398, *rng.integers(1, 398, length), 399]  # the devices' shares differ in length
    batch = {"images": rng.integers(0, 255, (16, 32, 32, 3), np.uint8), "tokens": tokens}
    losses = []
    for mesh_config, devices, chunk in (
        (MeshConfig(), jax.devices()[:1], 0), (MeshConfig(), None, 0), (MeshConfig(fsdp=2, tensor=2), None, 5),
    ):  # fmt: skip
        run = run_of(objective, vocab_chunk=chunk)
        mesh = make_mesh(mesh_config, devices)
        built = build(run.model, mesh)
        params = jax.jit(lambda run=run: init_params(run.model, 0), out_shardings=built.shardings)()
        loss = jax.jit(jax.value_and_grad(make_loss(run, built, mesh), has_aux=True))
        (value, (scale, _)), grads = loss(params, put_batch(batch, mesh), jax.random.key(0))
        assert float(scale) == 1
        losses.append((value, grads))
    for other in losses[1:]:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), other, losses[0])


def test_train_with_patch_dropout_passes_a_key(run_of):
    run = run_of("caption")
    run = dataclasses.replace(run, model=dataclasses.replace(
        run.model, image=dataclasses.replace(run.model.image, patch_dropout=0.5)))  # fmt: skip
    mesh = make_mesh(MeshConfig())
    built = build(run.model, mesh)
    params = jax.jit(lambda: init_params(run.model, 0), out_shardings=built.shardings)()
    rng = np.random.default_rng(0)
    batch = {"images": rng.integers(0, 255, (16, 32, 32, 3), np.uint8), "tokens": np.full((16, 16), 5, np.int32)}
    loss = jax.jit(make_loss(run, built, mesh))
    a, b, c = (loss(params, put_batch(batch, mesh), jax.random.key(k))[0] for k in (0, 0, 1))
    assert float(a) == float(b) != float(c)
