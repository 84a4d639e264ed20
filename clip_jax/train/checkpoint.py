"""Saving and restoring the training state; the only module that uses Orbax."""

from __future__ import annotations

import contextlib
import gc
import inspect
import logging
import sys
import time
import warnings
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import jax

from clip_jax.distributed.processes import all_processes, run_on_process_zero
from clip_jax.errors import UserError
from clip_jax.models.clip import AbstractModel
from clip_jax.optim.averaging import averaged_weights, second_weights, with_second_weights
from clip_jax.optim.stochastic_rounding import widen
from clip_jax.storage.json_files import read_json
from clip_jax.storage.paths import absolute, as_path, disk_errors, mkdir, move_tree
from clip_jax.train.checksum import checksums, checksums_and_finite
from clip_jax.train.run_directory import checkpoints_in, read_config
from clip_jax.train.state import TrainState
from clip_jax.types import Params, PyTree

logger = logging.getLogger(__name__)

CHECKPOINTS_KEPT = 2
AVERAGE = "average"  # part of a checkpoint: the weights that `optim.averaging` evaluates with the trained ones
SETTLE_S = 0.5  # time for concurrent reads and writes to end after one has failed


def _parts(state: TrainState) -> dict[str, PyTree]:
    # parameters and their average are parts of their own, so that an evaluation can read them alone
    second = second_weights(state.opt_state)
    if second is None:
        return {"params": state.params, "rest": {"step": state.step, "opt_state": state.opt_state}}
    rest = {"step": state.step, "opt_state": with_second_weights(state.opt_state, None)}
    return {"params": state.params, AVERAGE: second, "rest": rest}


def _state(parts: dict[str, Any]) -> TrainState:
    opt_state = parts["rest"]["opt_state"]
    if AVERAGE in parts:
        opt_state = with_second_weights(opt_state, parts[AVERAGE])
    return TrainState(parts["rest"]["step"], parts["params"], opt_state)


@dataclass(frozen=True)
class _Newest:
    """Retention policy: keep the newest checkpoints, the newest one at a multiple of ``every``, and those of ``keep``.

    A rollback goes to a checkpoint at a multiple of ``every``, so its target does not depend on interruptions.
    """

    every: int
    keep: frozenset[int]

    def should_preserve(self, checkpoints: Sequence[Any], *, context: object) -> list[bool]:
        steps = [c.step for c in checkpoints]
        stay = (
            self.keep
            | set(sorted(steps)[-CHECKPOINTS_KEPT:])
            | set(sorted(s for s in steps if s % self.every == 0)[-1:])
        )
        return [s in stay for s in steps]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence Orbax's logs and dropped coroutines, which corrupt files and full disks cause in several threads.

    Each of these failures also raises, and the caller that catches it prints one line. Other warnings pass through.
    """
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    levels, hook = [log.level for log in loggers], sys.unraisablehook

    def listen(unraisable: Any) -> None:
        if not (inspect.iscoroutine(unraisable.object) or "Event loop is closed" in str(unraisable.exc_value)):
            hook(unraisable)

    try:
        for log in loggers:
            log.setLevel(logging.CRITICAL)
        sys.unraisablehook = listen
        yield
    finally:
        sys.unraisablehook = hook
        for log, level in zip(loggers, levels, strict=True):
            log.setLevel(level)


def _settle() -> None:
    """Wait after a failure until concurrent reads and writes have failed too, and collect their coroutines."""
    time.sleep(SETTLE_S)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # coroutines that are never awaited
        gc.collect()


class Checkpoints:
    """The numbered checkpoints of one run.

    A checkpoint becomes visible only when it is complete. The state's ``step`` is also the position in the data, which
    is a pure function of it. A state may be restored onto another mesh, and by another number of processes, than it was
    saved from.
    """

    def __init__(self, run_dir: str | Path, every: int, keep: Collection[int] = ()) -> None:
        from orbax.checkpoint import v1 as ocp

        self.dir = absolute(as_path(run_dir)) / "checkpoints"
        self.every = every
        with disk_errors(self.dir):
            mkdir(self.dir)
            self._orbax = ocp.training.Checkpointer(
                self.dir, preservation_policy=_Newest(every, frozenset(keep)), cleanup_tmp_directories=True
            )
        self._pending: Any = None
        self._silenced = _quiet()

    def __enter__(self) -> Checkpoints:
        self._silenced.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.ExitStack() as stack:
            stack.callback(self._silenced.__exit__, None, None, None)
            stack.enter_context(disk_errors(self.dir))
            if kind is None:
                self.wait()
                self._orbax.close()
            elif jax.process_count() == 1:
                # with several processes, closing would wait for the others, which may have died
                with contextlib.suppress(OSError, ValueError, RuntimeError, UserError):  # the first error counts
                    self._orbax.close()
                _settle()

    @property
    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, oldest first."""
        return [int(c.step) for c in self._orbax.checkpoints]

    def save(self, step: int, state: TrainState) -> bool:
        """Start to save a checkpoint; return once the state may be overwritten.

        Returns:
          False for a state that holds NaN or infinity, which is not saved; else True.

        Raises:
          UserError: the disk is full.
        """
        self.wait()
        if step in self.steps:
            return True
        parts = _parts(state)
        sums, finite = checksums_and_finite(parts)
        if not finite:
            return False
        with disk_errors(self.dir):
            self._pending = self._orbax.save_checkpointables_async(
                step, parts, force=True, custom_metadata={"seals": sums}
            )
        return True

    def wait(self) -> None:
        """Wait until the last save is on disk.

        Raises:
          UserError: the disk is full.
        """
        if self._pending is not None:
            pending, self._pending = self._pending, None
            with disk_errors(self.dir):
                pending.result()

    def restore(
        self, abstract: TrainState, *, regular: bool = False, last: int | None = None
    ) -> tuple[int, TrainState, list[str]] | None:
        """Load the newest readable state into the shardings of ``abstract`` (`state.abstract_state`).

        Args:
          abstract: shapes, dtypes and shardings to restore into.
          regular: consider only checkpoints at a multiple of ``every``.
          last: consider only checkpoints up to that step.

        Returns:
          (step, state, reasons): one reason for each newer checkpoint that could not be read and was moved to
            ``RUN_DIR/corrupt``. None if there is no checkpoint.

        Raises:
          UserError: there are checkpoints and none of them can be read. They stay where they are.
        """
        self.wait()
        steps = [s for s in self.steps if not (regular and s % self.every) and (last is None or s <= last)]
        broken: dict[int, str] = {}
        for step in reversed(steps):
            loaded, reason = _load(self.dir / str(step), _parts(abstract))
            if loaded is not None:
                self._set_aside(list(broken))
                return step, _state(loaded), [f"checkpoint {s}: {reason}" for s, reason in broken.items()]
            broken[step] = reason
        if broken:
            step, reason = next(iter(broken.items()))
            reason = f"none of its {len(broken)} checkpoints can be read (the newest, {step}: {reason})"
            raise UserError(field=self.dir, reason=reason, hint="move the folder away to train from the start")
        return None

    def forget_after(self, step: int) -> None:
        """Delete the checkpoints of later steps."""
        for later in [s for s in self.steps if s > step]:
            self._orbax.delete(later)

    def _set_aside(self, steps: list[int]) -> None:
        def move() -> None:
            for step in steps:
                move_tree(self.dir / str(step), self.dir.parent / "corrupt" / str(step))

        if steps:
            with disk_errors(self.dir):
                run_on_process_zero(move)
            self._orbax.reload()


