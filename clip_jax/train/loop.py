"""Training one run: the only file of training with side effects. Reads as a story from `train` down."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from clip_jax import flops
from clip_jax.config import RunConfig, UserError
from clip_jax.config_io import run_id, to_dict
from clip_jax.data.loader import Batches, learn_tokenizer, train_batches
from clip_jax.data.sources import Source, open_source
from clip_jax.data.tokenizers import Tokenizer, load_tokenizer
from clip_jax.models.clip import Built, build
from clip_jax.optim import make_optimizer
from clip_jax.parallel import check_batch, enable_compile_cache, make_mesh
from clip_jax.train.checkpoint import Checkpoints
from clip_jax.train.mirror import Mirror, Progress, open_mirror
from clip_jax.train.record import Record, read_lines
from clip_jax.train.state import TrainState, abstract_state, init_state
from clip_jax.train.step import make_train_step, put_batch

Rows = list[dict[str, Any]]
# (config, built, mesh, held-out source, tokenizer) -> (parameters -> rows); see evals.suite.make_evaluator
EvaluatorFactory = Callable[[RunConfig, Built, Mesh, Source, Tokenizer], Callable[[Any], Rows]]


@dataclass(frozen=True)
class Start:
    """What a run begins with instead of chance: fresh parameters -> its own; a tokenizer if the text tower is taken."""

    params: Callable[[Any], Any]
    tokenizer: Tokenizer | None


Begin = Callable[[], Start | None]


class Diverged(UserError):
    """The loss is no longer a number."""


@dataclass
class Parts:
    """What a run works with, made once."""

    config: RunConfig
    mesh: Mesh
    built: Built
    tokenizer: Tokenizer
    record: Record
    mirror: Mirror
    evaluate: Callable[[Any], Rows]
    seconds_of_evals: float = 0.0


def train(
    config: RunConfig,
    run_dir: str | Path,
    make_evaluator: EvaluatorFactory | None = None,
    *,
    start_from: Callable[[RunConfig], Start] | None = None,
    stop_after: int | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Train one model, or go on where it stopped; returns the run's result, also written to ``result.json``.

    The same call on the same directory picks up at the last checkpoint and ends with the same parameters as an
    uninterrupted run, bit for bit on the same mesh. A finished run is returned as it is.

    Args:
      config: the run; its hash must match what the directory holds.
      run_dir: made if missing.
      make_evaluator: what to measure; none measures nothing.
      start_from: reads what ``init_from`` names (`loading.start_from`); not called without it, nor when the run goes on
        from a checkpoint.
      stop_after: end after so many steps with a checkpoint, as a job with a time limit would.
      progress: show a progress line on stderr.

    Raises:
      UserError: bad data, a full disk, a directory of another run, a loss that is not finite.
    """
    writer = jax.process_index() == 0
    record = Record(run_dir, config, writer=writer)
    done = record.result()
    if done is not None:
        return done
    mesh = make_mesh(config.mesh)
    check_batch(config.batch_size, mesh)
    enable_compile_cache()
    source = open_source(config.data, "train", config.model.image.image_size)
    held_out = open_source(config.data, "val", config.model.image.image_size)
    built = build(config.model, mesh)
    record.begin(config.steps)
    try:
        if config.init_from.source and start_from is None:
            raise UserError("init_from: needs train(..., start_from=clip_jax.loading.start_from)")
        begin = functools.cache(lambda: start_from(config) if start_from and config.init_from.source else None)
        tokenizer = _tokenizer(config, source, record, begin)
        evaluate = make_evaluator(config, built, mesh, held_out, tokenizer) if make_evaluator else _measure_nothing
        mirror = open_mirror(config, record.dir, writer=writer)
        parts = Parts(config, mesh, built, tokenizer, record, mirror, evaluate)
        with contextlib.closing(mirror), Checkpoints(record.dir) as checkpoints:
            return _run(parts, source, checkpoints, begin, stop_after, progress and writer)
    except BaseException as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        record.end("failed", reason)
        raise


def _measure_nothing(params: Any) -> Rows:
    return []


