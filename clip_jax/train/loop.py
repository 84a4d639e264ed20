"""Training one run: the only file of training with side effects. Reads as a story from `train` down."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from clip_jax.config import PixelConfig, RunConfig
from clip_jax.data.open import data_notes, open_splits
from clip_jax.data.pipeline.loader import learn_tokenizer
from clip_jax.data.sources.base import Source
from clip_jax.data.tokenizers.learned_bpe import Tokenizer
from clip_jax.distributed.cluster import check_devices
from clip_jax.distributed.mesh import InFlight, check_batch, enable_compile_cache, make_mesh
from clip_jax.distributed.processes import (
    all_processes,
    broadcast_from_process_zero,
    is_lost_process,
    run_on_process_zero,
)
from clip_jax.errors import UserError
from clip_jax.finite import NotFinite
from clip_jax.models.clip import AbstractModel, build
from clip_jax.optim.optimizer import make_optimizer
from clip_jax.storage.paths import exists, local_scratch
from clip_jax.train.anomalies import Detours, Fault, Feed
from clip_jax.train.checkpoint import Checkpoints
from clip_jax.train.inputs import (
    DATA,
    SPLITS,
    TOKENIZER,
    described,
    file_sha256,
    hold_data,
    read_tokenizer,
    what_changed,
)
from clip_jax.train.metrics import Meter, training_flops
from clip_jax.train.pixels import settle
from clip_jax.train.preemption import StopRequest, stop_requests
from clip_jax.train.profiler import Profiler
from clip_jax.train.result import make_result
from clip_jax.train.run_directory import Record
from clip_jax.train.state import TrainState, abstract_state, check_memory, init_state
from clip_jax.train.step import Metrics, make_train_step, put_batch
from clip_jax.train.timer import Clock
from clip_jax.train.trackers import Mirror, open_mirror

__all__ = ["Diverged", "Start", "train", "training_flops"]

Rows = list[dict[str, Any]]
# (config, built, mesh, held-out source, tokenizer) -> (parameters -> rows); see evals.suite.make_evaluator
EvaluatorFactory = Callable[[RunConfig, AbstractModel, Mesh, Source, Tokenizer], Callable[[Any], Rows]]


@dataclass(frozen=True)
class Start:
    """What a run begins with instead of chance: fresh parameters -> its own; a tokenizer if the text tower is taken,
    pixels if the image tower is."""

    params: Callable[[Any], Any]
    tokenizer: Tokenizer | None
    pixels: PixelConfig | None = None


Begin = Callable[[], Start | None]


class Diverged(UserError):
    """The loss is no longer a number, or jumped."""


@dataclass(frozen=True)
class Ground:
    """What a run stands on, and writes nothing of: devices, data, the model's structure."""

    mesh: Mesh
    built: AbstractModel
    source: Source
    held_out: Source
    notes: list[str]
    data: dict[str, Any]  # what of the data a run's records keep


def open_ground(config: RunConfig, *, may_share: bool = False) -> Ground:
    """Look at what a run needs, and say on stderr what a user should know of its data (``may_share``: see
    `sources.open_splits`). Raises UserError for bad data, and for devices not asked for or that do not fit."""
    check_devices(os.environ)
    mesh = make_mesh(config.mesh)
    check_batch(config.batch_size, mesh)
    check_memory(config, mesh)
    enable_compile_cache()
    source, held_out = open_splits(config.data, config.model.image.image_size, may_share=may_share)
    notes = data_notes(config.data, source, held_out)
    if jax.process_index() == 0:
        for note in notes:
            print(f"clip-jax: {note}", file=sys.stderr, flush=True)
    data = {"train": described(source), "val": described(held_out)}
    return Ground(mesh, build(config.model, mesh), source, held_out, notes, data)