def _root(error: BaseException) -> str:
    """Return the root cause of an error as one short line."""
    while (before := error.__cause__ or error.__context__) is not None:
        error = before
    return f"{type(error).__name__}: {error}".splitlines()[0][:160]


def _load(path: Path, abstract: dict[str, Any]) -> tuple[dict[str, Any] | None, str]:
    """Return (the requested parts, ""), or (None, why they cannot be read); the same on every process."""
    from orbax.checkpoint import v1 as ocp

    loaded, reason, sums = None, "another process cannot read it", {}
    single_process = ocp.Context()  # a process that fails must not leave the others waiting inside Orbax
    single_process.multiprocessing.primary_host = jax.process_index()
    single_process.multiprocessing.active_processes = {jax.process_index()}
    with _quiet():
        try:
            sums = (read_json(path / "_CHECKPOINT_METADATA") or {})["custom_metadata"].get("seals", {})
            with single_process:
                loaded = ocp.load_checkpointables(path, abstract)
        except Exception as error:  # noqa: BLE001  # there is no end of what broken files make a reader raise
            reason = _root(error)
        if loaded is None:
            _settle()
    if not all_processes(loaded is not None) or loaded is None:
        return None, reason
    # checkpoints of version 0.1 have no checksums
    if sums and checksums(loaded) != {k: sums[k] for k in abstract}:
        return None, "its numbers are not those that were saved"
    return loaded, ""


def load_state(run_dir: Path, step: int, abstract: TrainState) -> TrainState:
    """Return the state that a run had at ``step``, in the shardings of ``abstract``; write nothing.

    Raises:
      UserError: the run has no such checkpoint, or it cannot be read.
    """
    path = absolute(run_dir) / "checkpoints" / str(step)
    loaded, reason = _load(path, _parts(abstract))
    if loaded is None:
        raise UserError(field=path, reason=f"cannot be read ({reason})")
    return _state(loaded)


def load_params(run_dir: str | Path, built: AbstractModel) -> tuple[int, Params]:
    """Return (step, parameters) of a run's newest readable checkpoint, in the shardings of ``built``; write nothing.

    The parameters are the averaged ones of a run that evaluates those (`OptimConfig.averages`). A newer checkpoint that
    cannot be read is named on stderr.

    Raises:
      UserError: the run has no readable checkpoint.
    """
    run_dir = absolute(as_path(run_dir))
    root = run_dir / "checkpoints"
    abstract = jax.tree.map(
        lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), built.abstract_params, built.shardings
    )
    parts, config = {"params": abstract}, read_config(run_dir)
    optim = config.optim if config is not None and config.optim.averages else None
    if optim is not None:
        parts[AVERAGE] = jax.eval_shape(widen, abstract)
    steps = checkpoints_in(run_dir)
    for step in reversed(steps):
        loaded, reason = _load(root / str(step), parts)
        if loaded is not None:
            params = loaded["params"]
            return step, params if optim is None else averaged_weights(optim, params, loaded[AVERAGE])
        logger.warning("%s: skipped (%s)", root / str(step), reason)
    reason = f"has no checkpoint{' that can be read' if steps else ''}"
    raise UserError(field=run_dir, reason=reason, hint="train it first")
