"""Two processes of four devices are one of eight; each goes on from what the other saved; losing one ends both."""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from clip_jax.config import AnomalyConfig, InitConfig, MeshConfig
from clip_jax.config.io import to_dict
from clip_jax.evals.in_training import make_evaluator
from clip_jax.exit_codes import MISTAKE, STOPPED
from clip_jax.inference import start_from
from clip_jax.storage.json_files import read_json, read_lines
from clip_jax.train.loop import Diverged, train

from ..user_errors import error_fields

pytestmark = pytest.mark.filterwarnings("ignore:.*:DeprecationWarning", "ignore:Sharding info:UserWarning")

FOUR = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
# a job is (config, directory, stop_after, whether to measure); one pair of processes does them all, for speed
SEVERAL_RUNS = """
import json, sys
from clip_jax.config import DistributedConfig, RunConfig
from clip_jax.config.io import from_dict
from clip_jax.distributed.processes import initialized
with initialized(DistributedConfig(sys.argv[1], 2, int(sys.argv[2]), heartbeat_s=20), on_error=lambda e: print(e) or 1):
    import jax
    assert (jax.process_count(), jax.local_device_count(), jax.device_count()) == (2, 4, 8)
    from clip_jax.evals.in_training import make_evaluator
    from clip_jax.inference import start_from
    from clip_jax.train.loop import Diverged, train
    for config, run_dir, stop_after, measure in json.loads(sys.argv[3]):
        config = from_dict(RunConfig, config)
        try:
            given = make_evaluator if measure else None
            train(config, run_dir, given, start_from=start_from, stop_after=stop_after, progress=False)
        except Diverged as error:
            print(f"Diverged: {error}")
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def run(tiny_run):
    # the true gradient of a key's bias is zero: with a small eps Adam would make whole steps of its rounding noise
    optim = dataclasses.replace(tiny_run.optim, eps=1e-3)
    evals = dataclasses.replace(tiny_run.evals, zero_shot=(), at_fractions=(0.5,))
    return dataclasses.replace(tiny_run, optim=optim, evals=evals)


def two(jobs, seconds=500):
    """Return both processes' exit codes and output."""
    jobs = [(to_dict(config), str(run_dir), *rest) for config, run_dir, *rest in jobs]
    address = f"localhost:{free_port()}"
    pair = [
        subprocess.Popen(
            [sys.executable, "-c", SEVERAL_RUNS, address, str(process), json.dumps(jobs)],
            env=os.environ | FOUR, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for process in range(2)
    ]  # fmt: skip
    try:
        outputs = [child.communicate(timeout=seconds)[0] for child in pair]
    finally:
        for child in pair:
            child.kill()
            child.communicate()
    return [child.returncode for child in pair], outputs


@pytest.mark.thorough
def test_train_on_two_processes_equals_one(tiny_run, run, tmp_path, same_params, without_times):
    train(run, tmp_path / "whole", make_evaluator, progress=False)
    sharded = dataclasses.replace(run, mesh=MeshConfig(data=2, fsdp=4))
    train(run, tmp_path / "one then two", stop_after=3, progress=False)
    nervous = dataclasses.replace(run, optim=tiny_run.optim, log_every=1, checkpoint_every=2, anomalies=AnomalyConfig(
        on_spike="rollback", spike_factor=1.0001, spike_window=1, max_rollbacks=2))  # fmt: skip
    with pytest.raises(Diverged):
        train(nervous, tmp_path / "one nervous", progress=False)
    codes, outputs = two(
        [
            (run, tmp_path / "two", None, True),
            (sharded, tmp_path / "two then one", 5, False),
            (sharded, tmp_path / "one then two", None, False),
            (nervous, tmp_path / "two nervous", None, False),
        ]
    )
    assert codes == [0, 0], "\n".join(text[-3000:] for text in outputs)
    both = read_json(tmp_path / "two" / "result.json")
    assert [e["processes"] for e in both["events"]] == [2]
    rows, two_processes = (without_times(read_lines(tmp_path / name / "metrics.jsonl")) for name in ("whole", "two"))
    assert [r["step"] for r in two_processes] == [2, 4, 6, 8], "one process writes"
    np.testing.assert_allclose([r["loss"] for r in two_processes], [r["loss"] for r in rows], atol=1e-5)
    whole, two_processes = (read_lines(tmp_path / name / "evals.jsonl") for name in ("whole", "two"))
    assert [(r["step"], r["task"], r["metric"]) for r in two_processes] == [
        (r["step"], r["task"], r["metric"]) for r in whole
    ]
    losses = [[r["value"] for r in side if r["task"] == "validation"] for side in (whole, two_processes)]
    np.testing.assert_allclose(*losses, atol=1e-4)
    same_params(run, tmp_path / "whole", tmp_path / "two", atol=1e-5)

    # the state and the place in the data survive another number of processes and another mesh, both ways
    again = train(run, tmp_path / "two then one", progress=False)
    assert [(e["event"], e.get("processes"), e["step"]) for e in again["events"]] == [
        ("attempt", 2, 0), ("stopped", None, 5), ("attempt", 1, 5),
    ]  # fmt: skip
    same_params(run, tmp_path / "whole", tmp_path / "two then one", atol=1e-5)
    same_params(run, tmp_path / "whole", tmp_path / "one then two", atol=1e-5)

    # and both go around the same faults
    whole, two_processes = (
        [(e["event"], e["step"], e.get("to"), e.get("data_offset")) for e in read_lines(d / "events.jsonl")]
        for d in (tmp_path / "one nervous", tmp_path / "two nervous")
    )
    assert whole == two_processes
    assert [event for event, *_ in whole] == ["attempt", "rollback", "rollback", "spike"]
    assert all(text.count("Diverged") == 1 for text in outputs)


@pytest.mark.thorough
def test_train_on_two_processes_starts_from_a_run(run, tmp_path, same_params):
    train(run, tmp_path / "source", stop_after=2, progress=False)
    begun = dataclasses.replace(run, init_from=InitConfig(str(tmp_path / "source"), freeze_tower="image"), steps=3)
    sharded = dataclasses.replace(begun, mesh=MeshConfig(data=2, fsdp=4))
    train(begun, tmp_path / "one", start_from=start_from, progress=False)
    codes, outputs = two([(begun, tmp_path / "two", None, False), (sharded, tmp_path / "sharded", None, False)], 300)
    assert codes == [0, 0], "\n".join(text[-3000:] for text in outputs)
    for name in ("two", "sharded"):
        same_params(begun, tmp_path / "one", tmp_path / name, atol=1e-5)


@pytest.fixture
def pair(spawn, run, tmp_path):
    """Return a function (config, directory, flags…) -> two children that train it together."""

    def start(config, run_dir, *flags):
        address = f"--distributed.coordinator=localhost:{free_port()}"
        return [
            spawn(config, run_dir, address, "--distributed.processes=2", f"--distributed.process={process}", *flags,
                  environment=FOUR)
            for process in range(2)
        ]  # fmt: skip

    return start


@pytest.mark.slow
def test_train_preempted_in_one_process_saves_in_both_and_a_lost_one_ends_the_other(run, tmp_path, pair, same_params):
    long = dataclasses.replace(run, steps=80, checkpoint_every=20, log_every=4, evals=dataclasses.replace(
        run.evals, at_fractions=(), val_pairs=16))  # fmt: skip
    whole = pair(long, tmp_path / "whole")
    assert [child.end()[0] for child in whole] == [0, 0]
    metrics = tmp_path / "run" / "metrics.jsonl"

    children = pair(long, tmp_path / "run")
    children[0].wait_until(lambda: len(read_lines(metrics)) >= 2)
    children[1].process.send_signal(signal.SIGTERM)
    ends = [child.end() for child in children]
    assert [code for code, _ in ends] == [STOPPED, STOPPED], ends
    status = read_json(tmp_path / "run" / "status.json")
    assert (status["state"], status["reason"]) == ("stopped", "preempted")
    assert (tmp_path / "run" / "checkpoints" / str(status["step"])).is_dir()

    children = pair(long, tmp_path / "run", "--distributed.heartbeat_s=5")
    rows = len(read_lines(metrics))
    children[0].wait_until(lambda: len(read_lines(metrics)) > rows)
    children[1].process.send_signal(signal.SIGKILL)
    code, stderr = children[0].end(60)
    # what it was doing decides whether a collective operation fails at once, or JAX aborts when the heart has stopped
    assert code in (STOPPED, -signal.SIGABRT), stderr[-3000:]
    if code == STOPPED:
        assert stderr.splitlines()[-1].startswith("clip-jax: lost another process (")

    children = pair(long, tmp_path / "run")
    assert [child.end()[0] for child in children] == [0, 0]
    assert read_json(tmp_path / "run" / "result.json")["attempts"] == 3
    same_params(long, tmp_path / "whole", tmp_path / "run")
    assert [r["step"] for r in read_lines(metrics)] == list(range(4, 81, 4))


def test_train_processes_that_do_not_connect_end_with_one_line(run, tmp_path, spawn):
    address = f"--distributed.coordinator=localhost:{free_port()}"
    flags = ("--distributed.processes=2", "--distributed.process=1", "--distributed.start_s=2")
    code, stderr = spawn(run, tmp_path / "run", address, *flags).end(60)
    assert code == MISTAKE
    assert error_fields(stderr) == ["distributed.coordinator"]
    assert "not reached in 2 s" in stderr
    assert not (tmp_path / "run").exists()
    assert jax.process_count() == 1
