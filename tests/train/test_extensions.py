"""What a caller adds to a run: refused where it would be ignored."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clip_jax.config import LossConfig
from clip_jax.distributed.mesh import make_mesh
from clip_jax.errors import UserError
from clip_jax.losses import dense_contrastive_loss
from clip_jax.models.clip import build, init_params
from clip_jax.train.extensions import Extensions
from clip_jax.train.grad_cache import full_batch_gradients, make_accumulated_gradients
from clip_jax.train.run_directory import RunDirectory
from clip_jax.train.step import make_loss
from clip_jax.train.trackers import NoTracker, open_tracker


def halved(image, text, scale, bias):
    return dense_contrastive_loss(image, text, scale) / 2


def field_of(call):
    with pytest.raises(UserError) as error:
        call()
    return error.value.field


@pytest.mark.parametrize("microbatch", [0, pytest.param(8, marks=pytest.mark.thorough)])
def test_loss_of_the_caller_gives_its_value_and_gradient(tiny_run, microbatch):
    run = dataclasses.replace(tiny_run, microbatch_size=microbatch)
    mesh = make_mesh(run.mesh)
    built = build(run.model, mesh)
    params = jax.jit(lambda: init_params(run.model, 0), out_shardings=built.shardings)()
    rng = np.random.default_rng(0)
    batch = {
        "images": jnp.asarray(rng.integers(0, 256, (16, 32, 32, 3), np.uint8)),
        "tokens": jnp.asarray(rng.integers(3, 400, (16, 16)), jnp.int32),
    }

    def gradients(pair_loss):
        if microbatch:
            function = make_accumulated_gradients(run, built, mesh, pair_loss)
        else:
            function = full_batch_gradients(make_loss(run, built, mesh, pair_loss))
        (loss, _), grads = jax.jit(lambda *args: function(*args, None))(params, batch, jax.random.key(0))
        return loss, jax.tree.leaves(grads)

    plain, added = gradients(None), gradients(Extensions(halved).pair_loss())
    assert float(added[0]) == pytest.approx(float(plain[0]) / 2, rel=1e-5)
    for one, other in zip(added[1], plain[1], strict=True):
        np.testing.assert_allclose(one, other / 2, rtol=1e-3, atol=1e-6)


def test_loss_that_would_be_ignored_is_refused(tiny_run, run_of, monkeypatch):
    extensions = Extensions(halved)
    extensions.check(tiny_run)
    assert field_of(lambda: extensions.check(run_of("caption"))) == "loss"
    ring = dataclasses.replace(tiny_run, loss=LossConfig(implementation="ring"))
    assert field_of(lambda: extensions.check(ring)) == "loss.implementation"
    Extensions().check(ring)
    monkeypatch.setattr("clip_jax.train.extensions.LOSSES", ())  # as if its loss were that of a package
    assert field_of(lambda: extensions.check(tiny_run)) == "loss.name"


def test_extensions_of_another_kind_are_refused():
    assert field_of(lambda: Extensions(loss=1.0)) == "loss"
    assert field_of(lambda: Extensions(callbacks=("print",))) == "callbacks"
    one = jnp.ones(4)
    for loss in (lambda image, *_: image, lambda *_: 1):
        assert field_of(lambda loss=loss: Extensions(loss).pair_loss()(one, one, one, one)) == "loss"


def test_run_goes_on_with_what_it_began_with(tiny_run, tmp_path):
    extensions = Extensions(halved, ("colors",))
    first = RunDirectory(tmp_path, tiny_run, extensions=extensions)
    first.begin(tiny_run.steps)
    first.lock.close()
    assert RunDirectory(tmp_path, tiny_run, extensions=extensions).inputs == {
        "extensions": {"loss": f"{__name__}.halved", "evaluators": ["colors"]}
    }
    assert field_of(lambda: RunDirectory(tmp_path, tiny_run)) == "loss"
    assert field_of(lambda: RunDirectory(tmp_path, tiny_run, extensions=Extensions(halved))) == "evaluators"


def test_callbacks_get_what_the_tracker_gets_on_the_writer_only(tiny_run, tmp_path):
    calls = []
    tracker = open_tracker(tiny_run, tmp_path, callbacks=[lambda *call: calls.append(call)])
    tracker.log({"train/loss": 1.0}, 2)
    tracker.close()
    assert calls == [(2, {"train/loss": 1.0})]
    assert isinstance(open_tracker(tiny_run, tmp_path, writer=False, callbacks=[print]), NoTracker)
