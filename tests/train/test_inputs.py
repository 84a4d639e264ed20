"""What a run was made from, held against what is there."""

import dataclasses
import json

import pytest

from clip_jax.config import DataConfig, OptimConfig, RunConfig
from clip_jax.config.io import load, run_id, to_dict
from clip_jax.data.open import open_source
from clip_jax.data.tokenizers.learned_bpe import train_tokenizer
from clip_jax.evals.in_training import make_evaluator
from clip_jax.inference import load_model
from clip_jax.storage.json_files import read_json, read_lines, write_json
from clip_jax.train.evaluate import evaluate_run
from clip_jax.train.inputs import (
    TOKENIZER,
    check_data,
    describe,
    describe_change,
    file_sha256,
    read_tokenizer,
    resolve_epochs,
)
from clip_jax.train.loop import train
from clip_jax.train.run_directory import RunDirectory, read_config

from ..user_errors import raises_user_error


@pytest.fixture
def pairs_run(tiny_run, pairs_dir):
    """Return a run on a folder of shards."""
    evals = dataclasses.replace(tiny_run.evals, zero_shot=(), val_pairs=4)
    data = DataConfig(source="webdataset", paths=(str(pairs_dir),), num_threads=1)
    return dataclasses.replace(tiny_run, data=data, evals=evals, batch_size=8, steps=4, checkpoint_every=2)


@pytest.fixture
def run_dir(tmp_path, tiny_run):
    """Write a run's directory with the records of its inputs, without checkpoints."""
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    write_json(folder / "config.json", to_dict(tiny_run))
    text = tiny_run.model.text
    train_tokenizer(["a red kettle"], text.vocab_size, text.context_length).save(folder / "tokenizer.json")
    digest = file_sha256(folder / "tokenizer.json")
    write_json(folder / "status.json", {"run_id": run_id(tiny_run), TOKENIZER: digest})
    return folder


def change(path, *names, value):
    """Set a nested field of a JSON file."""
    values = inner = json.loads(path.read_text())
    for name in names[:-1]:
        inner = inner[name]
    inner[names[-1]] = value
    path.write_text(json.dumps(values))


