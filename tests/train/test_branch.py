"""Runs that branch off a trunk end with the bits of runs that train every step themselves."""

import dataclasses

import pytest

from clip_jax.config.trunk import branch_step, trunk_config
from clip_jax.errors import UserError
from clip_jax.evals.in_training import make_evaluator
from clip_jax.storage.json_files import read_json, read_lines, write_json
from clip_jax.train.branch import Branch
from clip_jax.train.loop import train
from clip_jax.train.run_directory import RunDirectory, checkpoints_in

from ..user_errors import raises_user_error


@pytest.fixture(scope="module")
def short(tiny_run):
    """Return a run of 28 steps whose decay begins at step 21."""
    return dataclasses.replace(
        tiny_run,
        steps=28,
        log_every=2,
        checkpoint_every=5,
        optim=dataclasses.replace(tiny_run.optim, schedule="wsd", lr_decay_fraction=0.25, warmup_steps=3),
        evals=dataclasses.replace(tiny_run.evals, at_fractions=()),
    )


@pytest.fixture(scope="module")
def trunk(short, tmp_path_factory):
    """Return the directory of a trunk trained to step 30, with its checkpoint of step 20."""
    path = tmp_path_factory.mktemp("trunk") / "run"
    train(trunk_config(short), path, stop_after=30, progress=False, keep=(20,))
    return path


def test_branch_step_is_a_checkpoint_before_the_decay_and_the_first_evaluation(short):
    assert branch_step(short) == 20
    early = dataclasses.replace(short, evals=dataclasses.replace(short.evals, at_fractions=(0.5, 0.9)))
    assert branch_step(early) == 10
    assert branch_step(dataclasses.replace(short, checkpoint_every=50)) == 0
    cosine = dataclasses.replace(short.optim, schedule="cosine", lr_decay_fraction=0.2)
    assert branch_step(dataclasses.replace(short, optim=cosine)) == 0


def test_branch_step_of_a_shorter_warm_up_is_zero(short):
    optim = dataclasses.replace(short.optim, warmup_steps=-1)
    assert branch_step(dataclasses.replace(short, optim=optim, steps=18, checkpoint_every=2)) == 0


@pytest.mark.thorough
def test_branch_fills_the_directory_of_a_run_from_step_zero(short, trunk, tmp_path, same_params, without_times):
    result = train(short, tmp_path / "branch", make_evaluator, progress=False, branch=Branch(trunk, 20))
    scratch = train(short, tmp_path / "scratch", make_evaluator, progress=False)
    same_params(short, tmp_path / "branch", tmp_path / "scratch")
    one, other = [tmp_path / name / "metrics.jsonl" for name in ("branch", "scratch")]
    assert without_times(read_lines(one)) == without_times(read_lines(other))
    assert checkpoints_in(tmp_path / "branch") == checkpoints_in(tmp_path / "scratch")
    assert result["run_id"] == scratch["run_id"]
    assert result["evals"] == scratch["evals"]
    assert result["branched_from"] == {"trunk": trunk.name, "step": 20}
    assert scratch["branched_from"] is None
    assert result["flops"] == scratch["flops"]
    assert read_json(tmp_path / "branch" / "tokenizer.json") == read_json(tmp_path / "scratch" / "tokenizer.json")


@pytest.mark.thorough
def test_branch_of_a_longer_trunk_and_a_resumed_branch_end_with_the_same_bits(short, trunk, tmp_path, same_params):
    run = dataclasses.replace(short, steps=40)
    assert branch_step(run) == 30
    train(run, tmp_path / "branch", stop_after=33, progress=False, branch=Branch(trunk, 30))
    train(run, tmp_path / "branch", progress=False, branch=Branch("gone", 30))  # has checkpoints of its own
    train(run, tmp_path / "early", progress=False, branch=Branch(trunk, 20))
    train(run, tmp_path / "scratch", progress=False)
    same_params(run, tmp_path / "branch", tmp_path / "scratch")
    same_params(run, tmp_path / "early", tmp_path / "scratch")


@pytest.mark.thorough
def test_trunk_goes_on_past_its_end_and_keeps_only_what_is_asked_for(short, tmp_path):
    path = tmp_path / "trunk"
    train(trunk_config(short), path, stop_after=20, progress=False, keep=(10, 20))
    assert checkpoints_in(path) == [10, 15, 20]
    train(trunk_config(short), path, stop_after=35, progress=False, keep=(20,))
    assert checkpoints_in(path) == [20, 30, 35]


def test_branch_begins_without_the_shards_that_its_trunk_did_without(short, trunk, tmp_path):
    branch = Branch(trunk, 20)
    assert branch.inputs() == {}
    copy = tmp_path / "trunk"
    copy.mkdir()
    write_json(copy / "status.json", {**read_json(trunk / "status.json"), "missing_shards": ["03.tar"]})
    directory = RunDirectory(tmp_path / "run", short)
    directory.inherited = Branch(copy, 20).inputs()
    directory.begin(short.steps)
    directory.lock.close()
    assert read_json(tmp_path / "run" / "status.json")["missing_shards"] == ["03.tar"]


def test_branch_of_another_run_is_refused(short, trunk, tmp_path):
    other = dataclasses.replace(short, seed=short.seed + 1)
    with raises_user_error(UserError, field="trunk", value=trunk):
        train(other, tmp_path / "run", progress=False, branch=Branch(trunk, 20))
    with raises_user_error(UserError, field="branch_at", value=25):
        train(short, tmp_path / "run", progress=False, branch=Branch(trunk, 25))
    with raises_user_error(UserError, field=str(trunk / "checkpoints" / "15")):
        train(short, tmp_path / "run", progress=False, branch=Branch(trunk, 15))
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
