"""What can happen to a process, and that nothing beyond the last checkpoint is lost.

Each row ends with the parameters of an uninterrupted run, bit for bit. Losing one of several processes is in
test_multi_process.py, NaN and spikes in test_faults.py, each way a checkpoint can be broken in test_checkpoint.py.
"""

import contextlib
import dataclasses
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from clip_jax.cli.main import main
from clip_jax.config.io import to_dict
from clip_jax.errors import UserError
from clip_jax.exit_codes import INTERRUPTED, MISTAKE, STOPPED
from clip_jax.storage.json_files import read_json, read_lines
from clip_jax.train import checkpoint, loop
from clip_jax.train.loop import train
from clip_jax.train.step import put_batch

from ..user_errors import raises_user_error

pytestmark = pytest.mark.filterwarnings("ignore:.*:DeprecationWarning", "ignore:Sharding info:UserWarning")


@pytest.fixture(scope="module")
def run(tiny_run):
    evals = dataclasses.replace(tiny_run.evals, zero_shot=(), val_pairs=16)
    return dataclasses.replace(tiny_run, steps=160, checkpoint_every=20, log_every=10, evals=evals)


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory):
    """Return the directory of an uninterrupted run."""
    root = tmp_path_factory.mktemp("whole") / "run"
    assert train(run, root, progress=False)["state"] == "finished"
    return root


@pytest.fixture
def as_if_nothing_had_happened(run, whole, same_params, without_times):
    """Check that a directory holds what that of the uninterrupted run does."""

    def check(root):
        same_params(run, whole, root)
        rows, wanted = (without_times(read_lines(d / "metrics.jsonl")) for d in (root, whole))
        assert rows == wanted, "no step stands twice and none is missing"

    return check


@pytest.mark.thorough
def test_train_stopped_refused_or_killed_while_saving_resumes_bit_for_bit(
    run, tmp_path, spawn, as_if_nothing_had_happened
):
    root = tmp_path / "run"
    metrics, saves = root / "metrics.jsonl", root / "checkpoints"

    first = spawn(run, root)
    first.wait_until(lambda: len(read_lines(metrics)) >= 3)
    with raises_user_error(reason=f"process {first.process.pid} on"):
        train(run, root, progress=False)
    assert read_json(root / "status.json")["pid"] == first.process.pid, "who is refused writes nothing"
    first.process.send_signal(signal.SIGTERM)
    code, stderr = first.end()
    step = read_json(root / "status.json")["step"]
    assert code == STOPPED
    assert stderr.splitlines()[-1] == (
        f"clip-jax: stopped at step {step} (signal SIGTERM); the same command resumes from here"
    )
    assert (saves / str(step)).is_dir(), "the step under way was finished and saved"

    second = spawn(run, root)
    # a save under way is a folder that has no plain number for a name yet
    second.wait_until(lambda: any(not p.name.isdigit() for p in saves.iterdir()))
    second.process.send_signal(signal.SIGKILL)
    assert second.end()[0] == -signal.SIGKILL
    assert not (root / "result.json").exists()

    third = spawn(run, root)
    code, stderr = third.end()
    assert code == 0, stderr
    result = read_json(root / "result.json")
    assert result["attempts"] == 3
    attempts = [e["step"] for e in result["events"] if e["event"] == "attempt"]
    assert attempts[1] == step <= attempts[2]
    as_if_nothing_had_happened(root)


@pytest.mark.slow
def test_train_killed_at_random_moments_resumes_bit_for_bit(run, tmp_path, spawn, same_params):
    long = dataclasses.replace(run, steps=1200)
    train(long, tmp_path / "whole", progress=False)
    root, rng = tmp_path / "run", np.random.default_rng()
    places, saved = [], 0
    for kill in range(20):
        begun = len(read_lines(root / "events.jsonl"))
        child = spawn(long, root)
        if kill % 3:  # once it trains
            child.wait_until(lambda n=begun: len(read_lines(root / "events.jsonl")) > n)
            child.wait_until(lambda s=saved: any(row["step"] > s for row in read_lines(root / "metrics.jsonl")))
            time.sleep(float(rng.uniform(0, 4)))
        else:  # at any moment, the start of the program included
            time.sleep(float(rng.uniform(0, 8)))
        child.process.send_signal(signal.SIGKILL)
        code, stderr = child.end()
        assert code == -signal.SIGKILL, stderr
        last = max((row["step"] for row in read_lines(root / "metrics.jsonl")), default=0)
        steps = [int(p.name) for p in (root / "checkpoints").glob("*") if p.name.isdigit()]
        assert max(steps, default=0) >= saved, "a kill never loses a checkpoint"
        saved = max(steps, default=0)
        places.append((last, saved))
    print("killed at (logged, saved) steps", places)
    assert spawn(long, root).end()[0] == 0
    same_params(long, tmp_path / "whole", root)
    assert [row["step"] for row in read_lines(root / "metrics.jsonl")] == list(range(10, 1201, 10))


