"""Elements ahead of need: in order, whoever makes them."""

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from clip_jax.data.pipeline.prefetch import Prefetcher


def square(n):
    if n == 7:
        raise ValueError("seven")
    return n * n


@pytest.mark.parametrize("threads", [1, 3])
def test_prefetcher_yields_elements_in_order_from_its_start(threads):
    assert list(Prefetcher(square, range(0, 5), threads, 0)) == [0, 1, 4, 9, 16]
    assert list(Prefetcher(square, range(3, 5), threads, 0)) == [9, 16]


def test_prefetcher_raises_an_error_at_its_element():
    made = Prefetcher(square, range(5, 9), 2, 0)
    assert [next(made), next(made)] == [25, 36]
    with pytest.raises(ValueError, match="seven"):
        next(made)


SCRIPT = """
import time
from clip_jax.data.pipeline.prefetch import Prefetcher
if __name__ == "__main__":
    made = Prefetcher(abs, range(10_000), 1, 1)
    print(next(made), next(made), flush=True)
    time.sleep(60)
"""


def test_prefetcher_of_a_killed_parent_leaves_no_worker(tmp_path):
    script = tmp_path / "main.py"
    script.write_text(SCRIPT)
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, cwd=Path.cwd()) as parent:
        assert parent.stdout.readline() == b"0 1\n"
        family = psutil.Process(parent.pid).children(recursive=True)
        assert family
        parent.kill()
    deadline = time.monotonic() + 10
    while [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]:
        assert time.monotonic() < deadline, "a worker outlived its parent"
        time.sleep(0.1)


def test_parent_watchdog_ignores_signals():
    code = (
        "import os, signal; from clip_jax.data.pipeline.prefetch import ParentWatchdog;"
        "ParentWatchdog(os.getppid())(0, 1);"
        "os.kill(os.getpid(), signal.SIGTERM); os.kill(os.getpid(), signal.SIGINT); print('alive')"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"alive\n"
