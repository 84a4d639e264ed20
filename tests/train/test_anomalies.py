"""Losses that are no numbers or jump: found, recorded, and gone around alike however often the run is interrupted."""

import contextlib
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clip_jax.config import AnomalyConfig
from clip_jax.data.open import open_source
from clip_jax.data.pipeline.loader import learn_tokenizer, train_batches
from clip_jax.distributed.mesh import make_mesh
from clip_jax.finite import NotFinite
from clip_jax.models.clip import build
from clip_jax.optim.optimizer import make_optimizer
from clip_jax.storage.json_files import read_json, read_lines
from clip_jax.train import programs
from clip_jax.train.anomalies import Anomaly, BatchStream, DataOffsets, LossMonitor
from clip_jax.train.loop import Diverged, train
from clip_jax.train.state import TrainState, init_state
from clip_jax.train.step import make_train_step, put_batch

from ..user_errors import raises_user_error

pytestmark = pytest.mark.filterwarnings("ignore:.*:DeprecationWarning", "ignore:Sharding info:UserWarning")

BACK = AnomalyConfig(on_nan="rollback")


def test_loss_monitor_compares_a_spike_with_the_median_before():
    watch = LossMonitor(AnomalyConfig(on_spike="stop", spike_factor=2.0, spike_window=3), [(1, 1.0), (2, 9.0)])
    watch.observe(3, 100.0)  # too few to judge by
    watch.losses[-1] = (3, 1.2)
    watch.observe(4, 2.39)  # twice the median of 1, 9 and 1.2 is 2.4
    watch.truncate_after(3)
    with pytest.raises(
        Anomaly, match="the loss is 2.41 at step 4, above anomalies.spike_factor=2 times the 1.2 before"
    ):
        watch.observe(4, 2.41)
    with pytest.raises(Anomaly, match="not finite at step 5") as raised:
        watch.observe(5, float("inf"))
    assert (raised.value.step, raised.value.kind) == (5, "nan")
    LossMonitor(AnomalyConfig(), [(s, 1.0) for s in range(20)]).observe(21, 1e9)


def test_data_offsets_skip_every_batch_since_the_checkpoint():
    detours = DataOffsets()
    assert detours.offset(7) == 0
    assert detours.add(step=60, to=40) == 20  # batches 40 to 59 are passed over
    assert [detours.offset(s) for s in (39, 40, 90)] == [0, 20, 20]
    assert detours.add(step=100, to=80) == 40  # and 100 to 119
    assert [detours.offset(s) for s in (39, 40, 79, 80)] == [0, 20, 20, 40]
    assert detours.add(step=90, to=40) == 90  # 120 to 129 were used last: 130 is next
    assert [detours.offset(s) for s in (39, 40, 85)] == [0, 90, 90]
    events = [{"event": "rollback", "to": to, "data_offset": offset} for to, offset in ((40, 20), (80, 40), (40, 90))]
    again = DataOffsets([{"event": "attempt"}, *events])
    assert [again.offset(s) for s in range(100)] == [detours.offset(s) for s in range(100)]
    assert again.count == detours.count == 3


@pytest.fixture(scope="module")
def run(tiny_run):
    return dataclasses.replace(tiny_run, steps=16, anomalies=BACK)


@pytest.fixture(scope="module")
def batches(run):
    """Return the first 40 batches of the data's order."""
    source = open_source(run.data, "train", run.model.image.image_size)
    longer = dataclasses.replace(run, steps=40)
    with contextlib.closing(train_batches(longer, source, learn_tokenizer(run, source), 0)) as order:
        return list(order)


def test_batch_stream_follows_the_data_offsets(run, batches):
    source = open_source(run.data, "train", run.model.image.image_size)
    detours = DataOffsets()
    feed = BatchStream(run, source, learn_tokenizer(run, source), detours, 0)
    seen = [feed.batch(step) for step in (0, 1, 2)]
    detours.add(step=3, to=1)
    seen += [feed.batch(step) for step in (0, 1, 2, 15)]  # from before the detour, through it, to the end of the run
    for batch, place in zip(seen, (0, 1, 2, 0, 3, 4, 17), strict=True):
        np.testing.assert_array_equal(batch["images"], batches[place]["images"])
        np.testing.assert_array_equal(batch["tokens"], batches[place]["tokens"])
    assert feed.broken_records == 0
    feed.close()


@pytest.fixture
def poison(monkeypatch, batches):
    """Make batches at some positions of the data's order bad: a NaN loss and state, or a loss times ten."""

    def apply(places, kind="nan"):
        bad = {batches[p]["tokens"].tobytes() + batches[p]["images"].tobytes() for p in places}

        def make(*args):
            step_fn = make_train_step(*args)

            def step(state, batch):
                hit = np.asarray(batch["tokens"]).tobytes() + np.asarray(batch["images"]).tobytes() in bad
                state, metrics = step_fn(state, batch)
                if hit and kind == "nan":
                    ruined = jax.tree.map(lambda x: x * jnp.nan, state.params)
                    state = TrainState(state.step, ruined, state.opt_state)
                if hit:
                    metrics = metrics | {"loss": metrics["loss"] * (jnp.nan if kind == "nan" else 10.0)}
                return state, metrics

            return step

        monkeypatch.setattr(programs, "make_train_step", make)

    return apply