READERS = {
    "eval": lambda d, run: evaluate_run(d, make_evaluator),
    "load_model": lambda d, run: load_model(str(d)),
    "train": lambda d, run: train(run, d),
    "train from its own file": lambda d, run: train(load(RunConfig, d / "config.json"), d),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("record", ["status.json", "result.json"])
def test_read_config_edited_is_refused_by_every_reader(run_dir, tiny_run, reader, record):
    values = {"run_id": run_id(tiny_run), "state": "finished"}
    write_json(run_dir / record, values | ({"config": to_dict(tiny_run)} if record == "result.json" else {}))
    change(run_dir / "config.json", "model", "activation", value="quick_gelu")
    with raises_user_error(field=str(run_dir / "config.json"), reason=run_id(tiny_run)) as raised:
        READERS[reader](run_dir, tiny_run)
    assert ("model.activation" in raised.value.reason) == (record == "result.json")


def test_read_config_fields_outside_the_id_may_change(run_dir, tiny_run):
    change(run_dir / "config.json", "wandb", value="offline")
    assert read_config(run_dir).wandb == "offline"
    (run_dir / "status.json").write_text("{")  # a damaged record tells nothing
    assert read_config(run_dir) is not None


@pytest.mark.parametrize("reader", ["eval", "load_model"])
def test_read_tokenizer_changed_is_refused(run_dir, tiny_run, reader, monkeypatch):
    for module in ("clip_jax.inference", "clip_jax.train.evaluate"):
        monkeypatch.setattr(f"{module}.load_params", lambda *a: (1, {}), raising=True)
    path = run_dir / "tokenizer.json"
    read_tokenizer(run_dir, tiny_run.model)
    path.write_text(path.read_text().replace('"a"', '"~"', 1))
    with raises_user_error(field=str(path)):
        READERS[reader](run_dir, tiny_run)


@pytest.mark.parametrize(("name", "value"), [("context_length", 17), ("vocab_size", 10**9), ("context_length", -3)])
def test_read_tokenizer_that_does_not_fit_the_model_is_refused(run_dir, tiny_run, name, value):
    (run_dir / "status.json").unlink()  # as of a run that began without a digest
    change(run_dir / "tokenizer.json", name, value=value)
    with raises_user_error(field=name):
        read_tokenizer(run_dir, tiny_run.model)


def test_hold_data_other_records_are_refused_and_the_first_stay_noted(tmp_path, pairs_run, pairs_dir, write_shard):
    def now():
        return {split: describe(open_source(pairs_run.data, split, 32)) for split in ("train", "val")}

    record = RunDirectory(tmp_path / "run", pairs_run)
    record.begin(4)
    first = now()
    check_data(record, first)
    record.lock.close()
    write_shard(pairs_dir / "train" / "2.tar", {"x.txt": b"later"})
    again = RunDirectory(tmp_path / "run", pairs_run)
    again.begin(4)
    again.lock.close()
    with raises_user_error(source=tmp_path / "run", field="data.paths", reason="21 records, 20 when"):
        check_data(again, now())
    (pairs_dir / "train" / "2.tar").unlink()
    write_shard(pairs_dir / "val" / "0.tar", {f"{i}.txt": b"other" for i in range(10)})
    with raises_user_error(source=tmp_path / "run", field="data.val_paths", reason="20 records"):
        check_data(again, now())
    assert read_json(tmp_path / "run" / "status.json")["data"] == first


@pytest.mark.parametrize("digests", [None, {}, {"train": None}, "junk", {"val": {"records": 1}}])
def test_describe_change_of_records_without_a_digest_is_none(digests):
    assert describe_change(digests, {"train": {"records": 3, "digest": "x"}}, "train") is None


@pytest.mark.thorough
def test_train_resumes_with_its_own_data_only(tmp_path, pairs_run, pairs_dir, write_shard, caplog):
    assert train(pairs_run, tmp_path / "run", make_evaluator, stop_after=2, progress=False)["step"] == 2
    later = write_shard(pairs_dir / "train" / "2.tar", {"x.txt": b"later"})
    with raises_user_error(field="data.paths"):
        train(pairs_run, tmp_path / "run", make_evaluator, progress=False)
    later.unlink()
    result = train(pairs_run, tmp_path / "run", make_evaluator, progress=False)
    assert result["data"]["train"]["records"] == 20
    assert result[TOKENIZER] == file_sha256(tmp_path / "run" / "tokenizer.json")
    assert not [r for r in caplog.records if r.name.startswith("clip_jax")]
    write_shard(pairs_dir / "val" / "2.tar", {"x.jpg": b"later", "x.txt": b"later"})
    evaluate_run(tmp_path / "run", make_evaluator)
    assert "the held-out split changed: 21 records, 20 when the run began" in caplog.text


@pytest.mark.thorough
def test_train_logs_what_is_held_out(tmp_path, pairs_run, pairs_dir, caplog):
    data = dataclasses.replace(pairs_run.data, paths=(f"{pairs_dir}/*/*.tar",), val_fraction=0.4)
    train(dataclasses.replace(pairs_run, data=data), tmp_path / "run", stop_after=1, progress=False)
    notes = [e["reason"] for e in read_lines(tmp_path / "run" / "events.jsonl") if e["event"] == "data"]
    assert [note for note in notes if "data.val_fraction=0.4" in note]
    assert set(notes) <= set(caplog.messages)


@pytest.mark.parametrize(("epochs", "steps"), [(3.0, 15), (0.4, 2), (0.01, 1)])
def test_epochs_become_steps(pairs_run, epochs, steps):
    usual = dataclasses.replace(pairs_run, steps=RunConfig.steps, batch_size=4, optim=OptimConfig())
    assert resolve_epochs(usual) is usual
    assert len(open_source(usual.data, "train", 32)) == 20
    resolved = resolve_epochs(dataclasses.replace(usual, epochs=epochs))
    assert resolved == dataclasses.replace(usual, steps=steps)
    assert run_id(resolved) == run_id(dataclasses.replace(usual, steps=steps))
    first_half = dataclasses.replace(usual.data, unique_samples=10)
    halved = resolve_epochs(dataclasses.replace(usual, epochs=2 * epochs, data=first_half))
    assert halved.steps == steps
    rendered = resolve_epochs(RunConfig(epochs=2.0, data=DataConfig(unique_samples=640), batch_size=128))
    assert rendered.steps == 10


def test_a_begun_run_keeps_its_number_of_pairs(tmp_path, pairs_run):
    begun = dataclasses.replace(pairs_run, steps=RunConfig.steps, epochs=1.0, optim=OptimConfig())
    directory = RunDirectory(tmp_path, resolve_epochs(begun, tmp_path))
    directory.begin(3)
    directory.note_input("data", {"train": {"records": 80, "digest": None}, "val": {"records": 8, "digest": None}})
    directory.lock.close()
    assert resolve_epochs(begun, tmp_path).steps == 10


def test_epochs_need_an_end(monkeypatch, pairs_run):
    source = open_source(pairs_run.data, "train", 32)
    source.infinite = True
    monkeypatch.setattr("clip_jax.train.inputs.open_source", lambda *_: source)
    with raises_user_error(field="epochs", value=1.0, hint="set steps"):
        resolve_epochs(dataclasses.replace(pairs_run, steps=RunConfig.steps, epochs=1.0))


@pytest.mark.thorough
def test_a_run_of_epochs_is_recorded_in_steps_and_says_its_short_warm_up(tmp_path, pairs_run, caplog):
    caplog.set_level("INFO", "clip_jax")
    optim = dataclasses.replace(pairs_run.optim, warmup_steps=-1)
    config = dataclasses.replace(pairs_run, steps=RunConfig.steps, epochs=1.2, optim=optim)
    assert train(config, tmp_path, stop_after=1, progress=False).state == "stopped"
    assert (read_config(tmp_path).steps, read_config(tmp_path).epochs) == (3, 0.0)
    assert {"steps: 3, as epochs=1.2 of 20 pairs", "optim.warmup_steps: 2 of 3 steps"} <= set(caplog.messages)
    result = train(config, tmp_path, progress=False)
    assert (result.steps, result.samples_seen) == (3, 24)
