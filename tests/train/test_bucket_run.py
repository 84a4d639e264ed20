"""A run in a bucket: the same numbers, and the same end after an interruption."""

import json

from clip_jax.evals.suite import make_evaluator
from clip_jax.train.loop import train


def test_it_records_what_a_run_here_records_and_goes_on_after_a_stop(
    bucket, tiny_run, tmp_path, same_params, without_times
):
    here, there = tmp_path / "run", "gs://bucket/sweep/run"
    result = train(tiny_run, here, make_evaluator, progress=False)
    assert train(tiny_run, there, make_evaluator, progress=False, stop_after=5)["state"] == "stopped"
    again = train(tiny_run, there, make_evaluator, progress=False)
    print(bucket.names(""))
    same_params(tiny_run, here, there)
