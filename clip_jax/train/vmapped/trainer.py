"""Vmapped training: several runs of one shape in one program on one device, with one start and one compilation.

Each run keeps its own directory, exactly as if it trained alone, and can resume alone from it. The runs share the
process and the clock: each is charged an equal part of the time, so samples per second and MFU in its record are those
of the device while all of them train.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from clip_jax.config import RunConfig
from clip_jax.data.pipeline.loader import Arrays
from clip_jax.data.sources.base import Source
from clip_jax.data.tokenizers.learned_bpe import Tokenizer
from clip_jax.distributed.mesh import replicated
from clip_jax.errors import UserError, one_of
from clip_jax.models.clip import AbstractModel
from clip_jax.optim.optimizer import TRACEABLE, make_optimizer
from clip_jax.storage.paths import as_path
from clip_jax.train.anomalies import Anomaly, BatchStream, DataOffsets
from clip_jax.train.context import build_context
from clip_jax.train.determinism import set_deterministic
from clip_jax.train.grad_cache import Batch
from clip_jax.train.inputs import resolve_epochs
from clip_jax.train.loop import Diverged, Evaluate, EvaluatorFactory, InitState, Run, log_begin, run_session
from clip_jax.train.preemption import StopRequest, stop_requests
from clip_jax.train.run_directory import RunDirectory
from clip_jax.train.run_result import RunResult, UnfinishedRun
from clip_jax.train.state import TrainState, state_shardings
from clip_jax.train.step import Metrics, make_update
from clip_jax.train.timer import Clock
from clip_jax.train.vmapped.compatibility import Form, check_compatible, group_id
from clip_jax.types import PyTree


def stack(states: Sequence[TrainState]) -> TrainState:
    """Return one state whose leaves have a leading axis of members."""
    return jax.jit(lambda *states: jax.tree.map(lambda *leaves: jnp.stack(leaves), *states))(*states)


def _rows(tree: PyTree, count: int) -> list[PyTree]:
    return [jax.tree.map(lambda x, i=i: x[i], tree) for i in range(count)]


unstack = jax.jit(_rows, static_argnums=1)


class VmappedStep:
    """The jitted step of all members.

    It maps (stacked state, batches of the distinct seeds, alive bool [N]) to (stacked state, one dictionary of metrics
    per member), and equals `step.make_train_step` for each member. A member that is not alive keeps its state. Settings
    that are equal in all members are constants of the program, as they are in a run alone. The old state's buffers are
    donated.

    Args:
      configs: the members' runs.
      built: their model.
      mesh: one device.
      form: ``vmap`` or ``map``.
    """

    def __init__(self, configs: Sequence[RunConfig], built: AbstractModel, mesh: Mesh, form: Form = "vmap") -> None:
        one_of("form", form, get_args(Form))
        first, count = configs[0], len(configs)
        update = make_update(first, built, mesh)
        values = {n: [getattr(c.optim, n) for c in configs] for n in TRACEABLE}
        wide = jnp.promote_types(jnp.float32, first.model.param_dtype)
        numbers = {n: np.asarray(v, wide) for n, v in values.items() if len(set(v)) > 1}
        self.seeds = tuple(dict.fromkeys(c.seed for c in configs))
        which = np.array([self.seeds.index(c.seed) for c in configs])
        keys = jnp.stack([jax.random.key(c.seed) for c in configs])

        def member(
            state: TrainState, batch: Batch, alive: jax.Array, key: jax.Array, traced: dict[str, jax.Array]
        ) -> tuple[TrainState, Metrics]:
            optimizer = make_optimizer(first.optim, first.steps, first.model, traced, built.axes)
            new, metrics = update(state, batch, optimizer, key)
            return jax.tree.map(lambda a, b: jnp.where(alive, a, b), new, state), metrics

        def step(
            state: TrainState, batches: Batch, alive: jax.Array, keys: jax.Array, numbers: dict[str, jax.Array]
        ) -> tuple[TrainState, list[PyTree]]:
            # one batch for all members
            shared = jax.tree.map(lambda x: x[0], batches) if len(self.seeds) == 1 else None
            by_member = None if shared else jax.tree.map(lambda x: x[which], batches)

            def update_one(
                state: TrainState, batch: Batch, alive: jax.Array, key: jax.Array, traced: dict[str, jax.Array]
            ) -> tuple[TrainState, Metrics]:
                return member(state, shared or batch, alive, key, traced)

            inputs = (state, by_member, alive, keys, numbers)
            if form == "vmap":
                state, metrics = jax.vmap(update_one)(*inputs)  # type: ignore[arg-type]
            else:
                state, metrics = jax.lax.map(lambda row: update_one(*row), inputs)
            return state, _rows(metrics, count)

        sharding = replicated(mesh)
        self.jitted = jax.jit(step, in_shardings=sharding, out_shardings=sharding, donate_argnums=(0,))
        self._constants = (keys, numbers)

    def __call__(
        self, state: TrainState, batches: dict[str, jax.Array], alive: np.ndarray
    ) -> tuple[TrainState, list[Metrics]]:
        """Do one step of all members."""
        return self.jitted(state, batches, alive, *self._constants)


def put_batches(batches: Sequence[Arrays]) -> dict[str, jax.Array]:
    """Start the transfer of the batches of the distinct seeds, stacked: images [S, B, H, W, C], tokens [S, B, T]."""
    return {k: jax.device_put(np.stack([b[k] for b in batches])) for k in ("images", "tokens")}


def train_vmapped(
    configs: Sequence[RunConfig],
    run_dirs: Sequence[str | Path],
    make_evaluator: EvaluatorFactory | None = None,
    *,
    start_from: Callable[[RunConfig], InitState] | None = None,
    stop_after: int | None = None,
    progress: bool = True,
    form: Form = "vmap",
) -> list[RunResult | UnfinishedRun]:
    """Train runs of one shape together, or resume them; return what `loop.train` would return for each.

    The same call resumes at the newest step that all members have a checkpoint of, and ends with the same parameters as
    if it had not stopped, bit for bit. A member whose loss becomes non-finite (or spikes, if ``anomalies.on_spike``
    says so) is recorded as failed and keeps its state while the others go on; its entry has ``state`` "failed". A
    later call leaves finished and failed members alone.

    Args:
      configs: runs that `compatibility.check_compatible` accepts.
      run_dirs: one per run.
      make_evaluator: see `loop.train`.
      start_from: see `loop.train`.
      stop_after: see `loop.train`.
      progress: see `loop.train`.
      form: see `compatibility.Form`; the numbers of both forms agree to rounding.

    Raises:
      UserError: the runs cannot share a program; and all that `loop.train` raises for a single run.
    """
    for config in configs:
        set_deterministic(config)
    configs = [resolve_epochs(c, as_path(d)) for c, d in zip(configs, run_dirs, strict=True)]
    check_compatible(configs)
    clock, name = Clock(), group_id(configs)
    directories = [RunDirectory(d, c, group=(name, 1)) for c, d in zip(configs, run_dirs, strict=True)]
    begun = [r.config.model for r in directories if r.config.model != configs[0].model]
    configs = [dataclasses.replace(c, model=begun[0]) for c in configs] if begun else configs  # one program for all
    outcome: dict[int, RunResult | UnfinishedRun] = {
        i: done for i, r in enumerate(directories) if (done := r.result() or _previous_failure(r)) is not None
    }
    open_ = [i for i in range(len(directories)) if i not in outcome]
    if not open_:
        return [outcome[i] for i in range(len(configs))]
    where = "run directories: " + ", ".join(str(directories[i].path) for i in open_)
    with clock.measure("start"):
        context = build_context(configs[0], where, may_share=all(directories[i].may_share for i in open_))
        if context.mesh.size > 1:
            reason = f"vmapped runs train on one device, and there are {context.mesh.size}"
            raise UserError(field="mesh", reason=reason, hint="make only one visible")
        make = _once(make_evaluator) if make_evaluator else None
    with contextlib.ExitStack() as stack_, stop_requests() as stop:
        runs: dict[int, Run] = {}
        for i in open_:
            directories[i].sharing = len(open_)
            share = Clock(clock, len(open_))
            runs[i] = stack_.enter_context(run_session(configs[i], directories[i], share, context, make, start_from))
        pixels = {run.config.pixels for run in runs.values()}
        if len(pixels) > 1:
            reason = "some runs began with the pixels of init_from and some without"
            raise UserError(field="pixels", reason=reason, hint="train each alone")
        configs = [dataclasses.replace(c, pixels=next(iter(pixels))) for c in configs]
        members = VmappedRuns(configs, runs, VmappedStep(configs, context.built, context.mesh, form), clock)
        stack_.callback(members.close)
        members.start(show=progress)
        stack_.enter_context(contextlib.closing(next(iter(runs.values())).meter))  # the one that shows progress
        log_begin(members.step, configs[0].steps, writer=True)
        last = configs[0].steps if stop_after is None else min(configs[0].steps, stop_after)
        outcome |= members.train_until(last, stop)
    return [outcome[i] for i in range(len(configs))]


def _once(make_evaluator: EvaluatorFactory) -> EvaluatorFactory:
    """Wrap an evaluator factory so that the members, which measure the same tasks, read the data once."""
    made: list[Evaluate] = []

    def make(config: RunConfig, built: AbstractModel, mesh: Mesh, held_out: Source, tokenizer: Tokenizer) -> Evaluate:
        made[:] = made or [make_evaluator(config, built, mesh, held_out, tokenizer)]
        return made[0]

    return make


def _failed(directory: RunDirectory, step: int, reason: str) -> UnfinishedRun:
    return UnfinishedRun(run_id=directory.run_id, state="failed", step=step, exit_reason=reason)


def _previous_failure(directory: RunDirectory) -> UnfinishedRun | None:
    """Return the result of a member that an earlier attempt recorded as failed through its own anomaly, else None."""
    events = directory.events()
    if not events or events[-1]["event"] not in ("nan", "spike"):
        return None
    return _failed(directory, events[-1]["step"], events[-1]["reason"])


class VmappedRuns:
    """One attempt at several runs.

    Finished or failed members stay in the batch (masked), so the compiled program and the other members' results do not
    change by a bit.
    """

    def __init__(self, configs: Sequence[RunConfig], runs: dict[int, Run], step_fn: VmappedStep, clock: Clock) -> None:
        self.configs, self.runs, self.step_fn, self.clock = configs, runs, step_fn, clock
        self.alive = np.array([i in runs for i in range(len(configs))])
        self.streams: dict[int, BatchStream] = {}
        self.lost: dict[int, UnfinishedRun] = {}
        self.compiled = False
        self.step = 0
        self.state: TrainState

    def start(self, *, show: bool) -> None:
        """Restore all members at the newest step that each of them can be restored to."""
        runs, last = list(self.runs.values()), None
        while True:
            for run in runs:
                run.restore(last=last)
            self.step = last = min(run.step for run in runs)
            if all(run.step == self.step for run in runs):
                break
        for i, run in self.runs.items():
            run.checkpoints.forget_after(self.step)
            seed = self.configs[i].seed
            if seed not in self.streams:
                self.streams[seed] = BatchStream(
                    run.config, run.context.source, run.tokenizer, DataOffsets(), self.step
                )
            run.start(show=show and run is runs[0], stream=self.streams[seed])
        self.state = stack([self.runs.get(i, runs[0]).state for i in range(len(self.configs))])
        self._let_go()

    def close(self) -> None:
        """Stop the threads and workers that prefetch batches."""
        for stream in self.streams.values():
            stream.close()

    def _let_go(self) -> None:
        for run in self.runs.values():
            del run.state  # a copy of the stacked state

    def _living(self) -> list[tuple[int, Run]]:
        return [(i, run) for i, run in self.runs.items() if self.alive[i]]

    def train_until(self, last: int, stop: StopRequest) -> dict[int, RunResult | UnfinishedRun]:
        """Train up to step ``last`` or until asked to stop; return the result of each member."""
        while self.step < last and self.alive.any() and not stop.should_stop():
            with self.clock.measure("data"):
                made = {seed: stream.batch(self.step) for seed, stream in self.streams.items()}
                spare = next(iter(made.values()))  # stands in for the batch of a seed whose members have all ended
            with self.clock.measure("step" if self.compiled else "compile"):
                batches = put_batches([made.get(seed, spare) for seed in self.step_fn.seeds])
                self.state, metrics = self.step_fn(self.state, batches, self.alive.copy())
                self.step += 1
                self.compiled = True
            for _, run in self._living():
                run.step = self.step
            if due := any(any(run.due(last)) for _, run in self._living()):
                self._hand_out()
            for i, run in self._living():
                self._try(i, run, partial(Run.after_step, metrics=metrics[i], last=last))
            if due:
                self._let_go()
        self._hand_out()
        ends: dict[int, RunResult | UnfinishedRun] = {}
        if self.step == self.configs[0].steps:  # save all members before the first one is finished
            for i, run in self._living():
                self._try(i, run, Run.save)
            for _, run in self._living():
                run.checkpoints.wait()
        for i, run in self._living():
            self._try(i, run, lambda run, i=i: ends.update({i: run.end(stop)}))  # type: ignore[misc]
        return ends | self.lost

    def _hand_out(self) -> None:
        """Give each member its own state, as it would have alone."""
        states = unstack(self.state, len(self.configs))
        for i, run in self.runs.items():
            run.state = jax.device_put(states[i], state_shardings(run.built, run.optimizer, run.mesh))

    def _try(self, i: int, run: Run, action: Callable[[Run], object]) -> None:
        """Do ``action`` for one member; an anomaly ends that member only."""
        try:
            action(run)
        except Anomaly as anomaly:
            self.alive[i] = False
            try:
                run.roll_back(anomaly)
            except Diverged as error:
                run.directory.end("failed", f"Diverged: {error}")
                self.lost[i] = _failed(run.directory, anomaly.step, anomaly.detail)