def _tokenizer(config: RunConfig, source: Source, record: Record, begin: Begin) -> Tokenizer:
    """The run's vocabulary: that of a text tower taken over, else learned at the first start; then read back."""
    path = record.dir / "tokenizer.json"
    if path.exists():
        return load_tokenizer(path)
    given = begin()
    tokenizer = given.tokenizer if given and given.tokenizer else learn_tokenizer(config, source)
    if record.writer:
        tokenizer.save(path)
    return tokenizer


def _run(
    parts: Parts, source: Source, checkpoints: Checkpoints, begin: Begin, stop_after: int | None, show: bool
) -> dict[str, Any]:
    config, record = parts.config, parts.record
    optimizer = make_optimizer(config.optim, config.steps, float16=config.model.compute_dtype == "float16")
    start = checkpoints.latest_step or 0
    if start:
        state = checkpoints.restore(abstract_state(parts.built, optimizer, parts.mesh))
    else:
        state = init_state(config, parts.built, optimizer, parts.mesh)
        if (given := begin()) is not None:
            state = dataclasses.replace(state, params=given.params(state.params))
    record.cut_back(start)
    step_fn = make_train_step(config, parts.built, optimizer, parts.mesh)
    eval_at = {max(1, round(f * config.steps)) for f in config.evals.at_fractions}
    last = config.steps if stop_after is None else min(config.steps, stop_after)
    meter = Meter(parts, start, show)
    with contextlib.closing(train_batches(config, source, parts.tokenizer, start)) as batches, stop_signals() as asked:
        step = start
        while step < last and not asked:
            batch = put_batch(next(batches), parts.mesh)
            state, metrics = step_fn(state, batch)
            step += 1
            meter.flush()  # of an earlier step, now that the device has work
            if step % config.log_every == 0 or step == config.steps:
                meter.hold(step, metrics)
            pause = step == last or bool(asked)
            if step in eval_at and step < config.steps:
                meter.flush()
                _evaluate(parts, state, step)
            if (step % config.checkpoint_every == 0 and step < config.steps) or (pause and step < config.steps):
                meter.flush()
                checkpoints.save(step, state)
    meter.flush()
    if step < config.steps:
        checkpoints.wait()
        reason = f"signal {asked[0]}" if asked else f"stop_after={stop_after}"
        record.end("stopped", reason)
        return {"run_id": run_id(config), "state": "stopped", "step": step, "exit_reason": reason}
    rows = [r for r in read_lines(record.dir / "evals.jsonl") if r["step"] == step] or _evaluate(parts, state, step)
    checkpoints.save(step, state)
    checkpoints.wait()
    result = _result(parts, rows, meter, batches)
    record.finish(result)
    return result


def _evaluate(parts: Parts, state: TrainState, step: int) -> Rows:
    began = time.monotonic()
    rows = parts.evaluate(state.params)
    config = parts.config
    spent = training_flops(config, step * config.batch_size).total
    rows = [{"step": step, "flops": spent, **row} for row in rows]
    parts.record.append("evals.jsonl", *rows)
    parts.mirror.log({f"eval/{r['task']}/{r['metric']}": r["value"] for r in rows}, step)
    parts.seconds_of_evals += time.monotonic() - began
    return rows


def training_flops(config: RunConfig, samples_seen: int) -> flops.TrainingFlops:
    """What so many samples of this run cost."""
    return flops.training_flops(config.model, samples_seen, config.batch_size, config.init_from.freeze)


