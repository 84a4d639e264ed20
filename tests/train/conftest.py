"""What the tests of whole runs share."""

import fcntl
import json
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from clip_jax.config.io import to_dict
from clip_jax.distributed.mesh import make_mesh
from clip_jax.models.clip import build
from clip_jax.train.checkpoint import load_params
from clip_jax.train.metrics import TIMES


def _final_params(run, run_dir):
    step, params = load_params(run_dir, build(run.model, make_mesh(run.mesh)))
    assert step == run.steps
    return params


@pytest.fixture
def final_params():
    """Return a function (run, directory) -> the parameters after its last step."""
    return _final_params


@pytest.fixture
def same_params():
    """Check that two directories of one run end with the same parameters: bit for bit, or within a tolerance."""

    def compare(run, one, other, atol=0.0):
        def equal(a, b):
            np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=0, atol=atol)

        jax.tree.map(equal, _final_params(run, one), _final_params(run, other))

    return compare


@pytest.fixture
def without_times():
    """Return rows of metrics without what depends on the clock."""
    return lambda rows: [{k: v for k, v in row.items() if k not in TIMES} for row in rows]


class Child:
    """A ``clip-jax train`` in a process of its own."""

    def __init__(self, config: Path, run_dir: Path, *flags: str, environment: dict[str, str] | None = None) -> None:
        command = [sys.executable, "-m", "clip_jax.cli", "train", f"--config={config}", f"--dir={run_dir}", "--quiet"]
        self.process = subprocess.Popen(
            [*command, *flags], env=os.environ | (environment or {}), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def wait_until(self, condition, seconds=180.0):
        """Wait until the condition holds; raise an error when the child ends before."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, self.process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.002)

    def end(self, seconds=180.0):
        """Return (exit code, stderr)."""
        try:
            _, stderr = self.process.communicate(timeout=seconds)
        finally:
            self.process.kill()
        return self.process.returncode, stderr


@pytest.fixture
def spawn(tmp_path):
    """Yield a function (run, directory, flags…) -> a Child that trains it."""
    children = []

    def start(run, run_dir, *flags, **kwargs):
        config = tmp_path / f"config-{len(children)}.json"
        config.write_text(json.dumps(to_dict(run)))
        children.append(Child(config, run_dir, *flags, **kwargs))
        return children[-1]

    yield start
    for child in children:
        child.process.kill()
        child.process.communicate()


def _screen(written, columns=80):
    """Return the lines that a terminal shows of a text with carriage returns and ``ESC[K``, without trailing spaces."""
    lines = [""]
    column = 0
    for token in re.findall(r"\x1b\[K|[\r\n]|.", written):
        if token == "\x1b[K":
            lines[-1] = lines[-1][:column]
        elif token == "\n":
            lines.append("")
            column = 0
        elif token == "\r":
            column = 0
        else:
            if column == columns:
                lines.append("")
                column = 0
            lines[-1] = lines[-1][:column] + token + lines[-1][column + 1 :]
            column += 1
    return [line.rstrip() for line in lines]


def _available(file):
    parts = []
    while select.select([file], [], [], 0.05)[0]:
        parts.append(os.read(file, 1 << 16))
    return b"".join(parts).decode()


@pytest.fixture
def terminal():
    """Yield (a pseudo-terminal of 80 columns to write to, the function that returns what it newly shows)."""
    above, below = pty.openpty()
    fcntl.ioctl(below, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    attributes = termios.tcgetattr(below)
    attributes[1] &= ~termios.OPOST  # newlines as they are written
    termios.tcsetattr(below, termios.TCSANOW, attributes)
    stream = os.fdopen(below, "w")
    yield stream, lambda: _screen(_available(above))
    stream.close()
    os.close(above)
