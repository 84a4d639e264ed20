"""The allocator of a process that trains on a CPU."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

# of malloc.h: no mapping of its own for a large block, no second heap, nothing given back
OPTIONS = {"M_MMAP_MAX": (-4, 0), "M_ARENA_MAX": (-8, 1), "M_TRIM_THRESHOLD": (-1, -1)}


def keep_freed_memory() -> None:
    """Let glibc keep the memory that is freed, for the next step to use.

    On a CPU, XLA allocates and frees its buffers at every step. By default glibc maps each large one anew, and the
    kernel zeroes every page at its first use, 1.5 GB per step for the shape ``tiny`` of benchmarks/train_step.py. Call
    it before threads start. It does nothing on a machine with an accelerator, without glibc, or if GLIBC_TUNABLES is
    set.
    """
    accelerator = any(Path("/dev", name).exists() for name in ("nvidia0", "accel0", "vfio"))
    if sys.platform != "linux" or accelerator or "GLIBC_TUNABLES" in os.environ:
        return
    if (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        for option, value in OPTIONS.values():
            mallopt(option, value)