@pytest.fixture
def command(run, tmp_path):
    """Return the arguments of `main` that train the run in a directory."""
    config = tmp_path / "config.json"
    config.write_text(json.dumps(to_dict(run)))
    return lambda root, *flags: ["train", f"--config={config}", f"--dir={root}", *flags]


def test_train_interrupted_from_the_keyboard_resumes(tmp_path, command, terminal, monkeypatch):
    stream, screen = terminal
    calls = []

    def put(batch, mesh):
        calls.append(None)
        if len(calls) == 17:
            os.kill(os.getpid(), signal.SIGINT)
        return put_batch(batch, mesh)

    monkeypatch.setattr(loop, "put_batch", put)
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.chdir(tmp_path)
    before, root = signal.getsignal(signal.SIGINT), Path("run")
    assert main(command(root)) == INTERRUPTED
    assert signal.getsignal(signal.SIGINT) is before
    assert (root / "checkpoints" / "17").is_dir()
    *begin, compiling, progress, end = screen()[:-1]
    assert begin[0] == f"clip-jax: run directory: {root}"
    assert [line.split(":")[1] for line in begin[1:4]] == [" devices", " parameters", " data"]
    assert compiling == "clip-jax: compiling"
    assert " 10/160 " in progress
    assert end == "clip-jax: stopped at step 17 (signal SIGINT); the same command resumes from here"


@pytest.mark.thorough
def test_train_mistake_is_printed_below_the_progress_line(run, tmp_path, command, terminal, monkeypatch):
    stream, screen = terminal
    train(run, tmp_path / "run", stop_after=17, progress=False)

    def put(batch, mesh):
        if list((tmp_path / "run" / "checkpoints").glob("20")):
            raise UserError("a mistake")
        return put_batch(batch, mesh)

    monkeypatch.setattr(loop, "put_batch", put)
    monkeypatch.setattr("sys.stderr", stream)
    assert main(command(tmp_path / "run")) == MISTAKE
    resuming, _, progress, end = screen()[-5:-1]
    assert resuming == "clip-jax: resuming at step 17 of 160"
    assert "/160  loss " in progress
    assert end == "clip-jax: a mistake"


@pytest.mark.thorough
def test_train_with_a_damaged_checkpoint_falls_back(run, tmp_path, caplog, as_if_nothing_had_happened):
    root = tmp_path / "run"
    train(run, root, stop_after=45, progress=False)
    newest = root / "checkpoints" / "45"
    largest = max((p for p in newest.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    os.truncate(largest, largest.stat().st_size // 2)
    result = train(run, root, progress=False)
    messages = [r.getMessage() for r in caplog.records if r.name.startswith("clip_jax")]
    assert len(messages) == 1
    assert messages[0].startswith(f"{root}: checkpoint 45: ")
    assert messages[0].endswith("moved to corrupt/, going on from step 40")
    assert [e["reason"] in messages[0] for e in result["events"] if e["event"] == "corrupt_checkpoint"] == [True]
    assert (root / "corrupt" / "45").is_dir()
    as_if_nothing_had_happened(root)


def fill(path, leave):
    """Write a file until the disk is full, then give back so many bytes."""
    with path.open("wb") as file, contextlib.suppress(OSError):
        while True:
            file.write(b"\0" * 65536)
            file.flush()
    os.truncate(path, path.stat().st_size - leave)


@pytest.fixture
def small_disk(tmp_path):
    """Mount a file system of 8 MB."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a tmpfs needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"this machine does not let root mount a tmpfs: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.thorough
def test_train_on_a_full_disk_is_one_line_and_resumes(run, small_disk, command, capfd, as_if_nothing_had_happened):
    root = small_disk / "run"
    train(run, root, stop_after=40, progress=False)
    fill(small_disk / "ballast", leave=200_000)
    capfd.readouterr()
    assert main(command(root, "--quiet")) == MISTAKE
    errors = capfd.readouterr().err
    assert errors.startswith("clip-jax: ")
    assert errors.endswith(": the disk is full; free some space and run the same command again\n")
    assert errors.count("\n") == 1
    assert "40" in os.listdir(root / "checkpoints")
    (small_disk / "ballast").unlink()
    train(run, root, progress=False)
    as_if_nothing_had_happened(root)


@pytest.mark.thorough
def test_train_disk_filled_during_an_async_save_is_one_line(run, tmp_path, monkeypatch, as_if_nothing_had_happened):
    class Late:
        def result(self):
            raise OSError(errno.ENOSPC, "No space left on device")

    save = checkpoint.Checkpoints.save

    def full(self, step, state):
        self.wait()
        if step < 60:
            return save(self, step, state)
        self._pending = Late()
        return True

    monkeypatch.setattr(checkpoint.Checkpoints, "save", full)
    with raises_user_error(field=re.compile("checkpoints$"), reason="disk is full"):
        train(run, tmp_path / "run", progress=False)
    status = read_json(tmp_path / "run" / "status.json")
    assert (status["state"], "the disk is full" in status["reason"]) == ("failed", True)
    monkeypatch.undo()
    assert train(run, tmp_path / "run", progress=False)["events"][1]["step"] == 40
    as_if_nothing_had_happened(tmp_path / "run")
