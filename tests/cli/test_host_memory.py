"""The allocator of a process that trains on a CPU, in processes of their own."""

import os
import subprocess
import sys

import pytest

from clip_jax.cli import host_memory, main

FAULTS = """
import resource, sys
from clip_jax.cli.host_memory import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
b"x" * (32 << 20)
before = faults()
for _ in range(4):
    b"x" * (32 << 20)
print(faults() - before)
"""


def page_faults(how, **environment):
    """Return page faults of four blocks of 32 MiB, allocated and freed one after the other."""
    variables = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"} | environment
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, how], env=variables, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
def test_keep_freed_memory_reuses_pages_without_faults():
    assert page_faults("default") > 1000
    assert page_faults("kept") < 100
    assert page_faults("kept", GLIBC_TUNABLES="glibc.malloc.perturb=0") > 1000


@pytest.mark.parametrize(("verb", "kept"), [("train", True), ("family", True), ("eval", True), ("flops", False)])
def test_main_keeps_freed_memory_for_verbs_that_compute_with_models(verb, kept, monkeypatch):
    calls = []
    monkeypatch.setattr(main, "keep_freed_memory", lambda: calls.append(1))
    arguments = {"train": ["--config=none.json"], "family": ["none"], "eval": ["none"], "flops": ["none"]}
    assert main.main([verb, *arguments[verb]]) == 2
    assert calls == [1] * kept


def test_keep_freed_memory_beside_an_accelerator_changes_nothing(monkeypatch):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.setattr(host_memory.Path, "exists", lambda path: True)
    monkeypatch.setattr(host_memory.ctypes, "CDLL", lambda name: pytest.fail("called"))
    host_memory.keep_freed_memory()