class Meter:
    """Loss and speed, read from the device one step late so that it never waits."""

    def __init__(self, parts: Parts, start: int, show: bool) -> None:
        self.parts, self.start = parts, start
        self.progress = Progress(parts.config.steps, start, shown=show)
        self.held: tuple[int, Any] | None = None
        self.mark: tuple[int, float, float] | None = None  # step, clock, seconds of evaluations
        self.first: tuple[int, float, float] | None = None
        device = parts.mesh.devices.flat[0]
        self.peak = flops.peak_flops(device.device_kind, parts.config.model.compute_dtype)
        self.speed: float | None = None

    def mfu(self, samples_per_s: float | None) -> float | None:
        """Model FLOPs utilisation (Chowdhery et al., 2022); None where the device's peak is unknown."""
        if samples_per_s is None or self.peak is None:
            return None
        config = self.parts.config
        per_sample = training_flops(config, 1).total
        return samples_per_s * per_sample / (self.peak * self.parts.mesh.size)

    def hold(self, step: int, metrics: Any) -> None:
        """Remember a step's metrics without waiting for them."""
        self.held = (step, metrics)

    def flush(self) -> None:
        """Record what was held. Raises Diverged when the loss is not finite."""
        if self.held is None:
            return
        step, metrics = self.held
        self.held = None
        values = {k: float(np.asarray(v)) for k, v in metrics.items()}
        now = (step, time.monotonic(), self.parts.seconds_of_evals)
        self.first = self.first or now  # the time before it went into compiling
        size = self.parts.config.batch_size
        if self.mark is not None and now[1] > self.mark[1]:
            values["samples_per_s"] = (step - self.mark[0]) * size / (now[1] - self.mark[1] - now[2] + self.mark[2])
        if step > self.first[0]:
            seconds = now[1] - self.first[1] - now[2] + self.first[2]
            self.speed = (step - self.first[0]) * size / seconds
        self.mark = now
        record = self.parts.record
        record.append("metrics.jsonl", {"step": step, "samples_seen": step * size, **values, "wall_s": record.wall_s})
        record.beat(step=step)
        if not math.isfinite(values["loss"]):
            optim = self.parts.config.optim
            raise Diverged(
                f"{record.dir}: the loss is not finite at step {step}; lower optim.peak_lr={optim.peak_lr:g} "
                f"or lengthen optim.warmup_steps={optim.warmup_steps}"
            )
        self.parts.mirror.log({f"train/{k}": v for k, v in values.items()}, step)
        self.progress.show(step, values["loss"], self.speed, self.mfu(self.speed))


@contextlib.contextmanager
def stop_signals() -> Iterator[list[int]]:
    """A list that fills when SIGTERM or SIGINT asks to stop; the step under way is finished first."""
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {s: signal.signal(s, lambda number, frame: asked.append(number)) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _versions() -> dict[str, str]:
    import platform
    from importlib import metadata

    names = (
        "clip-jax-scaling",
        "jax",
        "jaxlib",
        "flax",
        "optax",
        "orbax-checkpoint",
        "grain",
        "tokenizers",
        "numpy",
    )
    return {"python": platform.python_version(), **{n: metadata.version(n) for n in names}}


def _result(parts: Parts, rows: Rows, meter: Meter, batches: Batches) -> dict[str, Any]:
    config, record = parts.config, parts.record
    counted = flops.params(config.model)
    spent = training_flops(config, config.samples_seen)
    value = {(r["task"], r["metric"]): r["value"] for r in rows}
    device = parts.mesh.devices.flat[0]
    return {
        "run_id": run_id(config),
        "state": "finished",
        "exit_reason": "all steps done",
        "final": True,
        "config": to_dict(config),
        "flops": spent.total,
        "flops_logits": spent.logits,
        "flops_per_sample": flops.flops_per_sample(config.model).total,
        "params": counted.total,
        "params_image": counted.image,
        "params_text": counted.text,
        "params_no_embed": counted.no_embed,
        "samples_seen": config.samples_seen,
        "unique_samples": batches.order.distinct(config.samples_seen),
        "drawn_by_path": batches.drawn(config.samples_seen),
        "batch_size": config.batch_size,
        "seed": config.seed,
        "steps": config.steps,
        "peak_lr": config.optim.peak_lr,
        "wall_s": record.wall_s,
        "eval_s": parts.seconds_of_evals,
        "eval_flops": len({r["step"] for r in read_lines(record.dir / "evals.jsonl")})
        * getattr(parts.evaluate, "flops", 0.0),
        "samples_per_s": meter.speed,
        "mfu": meter.mfu(meter.speed),
        "device": {"kind": device.device_kind, "platform": device.platform, "count": parts.mesh.size},
        "mesh": dict(parts.mesh.shape),
        "attempts": record.attempt,
        "versions": _versions(),
        "broken_records": batches.broken_records,
        "error_mean": value.get(("zero_shot_mean", "error")),
        "val_loss": value.get(("validation", "loss")),
        "val_loss_refit": value.get(("validation", "loss_refit")),
        "evals": [{k: v for k, v in r.items() if k not in ("step", "flops")} for r in rows],
    }