@pytest.fixture(scope="module")
def trained_on(run, batches):
    """Return the parameters after plain steps over the batches at these positions, the reference of the tests below."""
    optimizer = make_optimizer(run.optim, run.steps)
    mesh = make_mesh(run.mesh)
    built = build(run.model, mesh)
    step_fn = make_train_step(run, built, optimizer, mesh)

    def steps(places):
        state = init_state(run, built, optimizer, mesh)
        for place in places:
            state, _ = step_fn(state, put_batch(batches[place], mesh))
            jax.block_until_ready(state)
        return state.params

    return steps


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.thorough
def test_train_rolls_back_over_a_nan_and_records_it(run, poison, trained_on, final_params, tmp_path, caplog):
    poison({9})  # the batch of step 10, two after a checkpoint
    result = train(run, tmp_path, progress=False)
    assert_same(final_params(run, tmp_path), trained_on([*range(8), *range(10, 18)]))
    event = {k: result["events"][1][k] for k in ("event", "kind", "step", "to", "data_offset", "attempt")}
    assert event == {"event": "rollback", "kind": "nan", "step": 10, "to": 8, "data_offset": 2, "attempt": 1}
    assert result["events"] == read_lines(tmp_path / "events.jsonl")
    message = "the loss is not finite at step 10; back to step 8, skipping 2 batches"
    assert read_json(tmp_path / "status.json")["last_event"] == f"rollback: {message}"
    assert [r.getMessage() for r in caplog.records if r.name == "clip_jax.train.loop"] == [f"{tmp_path}: {message}"]
    assert [r["step"] for r in read_lines(tmp_path / "metrics.jsonl")] == list(range(2, 17, 2)), "no step stands twice"


@pytest.mark.thorough
@pytest.mark.parametrize("stops", [(5, 9, 11), (10, 14)], ids=str)
def test_train_interrupted_after_a_rollback_skips_the_same_batches(
    run, poison, trained_on, final_params, tmp_path, stops
):
    poison({9, 13})  # the second is met in the place of step 12
    for stop in stops:
        assert train(run, tmp_path, stop_after=stop, progress=False)["step"] == stop
    result = train(run, tmp_path, progress=False)
    assert_same(final_params(run, tmp_path), trained_on([*range(8), *range(14, 22)]))
    assert [(e["step"], e["to"]) for e in result["events"] if e["event"] == "rollback"] == [(10, 8), (12, 8)]


def test_train_finds_a_non_finite_state_before_saving(run, poison, trained_on, final_params, tmp_path):
    poison({5})
    quiet = dataclasses.replace(run, log_every=100)  # no loss is looked at but the last
    result = train(quiet, tmp_path, progress=False)
    assert_same(final_params(quiet, tmp_path), trained_on([*range(4), *range(8, 20)]))
    assert result["events"][1]["reason"].startswith("the parameters are not finite at step 8; back to step 4")


@pytest.mark.thorough
def test_train_nan_before_the_first_checkpoint_starts_again(run, poison, trained_on, final_params, tmp_path):
    poison({1})
    train(run, tmp_path, progress=False)
    assert_same(final_params(run, tmp_path), trained_on(range(2, 18)))


@pytest.mark.thorough
def test_train_nan_at_the_last_step_rolls_back(run, poison, trained_on, final_params, tmp_path):
    poison({15})
    train(run, tmp_path, progress=False)
    assert_same(final_params(run, tmp_path), trained_on([*range(12), *range(16, 20)]))


@pytest.mark.thorough
def test_train_max_rollbacks_counts_over_attempts(run, poison, tmp_path):
    poison(range(4, 40))
    few = dataclasses.replace(run, anomalies=dataclasses.replace(BACK, max_rollbacks=2))
    with raises_user_error(Diverged, reason="step 6", hint="anomalies.max_rollbacks=2 are used up"):
        train(few, tmp_path, progress=False)
    with raises_user_error(Diverged, hint="used up"):
        train(few, tmp_path, progress=False)
    assert [e["event"] for e in read_lines(tmp_path / "events.jsonl")] == [
        "attempt", "rollback", "rollback", "nan", "attempt", "nan",
    ]  # fmt: skip
    assert read_json(tmp_path / "status.json")["state"] == "failed"


@pytest.mark.thorough
def test_train_spike_follows_the_policy(run, poison, trained_on, final_params, tmp_path):
    poison({9}, kind="spike")
    spikes = AnomalyConfig(on_spike="rollback", spike_factor=3.0, spike_window=3)
    going = dataclasses.replace(run, anomalies=spikes)
    train(going, tmp_path / "back", stop_after=9, progress=False)  # what is usual is remembered
    result = train(going, tmp_path / "back", progress=False)
    assert [e["kind"] for e in result["events"] if e["event"] == "rollback"] == ["spike"]
    assert_same(final_params(going, tmp_path / "back"), trained_on([*range(8), *range(10, 18)]))
    stopping = dataclasses.replace(run, anomalies=dataclasses.replace(spikes, on_spike="stop"))
    with raises_user_error(Diverged, reason="step 10, above anomalies.spike_factor=3"):
        train(stopping, tmp_path / "stop", progress=False)
    assert read_lines(tmp_path / "stop" / "events.jsonl")[-1]["event"] == "spike"
    ignoring = dataclasses.replace(run, anomalies=AnomalyConfig())
    assert train(ignoring, tmp_path / "ignore", progress=False)["state"] == "finished"


@pytest.mark.thorough
def test_train_non_finite_evaluation_fails_the_run(tiny_run, tmp_path):
    def make_evaluator(*_):
        def evaluate(params):
            raise NotFinite.of_row("embedding", 3, "pets: picture 3")

        return evaluate

    short = dataclasses.replace(tiny_run, steps=3)
    with pytest.raises(Diverged) as error:
        train(short, tmp_path / "run", make_evaluator, progress=False)
    assert "pets: picture 3" in str(error.value)
    assert [e["step"] for e in read_lines(tmp_path / "run" / "events.jsonl") if e["event"] == "nan"] == [3]
    assert read_json(tmp_path / "run" / "status.json")["state"] == "failed"
    assert not (tmp_path / "run" / "result.json").exists()
