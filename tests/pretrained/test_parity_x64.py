"""The golden numbers again in float64, in a process of its own: jax decides on its precision once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.thorough
def test_parity_tests_pass_in_float64():
    env = {**os.environ, "JAX_ENABLE_X64": "1"}
    env.pop("PYTEST_ADDOPTS", None)
    env.pop("PYTEST_XDIST_WORKER", None)
    root = Path(__file__).parents[2]
    files = ("tests/pretrained/test_parity.py", "tests/losses/test_golden.py")
    command = [sys.executable, "-m", "pytest", "-n", "0", *files]
    done = subprocess.run(command, env=env, capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stdout[-4000:]
    assert "passed" in done.stdout
    assert "skipped" not in done.stdout
