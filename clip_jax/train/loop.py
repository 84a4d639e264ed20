"""The training loop of one run, and the only training module with side effects. Read it from `train` down."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import jax
from jax.sharding import Mesh

from clip_jax._moved import renamed
from clip_jax.config import PixelConfig, RunConfig
from clip_jax.data.pipeline.loader import new_tokenizer
from clip_jax.data.sources.base import Source
from clip_jax.data.tokenizers.learned_bpe import Tokenizer
from clip_jax.distributed.mesh import InFlight
from clip_jax.distributed.processes import (
    all_processes,
    broadcast_from_process_zero,
    is_lost_process,
    run_on_process_zero,
    sum_over_processes,
)
from clip_jax.errors import UserError
from clip_jax.finite import NotFinite
from clip_jax.losses.pairs import PairLoss
from clip_jax.models.clip import AbstractModel
from clip_jax.optim.averaging import averaged_weights, second_weights
from clip_jax.optim.optimizer import schedule_numbers
from clip_jax.reuse import reuse
from clip_jax.storage.paths import as_path, exists, local_scratch
from clip_jax.storage.records import EvaluationRow, Measurement
from clip_jax.train.anomalies import Anomaly, BatchStream, DataOffsets
from clip_jax.train.branch import Branch
from clip_jax.train.checkpoint import Checkpoints
from clip_jax.train.context import TrainContext, build_context
from clip_jax.train.determinism import set_deterministic
from clip_jax.train.device_batches import DeviceBatches, feeds_ahead
from clip_jax.train.extensions import NONE, Extensions
from clip_jax.train.grad_cache import Batch
from clip_jax.train.inputs import (
    DATA,
    SPLITS,
    TOKENIZER,
    check_data,
    check_shards,
    describe_change,
    file_sha256,
    read_tokenizer,
    resolve_epochs,
)
from clip_jax.train.metrics import Meter, training_flops
from clip_jax.train.pixels import resolve_pixels
from clip_jax.train.preemption import StopRequest, stop_requests
from clip_jax.train.profiler import Profiler
from clip_jax.train.programs import make_programs
from clip_jax.train.result import make_result
from clip_jax.train.run_directory import RunDirectory, checkpoints_in
from clip_jax.train.run_result import RunResult, UnfinishedRun
from clip_jax.train.state import TrainState
from clip_jax.train.step import Metrics, put_batch
from clip_jax.train.timer import Clock
from clip_jax.train.trackers import Tracker, open_tracker
from clip_jax.types import Params

logger = logging.getLogger(__name__)

__all__ = ["Diverged", "InitState", "train", "training_flops"]

__getattr__ = renamed(__name__, {"Start": "InitState"})

Evaluate = Callable[[Params], list[Measurement]]  # of the parameters
# (config, built, mesh, held-out source, tokenizer) -> (parameters -> rows); see evals.in_training.make_evaluator
EvaluatorFactory = Callable[[RunConfig, AbstractModel, Mesh, Source, Tokenizer], Evaluate]


@dataclass(frozen=True)
class InitState:
    """Initial weights taken from another model (``init_from``).

    ``params`` maps fresh parameters to the initial ones. ``tokenizer`` is set if the text tower is taken, ``pixels`` if
    the image tower is.
    """

    params: Callable[[Params], Params]
    tokenizer: Tokenizer | None
    pixels: PixelConfig | None = None


LoadInit = Callable[[], InitState | None]


class Diverged(UserError):
    """Error for a loss that became non-finite or spiked where no rollback is allowed or left."""


def train(
    config: RunConfig,
    run_dir: str | Path,
    make_evaluator: EvaluatorFactory | None = None,
    *,
    start_from: Callable[[RunConfig], InitState] | None = None,
    stop_after: int | None = None,
    progress: bool = True,
    profile: tuple[int, int] | None = None,
    extensions: Extensions = NONE,
    branch: Branch | None = None,
    keep: Collection[int] = (),
) -> RunResult | UnfinishedRun:
    """Train one model, or resume it; return the run's result, which is also written to ``result.json``.

    The same call on the same directory resumes from the last checkpoint and ends with the same parameters as an
    uninterrupted run, bit for bit on the same mesh. A finished run returns its stored result. With several processes
    (`distributed.processes.initialized`) each process makes the same call, and process 0 writes.

    Args:
      config: the run; its hash must match the one in the directory.
      run_dir: created if missing; on a file system that all processes share, or ``gs://BUCKET/…``.
      make_evaluator: builds the evaluation; without it nothing is evaluated.
      start_from: reads what ``init_from`` names (`inference.start_from`); not called when ``init_from`` is empty, nor
        when the run resumes from a checkpoint.
      stop_after: stop with a checkpoint after this many steps, as a job with a time limit would.
      progress: show a progress line on stderr.
      profile: trace the steps after the first number up to the second, into ``RUN_DIR/profile`` (for a run in a bucket,
        into `storage.paths.local_scratch`).
      extensions: a loss and callbacks, and the names of the evaluators that ``make_evaluator`` adds.
      branch: where to take the first steps from instead of training them; not looked at when the run resumes from a
        checkpoint of its own.
      keep: steps whose checkpoints, at multiples of ``checkpoint_every``, are kept for branches.

    Raises:
      UserError: the data is bad, the disk is full, the directory belongs to another run, began with another loss or is
        in use, or the loss is not finite.
    """
    extensions.check(config)
    set_deterministic(config)
    clock = Clock()
    writer = jax.process_index() == 0
    config = resolve_epochs(config, as_path(run_dir))
    directory = RunDirectory(run_dir, config, writer=writer, extensions=extensions)
    config = directory.config  # as the run began
    if broadcast_from_process_zero(directory.result() is not None) and (done := directory.result()) is not None:
        return done
    if branch is not None and not checkpoints_in(directory.path):
        branch.check(config)
        directory.inherited = branch.inputs()
    with clock.measure("start"):
        context = build_context(config, f"run directory: {directory.path}", may_share=directory.may_share)
    with (
        run_session(config, directory, clock, context, make_evaluator, start_from, profile, extensions, keep) as run,
        stop_requests() as stop,
    ):
        run.branch = branch
        run.restore()
        run.start(show=progress and writer)
        log_begin(run.step, config.steps, writer=writer)
        with contextlib.closing(run), contextlib.closing(run.meter):
            return run.train_until(config.steps if stop_after is None else min(config.steps, stop_after), stop)


def log_begin(step: int, steps: int, *, writer: bool) -> None:
    """Log at which step a run goes on, and that compiling comes first."""
    if not writer:
        return
    if step:
        logger.info("resuming at step %d of %d", step, steps)
    if step < steps:
        logger.info("compiling")


@contextlib.contextmanager
def run_session(
    config: RunConfig,
    directory: RunDirectory,
    clock: Clock,
    context: TrainContext,
    make_evaluator: EvaluatorFactory | None,
    start_from: Callable[[RunConfig], InitState] | None,
    profile: tuple[int, int] | None = None,
    extensions: Extensions = NONE,
    keep: Collection[int] = (),
) -> Iterator[Run]:
    """Lock the run directory, open all resources of one attempt and yield its `Run`; record how it failed."""
    with contextlib.closing(directory.lock):
        run_on_process_zero(lambda: directory.begin(config.steps))
        if not exists(directory.path / "config.json"):
            reason = "process 0 created it, but this process cannot see it"
            raise UserError(field=directory.path, reason=reason, hint="use a file system that all processes share")
        clock.add(directory.seconds_before)
        try:
            if config.init_from.source and start_from is None:
                raise UserError(field="init_from.source", reason="needs train(…, start_from=inference.start_from)")
            load_init = functools.cache(lambda: start_from(config) if start_from and config.init_from.source else None)
            with clock.measure("start"):
                run_on_process_zero(lambda: check_data(directory, context.data))
                recorded = directory.read_status().get(DATA)
                if not all_processes(not any(describe_change(recorded, context.data, split) for split in SPLITS)):
                    reason = "not all processes read the same data"
                    raise UserError(source=directory.path, field="data.paths", reason=reason)
                if limit := config.data.max_missing_shards:
                    run_on_process_zero(lambda: check_shards(directory, context.source, limit))
                if missing := directory.read_status().get("missing_shards"):
                    context.source.replace_shards(missing)
                for note in context.notes:
                    directory.event("data", reason=note)
                config = resolve_pixels(config, directory.path, lambda: getattr(load_init(), "pixels", None))
                tokenizer = _tokenizer(config, context.source, directory, load_init)
                evaluate: Evaluate = _no_rows
                if make_evaluator:
                    evaluate = make_evaluator(config, context.built, context.mesh, context.held_out, tokenizer)
                tracker = open_tracker(config, directory.path, writer=directory.writer, callbacks=extensions.callbacks)
            with (
                contextlib.closing(tracker),
                Checkpoints(directory.path, config.checkpoint_every, keep) as checkpoints,
                contextlib.closing(Profiler(local_scratch(directory.path / "profile"), profile)) as profiler,
            ):
                yield Run(
                    config,
                    context,
                    tokenizer,
                    evaluate,
                    directory,
                    tracker,
                    checkpoints,
                    profiler,
                    clock,
                    load_init,
                    extensions.pair_loss(),
                )
        except BaseException as error:
            state = "stopped" if is_lost_process(error) or isinstance(error, KeyboardInterrupt) else "failed"
            directory.end(state, f"{type(error).__name__}: {error}".splitlines()[0])
            raise


def _no_rows(params: Params) -> list[Measurement]:
    return []


def _tokenizer(config: RunConfig, source: Source, directory: RunDirectory, load_init: LoadInit) -> Tokenizer:
    """Return the run's tokenizer, which at the first start comes with an imported text tower or is a new one."""
    path = directory.path / "tokenizer.json"

    if not broadcast_from_process_zero(exists(path)):
        init = load_init()  # on every process, since reading a run's checkpoint is a collective operation
        imported = init.tokenizer if init else None
        if directory.writer and imported is None:
            origin = {"learned": "from the captions", "clip": "CLIP's published one"}[config.data.tokenizer]
            logger.info("vocabulary of %s tokens: %s", f"{config.model.text.vocab_size:,}", origin)
        text = config.model.text
        key = "vocabulary", config.data, text.vocab_size, text.context_length, text.pad_id, source.digest
        run_on_process_zero(lambda: (imported or reuse(key, lambda: new_tokenizer(config, source))).save(path))
    tokenizer = read_tokenizer(directory.path, config.model)
    run_on_process_zero(lambda: directory.note_input(TOKENIZER, file_sha256(path)))
    return tokenizer


