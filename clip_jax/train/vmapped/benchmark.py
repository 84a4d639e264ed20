"""Benchmark of vmapped training on this machine: its speed-up over separate runs, part by part."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clip_jax.config import RunConfig
from clip_jax.train.vmapped.compatibility import Form, check_compatible

if TYPE_CHECKING:
    import optax

    from clip_jax.train.state import TrainState

ROUNDS = 5  # of each arm, in turn; the fastest counts, as other load on the machine can only slow a round down
ROUND_S = 0.5
_START = "import jax, clip_jax.evals.in_training, clip_jax.inference, clip_jax.train.loop; jax.devices()"


@dataclass(frozen=True)
class Gain:
    """Seconds of runs trained in one program and of the same runs one after the other, and the resulting speed-ups."""

    members: int
    form: Form
    steps: int
    batch_size: int
    start_s: float  # a process and its imports
    compile_first_s: float  # of a run alone, with nothing cached
    compile_next_s: float  # of the next run, which may find the program in the cache
    compile_family_s: float
    step_s: float  # of a run alone
    step_family_s: float  # of all members

    @property
    def start(self) -> float:
        """Speed-up of the process start: the number of members."""
        return float(self.members)

    @property
    def compilation(self) -> float:
        """Speed-up of compiling, given the compilation cache that runs of one machine share."""
        return (self.compile_first_s + (self.members - 1) * self.compile_next_s) / self.compile_family_s

    @property
    def steady(self) -> float:
        """Speed-up of the steps."""
        return self.members * self.step_s / self.step_family_s

    def whole(self, steps: int) -> float:
        """Return the speed-up of whole runs of ``steps`` steps, without evaluations."""
        alone = self.members * (self.start_s + steps * self.step_s)
        alone += self.compile_first_s + (self.members - 1) * self.compile_next_s
        return alone / (self.start_s + self.compile_family_s + steps * self.step_family_s)

    def table(self) -> str:
        """Return the speed-ups part by part, for a terminal."""
        n = self.members
        separate = (n * self.start_s, self.compile_first_s + (n - 1) * self.compile_next_s, n * self.step_s * 1e3)
        rate = self.batch_size * n
        return "\n".join(
            (
                f"{n} runs in one program ({self.form}) against {n} one after the other",
                f"  start-up     {separate[0]:9.2f} s   {self.start_s:9.2f} s   gain {self.start:6.2f}",
                f"  compilation  {separate[1]:9.2f} s   {self.compile_family_s:9.2f} s   gain {self.compilation:6.2f}",
                f"  a step       {separate[2]:9.2f} ms  {self.step_family_s * 1e3:9.2f} ms  gain {self.steady:6.2f}",
                f"  samples/s    {self.batch_size / self.step_s:9.0f}     {rate / self.step_family_s:9.0f}",
                f"  whole, {self.steps} steps                       gain {self.whole(self.steps):6.2f}",
            )
        )


def start_seconds(clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the seconds from the start of a process until it can build a model."""
    began = clock()
    subprocess.run([sys.executable, "-c", _START], check=True, capture_output=True)
    return clock() - began


class _Timed:
    """A step with its state, repeated on one batch."""

    def __init__(
        self,
        clock: Callable[[], float],
        step: Callable[..., tuple[TrainState, object]],
        state: TrainState,
        *arguments: object,
    ) -> None:
        self.clock, self.step, self.state, self.arguments = clock, step, state, arguments

    def __call__(self, times: int = 1) -> float:
        """Return the seconds per step."""
        import jax

        began = self.clock()
        for _ in range(times):
            self.state, metrics = self.step(self.state, *self.arguments)
        jax.block_until_ready((self.state, metrics))
        return (self.clock() - began) / times


def measure(
    configs: Sequence[RunConfig],
    form: Form = "vmap",
    *,
    start_s: float | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Gain:
    """Time runs trained in one program against the same runs alone, on random pairs.

    Nothing is written but a compilation cache, to a temporary folder.

    Args:
      configs: the runs.
      form: ``vmap`` or ``map``, see `compatibility.Form`.
      start_s: seconds of a process start, if already known.
      clock: returns seconds.

    Raises:
      UserError: the runs cannot share a program.
    """
    import jax
    import numpy as np
    from jax.experimental.compilation_cache import compilation_cache

    from clip_jax.distributed.mesh import make_mesh
    from clip_jax.models.clip import build
    from clip_jax.optim.optimizer import make_optimizer
    from clip_jax.train.state import init_state
    from clip_jax.train.step import make_train_step, put_batch
    from clip_jax.train.vmapped.trainer import VmappedStep, put_batches, stack

    check_compatible(configs)
    first, count = configs[0], len(configs)
    mesh = make_mesh(dataclasses.replace(first.mesh, data=1), jax.devices()[:1])
    built = build(first.model, mesh)
    rng = np.random.default_rng(0)
    size, text = first.model.image.image_size, first.model.text
    batch = {
        "images": rng.integers(0, 256, (first.batch_size, size, size, 3), np.uint8),
        "tokens": rng.integers(3, text.vocab_size, (first.batch_size, text.context_length)).astype(np.int32),
    }

    def fresh(config: RunConfig) -> tuple[optax.GradientTransformation, TrainState]:
        optimizer = make_optimizer(config.optim, config.steps, config.model, axes=built.axes)
        return optimizer, init_state(config, built, optimizer, mesh)

    def alone(config: RunConfig) -> _Timed:
        optimizer, state = fresh(config)
        return _Timed(clock, make_train_step(config, built, optimizer, mesh), state, put_batch(batch, mesh))

    start_s = start_seconds(clock) if start_s is None else start_s
    with tempfile.TemporaryDirectory() as cache:
        before = jax.config.values["jax_compilation_cache_dir"]
        jax.config.update("jax_compilation_cache_dir", cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
        compilation_cache.reset_cache()
        try:
            single, step = alone(first), VmappedStep(configs, built, mesh, form)
            compile_first = single()
            jax.clear_caches()
            compile_next = alone(configs[-1])() if count > 1 else 0.0
            states = stack([fresh(c)[1] for c in configs])
            vmapped = _Timed(clock, step, states, put_batches([batch] * len(step.seeds)), np.ones(count, bool))
            compile_vmapped = vmapped()
        finally:
            jax.config.update("jax_compilation_cache_dir", before)
            compilation_cache.reset_cache()
    times = {}
    for timed in (single, vmapped):
        timed(2)
        times[timed] = max(1, round(ROUND_S / max(timed(3), 1e-6)))
    rounds = [{timed: timed(times[timed]) for timed in (single, vmapped)} for _ in range(ROUNDS)]
    best = {timed: min(seconds[timed] for seconds in rounds) for timed in (single, vmapped)}
    return Gain(
        count, form, first.steps, first.batch_size, start_s, compile_first, compile_next, compile_vmapped,
        best[single], best[vmapped],
    )  # fmt: skip