def train(
    config: RunConfig,
    run_dir: str | Path,
    make_evaluator: EvaluatorFactory | None = None,
    *,
    start_from: Callable[[RunConfig], Start] | None = None,
    stop_after: int | None = None,
    progress: bool = True,
    profile: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """Train one model, or go on where it stopped; returns the run's result, also written to ``result.json``.

    The same call on the same directory picks up at the last checkpoint and ends with the same parameters as an
    uninterrupted run, bit for bit on the same mesh. A finished run is returned as it is. With several processes
    (`processes.start_processes`) each of them makes the same call; the first one writes.

    Args:
      config: the run; its hash must match what the directory holds.
      run_dir: made if missing; on a file system that all processes share, or ``gs://BUCKET/…``.
      make_evaluator: what to measure; none measures nothing.
      start_from: reads what ``init_from`` names (`loading.start_from`); not called without it, nor when the run goes on
        from a checkpoint.
      stop_after: end after so many steps with a checkpoint, as a job with a time limit would.
      progress: show a progress line on stderr.
      profile: trace the steps after the first number up to the second, into ``RUN_DIR/profile``
        (of one in a bucket: `paths.local_scratch`).

    Raises:
      UserError: bad data, a full disk, a directory of another run or in use, a loss that is not finite.
    """
    clock = Clock()
    writer = jax.process_index() == 0
    record = Record(run_dir, config, writer=writer)
    config = record.config  # as it began
    if broadcast_from_process_zero(record.result() is not None) and (done := record.result()) is not None:
        return done
    with clock.measure("start"):
        ground = open_ground(config, may_share=record.may_share)
    with attempt(config, record, clock, ground, make_evaluator, start_from, profile) as run, stop_requests() as stop:
        run.restore()
        run.start(show=progress and writer)
        with contextlib.closing(run.feed):
            return run.to(config.steps if stop_after is None else min(config.steps, stop_after), stop)


@contextlib.contextmanager
def attempt(
    config: RunConfig,
    record: Record,
    clock: Clock,
    ground: Ground,
    make_evaluator: EvaluatorFactory | None,
    start_from: Callable[[RunConfig], Start] | None,
    profile: tuple[int, int] | None = None,
) -> Iterator[Run]:
    """One attempt: the directory is locked and all is open that training needs; a bad end is noted in the record."""
    with contextlib.closing(record.lock):
        run_on_process_zero(lambda: record.begin(config.steps))
        if not exists(record.dir / "config.json"):
            raise UserError(
                f"{record.dir}: process 0 made it, but it is not there; use a file system all processes share"
            )
        clock.add(record.seconds_before)
        try:
            if config.init_from.source and start_from is None:
                raise UserError("init_from: needs train(..., start_from=clip_jax.inference.start_from)")
            begin = functools.cache(lambda: start_from(config) if start_from and config.init_from.source else None)
            with clock.measure("start"):
                run_on_process_zero(lambda: hold_data(record, ground.data))
                told = record.read_status().get(DATA)
                if not all_processes(not any(what_changed(told, ground.data, split) for split in SPLITS)):
                    raise UserError(f"{record.dir}: not all processes read the same data (data.paths)")
                for note in ground.notes:
                    record.event("data", reason=note)
                config = settle(config, record.dir, lambda: getattr(begin(), "pixels", None))
                tokenizer = _tokenizer(config, ground.source, record, begin)
                given = (config, ground.built, ground.mesh, ground.held_out, tokenizer)
                evaluate = make_evaluator(*given) if make_evaluator else _no_rows
                mirror = open_mirror(config, record.dir, writer=record.writer)
            with (
                contextlib.closing(mirror),
                Checkpoints(record.dir, config.checkpoint_every) as checkpoints,
                contextlib.closing(Profiler(local_scratch(record.dir / "profile"), profile)) as profiler,
            ):
                yield Run(config, ground, tokenizer, evaluate, record, mirror, checkpoints, profiler, clock, begin)
        except BaseException as error:
            state = "stopped" if is_lost_process(error) or isinstance(error, KeyboardInterrupt) else "failed"
            record.end(state, f"{type(error).__name__}: {error}".splitlines()[0])
            raise


def _no_rows(params: Any) -> Rows:
    return []


def _tokenizer(config: RunConfig, source: Source, record: Record, begin: Begin) -> Tokenizer:
    """The run's vocabulary: that of a text tower taken over, else learned at the first start; then read back."""
    path = record.dir / "tokenizer.json"

    if not broadcast_from_process_zero(exists(path)):
        given = begin()  # on every process, since reading a run's checkpoint is a collective operation
        own = given.tokenizer if given else None
        run_on_process_zero(lambda: (own or learn_tokenizer(config, source)).save(path))
    tokenizer = read_tokenizer(record.dir, config.model)
    run_on_process_zero(lambda: record.note_input(TOKENIZER, file_sha256(path)))
    return tokenizer


@dataclass
class Run:
    """One attempt at a run: the state, and everything around it that has side effects."""

    config: RunConfig
    ground: Ground
    tokenizer: Tokenizer
    evaluator: Callable[[Any], Rows]
    record: Record
    mirror: Mirror
    checkpoints: Checkpoints
    profiler: Profiler
    clock: Clock
    begin: Begin

    def __post_init__(self) -> None:
        config, self.mesh, self.built, self.in_flight = self.config, self.ground.mesh, self.ground.built, InFlight()
        self.optimizer = make_optimizer(config.optim, config.steps, config.model)
        self.step_fn = make_train_step(config, self.built, self.optimizer, self.mesh)
        self.compiled = False
        self.eval_at = {max(1, round(f * config.steps)) for f in config.evals.at_fractions}
        self.step = 0  # updates done
        self.state: TrainState

    def start(self, *, show: bool, feed: Feed | None = None) -> None:
        """All but the state: records cut back to it, batches (those of ``feed``, if given), the meter."""
        with self.clock.measure("start"):
            run_on_process_zero(lambda: self.record.cut_back(self.step))
            self.detours = Detours(self.record.events())
            rows = self.record.rows("metrics.jsonl")
            self.feed = feed or Feed(self.config, self.ground.source, self.tokenizer, self.detours, self.step)
        self.meter = Meter(self.config, self.mesh, self.record, self.mirror, self.clock, self.step, rows, show=show)
        self.record.event(
            "attempt", step=self.step, mesh=dict(self.mesh.shape), devices=self.mesh.size, processes=jax.process_count()
        )

    def restore(self, *, regular: bool = False, last: int | None = None) -> None:
        """The newest state that can be read (see `Checkpoints.restore`), or a fresh one."""
        with self.clock.measure("start"):
            self._restore(regular, last)

    def _restore(self, regular: bool, last: int | None) -> None:
        abstract = abstract_state(self.built, self.optimizer, self.mesh)
        found = self.checkpoints.restore(abstract, regular=regular, last=last)
        if found is not None:
            self.step, self.state, broken = found
            for reason in broken:
                self._report("corrupt_checkpoint", f"{reason}; moved to corrupt/, going on from step {self.step}")
            return
        self.step, self.state = 0, init_state(self.config, self.built, self.optimizer, self.mesh)
        if (given := self.begin()) is not None:
            self.state = dataclasses.replace(self.state, params=given.params(self.state.params))

    def _report(self, event: str, reason: str, **details: Any) -> None:
        """An event, in ``events.jsonl``, in ``status.json`` and as a line on stderr."""
        self.record.event(event, reason=reason, **details)
        self.record.beat(force=True, last_event=f"{event}: {reason}")
        if self.record.writer:
            print(f"clip-jax: {self.record.dir}: {reason}", file=sys.stderr, flush=True)

    def to(self, last: int, stop: StopRequest) -> dict[str, Any]:
        """Train up to step ``last``, or until asked to stop, and end the attempt; returns what came out."""
        while True:
            try:
                self._steps(last, stop)
                return self.end(stop)
            except Fault as fault:
                self.roll_back(fault)

    def _steps(self, last: int, stop: StopRequest) -> None:
        while self.step < last and not stop.now():
            with self.clock.measure("data"):
                batch = self.feed.batch(self.step)
            with self.clock.measure("step" if self.compiled else "compile"):
                self.profiler.begin_step(self.step)
                with jax.profiler.StepTraceAnnotation("train", step_num=self.step):
                    self.state, metrics = self.step_fn(self.state, put_batch(batch, self.mesh))
                self.step += 1
                self.compiled = True
            self.after_step(metrics, last)

    def due(self, last: int) -> tuple[bool, bool, bool]:
        """What comes after the present step and needs the state: an evaluation, a checkpoint, the end at ``last``."""
        between = self.step < self.config.steps
        return (
            between and self.step in self.eval_at,
            between and self.step % self.config.checkpoint_every == 0,
            self.step == last,
        )

    def after_step(self, metrics: Metrics, last: int) -> None:
        """What the host does once a step is under way. Raises Fault."""
        evaluate, save, end = self.due(last)
        with self.clock.measure("step"):
            self.in_flight.add(metrics)
            self.meter.flush()  # of an earlier step, now that the device has work
            with self.clock.measure("other"):
                self.profiler.end_step(self.step, metrics)
            if self.step % self.config.log_every == 0 or self.step == self.config.steps:
                self.meter.hold(self.step, metrics)
            if evaluate or save or end:
                jax.block_until_ready(metrics)  # all of these wait anyway; so the wait counts as steps
                self.meter.flush()
        if evaluate:
            self._evaluate()
        if save:
            self.save()

    def save(self) -> None:
        """Raises Fault when the state holds numbers that are none."""
        with self.clock.measure("checkpoint"):
            self.record.flush()  # a checkpoint never knows more than the lines
            if not self.checkpoints.save(self.step, self.state):
                raise Fault(self.step, "nan", f"the parameters are not finite at step {self.step}")

    def _evaluate(self) -> Rows:
        with self.clock.measure("evaluation"):
            spent = training_flops(self.config, self.step * self.config.batch_size).total
            try:
                rows = [{"step": self.step, "flops": spent, **row} for row in self.evaluator(self.state.params)]
            except NotFinite as error:  # as a loss that is no number
                raise Fault(self.step, "nan", f"the evaluation at step {self.step} stopped: {error}") from None
            self.record.append("evals.jsonl", *rows)
            self.record.flush()
            self.mirror.log({f"eval/{r['task']}/{r['metric']}": r["value"] for r in rows}, self.step)
        return rows

    def roll_back(self, fault: Fault) -> None:
        """Go back to the last regular checkpoint and around the batches since. Raises Diverged by the policy."""
        faults, optim = self.config.faults, self.config.optim
        policy = faults.on_nan if fault.kind == "nan" else faults.on_spike
        advice = f"lower optim.peak_lr={optim.peak_lr:g} or lengthen optim.warmup_steps={optim.warmup_steps}"
        if policy == "rollback" and self.detours.count == faults.max_rollbacks:
            advice = f"faults.max_rollbacks={faults.max_rollbacks} are used up; {advice}"
        elif policy == "rollback":
            return self._go_around(fault)
        self.record.event(fault.kind, step=fault.step, reason=fault.detail)
        raise Diverged(f"{self.record.dir}: {fault.detail}; {advice}")

    def _go_around(self, fault: Fault) -> None:
        with self.clock.measure("start"):
            self.restore(regular=True)
            # first no later state, then the note, then no later rows: killed in between, the run comes here again
            self.checkpoints.forget_after(self.step)
            offset = self.detours.add(fault.step, self.step)
            self._report(
                "rollback",
                f"{fault.detail}; back to step {self.step}, passing over {fault.step - self.step} batches",
                kind=fault.kind,
                step=fault.step,
                to=self.step,
                data_offset=offset,
            )
            run_on_process_zero(lambda: self.record.cut_back(self.step))
        self.meter.go_on_from(self.step)

    def end(self, stop: StopRequest) -> dict[str, Any]:
        """What came of the attempt: a result when all steps are done. Raises Fault."""
        self.meter.flush()
        return self._stopped(stop) if self.step < self.config.steps else self._finished()

    def _stopped(self, stop: StopRequest) -> dict[str, Any]:
        with self.clock.measure("checkpoint"):
            self.record.flush()
            saved = self.checkpoints.save(self.step, self.state)
            self.checkpoints.wait()
        reason = stop.reason or f"stop_after={self.step}"
        if not saved:
            # a fault is dealt with where an uninterrupted run would meet it
            reason += f"; the state of step {self.step} is not finite and was not saved"
        self.record.event("stopped", step=self.step, reason=reason)
        self.record.beat(force=True, step=self.step, seconds=self.clock.seconds())
        self.record.end("stopped", reason)
        return {"run_id": self.record.run_id, "state": "stopped", "step": self.step, "exit_reason": reason}

    def _finished(self) -> dict[str, Any]:
        measured = [r for r in self.record.rows("evals.jsonl") if r["step"] == self.step]
        self.save()
        rows = measured if broadcast_from_process_zero(bool(measured)) else self._evaluate()
        with self.clock.measure("checkpoint"):
            self.checkpoints.wait()
        cost = getattr(self.evaluator, "flops", 0.0)
        result = make_result(self.config, self.mesh, self.record, self.meter, rows, self.feed, cost)
        self.record.finish(result)
        return result