@dataclass
class Run:
    """One attempt at a run: its training state and everything around it that has side effects."""

    config: RunConfig
    context: TrainContext
    tokenizer: Tokenizer
    evaluator: Evaluate
    directory: RunDirectory
    tracker: Tracker
    checkpoints: Checkpoints
    profiler: Profiler
    clock: Clock
    load_init: LoadInit
    pair_loss: PairLoss | None = None  # the caller's, instead of the config's
    branch: Branch | None = None

    def __post_init__(self) -> None:
        config, self.mesh, self.built, self.in_flight = self.config, self.context.mesh, self.context.built, InFlight()
        programs = make_programs(config, self.built, self.mesh, self.pair_loss)
        self.optimizer, self.step_fn = programs.optimizer, programs.step
        self.init, self.abstract = programs.init, programs.abstract
        self.compiled = False
        self.device_batches: DeviceBatches | None = None
        self.eval_at = {max(1, round(f * config.steps)) for f in config.evals.at_fractions}
        self.step = 0  # updates done
        self.state: TrainState

    def start(self, *, show: bool, stream: BatchStream | None = None) -> None:
        """Prepare all but the state: truncate the logs to the state's step, open the batches and the meter."""
        with self.clock.measure("start"):
            run_on_process_zero(lambda: self.directory.truncate_after(self.step))
            self.offsets = DataOffsets(self.directory.events())
            rows = self.directory.metrics()
            self.stream = stream or BatchStream(
                self.config, self.context.source, self.tokenizer, self.offsets, self.step
            )
        if stream is None and feeds_ahead(self.mesh):
            self.device_batches = DeviceBatches(self.stream, self.mesh, self.config.batch_size, self.config.steps)
        self.meter = Meter(self.config, self.mesh, self.directory, self.tracker, self.clock, self.step, rows, show=show)
        self.directory.event(
            "attempt",
            step=self.step,
            repeats=max(0, self.directory.step_before - self.step),
            mesh=dict(self.mesh.shape),
            devices=self.mesh.size,
            processes=jax.process_count(),
        )

    def restore(self, *, regular: bool = False, last: int | None = None) -> None:
        """Load the newest readable state (see `Checkpoints.restore`), or make a fresh one."""
        with self.clock.measure("start"):
            self._restore(regular, last)

    def _restore(self, regular: bool, last: int | None) -> None:
        restored = self.checkpoints.restore(self.abstract, regular=regular, last=last)
        if restored is not None:
            self.step, self.state, broken = restored
            for reason in broken:
                self._report("corrupt_checkpoint", f"{reason}; moved to corrupt/, going on from step {self.step}")
            return
        if self.branch is not None:
            return self._start_from_trunk(self.branch)
        self.step, self.state = 0, self.init(schedule_numbers(self.config.optim, self.config.steps))
        if (init := self.load_init()) is not None:
            self.state = dataclasses.replace(self.state, params=init.params(self.state.params))

    def _start_from_trunk(self, branch: Branch) -> None:
        self.step, self.state = branch.step, branch.state(self.config, self.abstract)
        # in this order: a run without a checkpoint begins anew
        run_on_process_zero(lambda: branch.write_rows(self.directory))
        self.save()
        self.checkpoints.wait()

    def _report(self, event: str, reason: str, **details: object) -> None:
        """Report an event in ``events.jsonl``, in ``status.json`` and in the log."""
        self.directory.event(event, reason=reason, **details)
        self.directory.heartbeat(force=True, last_event=f"{event}: {reason}")
        if self.directory.writer:
            logger.warning("%s: %s", self.directory.path, reason)

    def train_until(self, last: int, stop: StopRequest) -> RunResult | UnfinishedRun:
        """Train up to step ``last`` or until asked to stop, end the attempt, and return the result."""
        while True:
            try:
                self._steps(last, stop)
                return self.end(stop)
            except Anomaly as anomaly:
                self.roll_back(anomaly)

    def _steps(self, last: int, stop: StopRequest) -> None:
        while self.step < last and not stop.should_stop():
            with self.clock.measure("data"):
                batch = self._batch()
            with self.clock.measure("step" if self.compiled else "compile"):
                self.profiler.begin_step(self.step)
                with jax.profiler.StepTraceAnnotation("train", step_num=self.step):
                    self.state, metrics = self.step_fn(self.state, batch)
                self.step += 1
                self.compiled = True
            self.after_step(metrics, last)

    def _batch(self) -> Batch:
        if self.device_batches is not None:
            return self.device_batches.batch(self.step)
        return put_batch(self.stream.batch(self.step), self.mesh)

    def close(self) -> None:
        """Stop the threads and workers that make batches."""
        if self.device_batches is not None:
            self.device_batches.close()
        self.stream.close()

    def due(self, last: int) -> tuple[bool, bool, bool]:
        """Return which of (evaluation, checkpoint, end at ``last``) follow this step; each of them needs the state."""
        between = self.step < self.config.steps
        return (
            between and self.step in self.eval_at,
            between and self.step % self.config.checkpoint_every == 0,
            self.step == last,
        )

    def after_step(self, metrics: Metrics, last: int) -> None:
        """Do the host's work after a step was dispatched; raise Anomaly if a loss or the parameters are bad."""
        evaluate, save, end = self.due(last)
        with self.clock.measure("step"):
            self.in_flight.add(metrics)
            self.meter.flush()  # writes an earlier step's metrics while the device works on this one
            with self.clock.measure("other"):
                self.profiler.end_step(self.step, metrics)
            if logged := self.step % self.config.log_every == 0 or self.step == self.config.steps:
                self.meter.defer(self.step, metrics)
            if evaluate or save or end:
                jax.block_until_ready(metrics)  # each of these waits anyway; waiting here counts the time as steps
                self.meter.flush()
            if evaluate or save or end or (logged and jax.process_count() == 1):  # the processes wait for each other
                self._note_store()
        if evaluate:
            self._evaluate()
        if save:
            self.save()

    def _note_store(self) -> dict[str, int]:
        """Record what all processes have asked of remote stores so far, if anything was; return it."""
        counts = self.directory.store_with(sum_over_processes(self.stream.store))
        if counts:
            self.directory.heartbeat(store=counts)
        return counts

    def save(self) -> None:
        """Save a checkpoint of the current state; raise Anomaly if its parameters are not finite."""
        with self.clock.measure("checkpoint"):
            self.directory.flush()  # a checkpoint is never ahead of the logs
            if not self.checkpoints.save(self.step, self.state):
                raise Anomaly(self.step, "nan", f"the parameters are not finite at step {self.step}")

    def _evaluate(self) -> list[EvaluationRow]:
        with self.clock.measure("evaluation"):
            spent = training_flops(self.config, self.step * self.config.batch_size).total
            second = second_weights(self.state.opt_state)
            params = averaged_weights(self.config.optim, self.state.params, second)
            try:
                rows: list[EvaluationRow] = [
                    {"step": self.step, "flops": spent, **row} for row in self.evaluator(params)
                ]
            except NotFinite as error:  # treated like a non-finite loss
                raise Anomaly(self.step, "nan", f"the evaluation at step {self.step} stopped: {error}") from None
            self.directory.append("evals.jsonl", *rows)
            self.directory.flush()
            self.tracker.log({f"eval/{r['task']}/{r['metric']}": r["value"] for r in rows}, self.step)
            self.tracker.show(getattr(self.evaluator, "pictures", dict), self.step)
        return rows

    def roll_back(self, anomaly: Anomaly) -> None:
        """Go back to the last regular checkpoint and skip the batches since; raise Diverged if not allowed."""
        anomalies, optim = self.config.anomalies, self.config.optim
        policy = anomalies.on_nan if anomaly.kind == "nan" else anomalies.on_spike
        advice = (
            f"lower optim.peak_lr={optim.peak_lr:g} or lengthen optim.warmup_steps={optim.warmup_of(self.config.steps)}"
        )
        if policy == "rollback" and self.offsets.count == anomalies.max_rollbacks:
            advice = f"anomalies.max_rollbacks={anomalies.max_rollbacks} are used up; {advice}"
        elif policy == "rollback":
            return self._skip_batches(anomaly)
        self.directory.event(anomaly.kind, step=anomaly.step, reason=anomaly.detail)
        raise Diverged(field=self.directory.path, reason=anomaly.detail, hint=advice)

    def _skip_batches(self, anomaly: Anomaly) -> None:
        with self.clock.measure("start"):
            self.restore(regular=True)
            # in this order: a run that is killed in between meets the same anomaly and rolls back again
            self.checkpoints.forget_after(self.step)
            offset = self.offsets.add(anomaly.step, self.step)
            self._report(
                "rollback",
                f"{anomaly.detail}; back to step {self.step}, skipping {anomaly.step - self.step} batches",
                kind=anomaly.kind,
                step=anomaly.step,
                to=self.step,
                data_offset=offset,
            )
            run_on_process_zero(lambda: self.directory.truncate_after(self.step))
        self.meter.resume_from(self.step)

    def end(self, stop: StopRequest) -> RunResult | UnfinishedRun:
        """End the attempt and return its result; raise Anomaly if the last loss is bad."""
        self.meter.flush()
        return self._stopped(stop) if self.step < self.config.steps else self._finished()

    def _stopped(self, stop: StopRequest) -> UnfinishedRun:
        with self.clock.measure("checkpoint"):
            self.directory.flush()
            saved = self.checkpoints.save(self.step, self.state)
            self.checkpoints.wait()
        reason = stop.reason or f"stop_after={self.step}"
        if not saved:
            # the anomaly is handled at the step where an uninterrupted run would meet it
            reason += f"; the state of step {self.step} is not finite and was not saved"
        self._note_store()
        self.directory.event("stopped", step=self.step, reason=reason)
        self.directory.heartbeat(force=True, step=self.step, seconds=self.clock.seconds())
        self.directory.end("stopped", reason)
        return UnfinishedRun(run_id=self.directory.run_id, state="stopped", step=self.step, exit_reason=reason)

    def _finished(self) -> RunResult:
        rows = [r for r in self.directory.evaluations() if r["step"] == self.step]
        self.save()
        rows = rows if broadcast_from_process_zero(bool(rows)) else self._evaluate()
        with self.clock.measure("checkpoint"):
            self.checkpoints.wait()
        cost = getattr(self.evaluator, "flops", 0.0)
        store = self._note_store()
        result = make_result(self.config, self.mesh, self.directory, self.meter, rows, self.stream, store, cost)
        self.directory.finish(result)
        return result
