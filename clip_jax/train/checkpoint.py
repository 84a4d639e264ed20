"""Saving and restoring the training state with Orbax: the only module that knows it."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import TracebackType
from typing import Any

import jax

from clip_jax.config import UserError
from clip_jax.train.record import disk_errors
from clip_jax.train.state import TrainState

KEEP = 2


def _parts(state: TrainState) -> dict[str, Any]:
    # parameters lie apart, so that an evaluation can read them alone
    return {"params": state.params, "rest": {"step": state.step, "opt_state": state.opt_state}}


class Checkpoints:
    """The numbered checkpoints of one run; the newest two are kept.

    A checkpoint becomes visible only when it is whole. The state's ``step`` is also the position in the data,
    which is a pure function of it. A state may be restored onto another mesh than it was saved from.
    """

    def __init__(self, run_dir: str | Path) -> None:
        from orbax.checkpoint import v1 as ocp

        self.dir = Path(run_dir).resolve() / "checkpoints"
        policies = ocp.training.preservation_policies
        with disk_errors(self.dir):
            self.dir.mkdir(parents=True, exist_ok=True)
            self._orbax = ocp.training.Checkpointer(
                self.dir, preservation_policy=policies.LatestN(KEEP), cleanup_tmp_directories=True
            )
        self._pending: Any = None

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with disk_errors(self.dir):
            if kind is None:
                self.wait()
                self._orbax.close()
                return
            with contextlib.suppress(OSError, ValueError, RuntimeError, UserError):  # the first error counts
                self._orbax.close()

    @property
    def latest_step(self) -> int | None:
        """The step of the newest whole checkpoint, or None."""
        latest = self._orbax.latest
        return None if latest is None else int(latest.step)

    def save(self, step: int, state: TrainState) -> None:
        """Begin to save; returns once the state may be overwritten. Raises UserError on a full disk."""
        self.wait()
        if self.latest_step == step:
            return
        with disk_errors(self.dir):
            self._pending = self._orbax.save_checkpointables_async(step, _parts(state), force=True)

    def wait(self) -> None:
        """Until the last save is on disk. Raises UserError on a full disk."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            with disk_errors(self.dir):
                pending.result()

    def restore(self, abstract: TrainState) -> TrainState:
        """The newest state, in the shardings of ``abstract`` (`state.abstract_state`)."""
        loaded = self._orbax.load_checkpointables(None, _parts(abstract))
        return TrainState(params=loaded["params"], **loaded["rest"])


def load_params(run_dir: str | Path, built: Any) -> tuple[int, Any]:
    """(step, parameters) of a run's newest checkpoint, in the shardings of ``built``.

    Raises UserError when the run has no checkpoint.
    """
    from orbax.checkpoint import v1 as ocp

    root = Path(run_dir).resolve() / "checkpoints"
    if not root.is_dir():
        raise UserError(f"{run_dir}: has no checkpoint; train it first")
    with ocp.training.Checkpointer(root) as orbax:
        if orbax.latest is None:
            raise UserError(f"{run_dir}: has no checkpoint; train it first")
        abstract = jax.tree.map(
            lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s),
            built.abstract_params,
            built.shardings,
        )
        loaded = orbax.load_checkpointables(None, {"params": abstract})
        return int(orbax.latest.step), loaded["params"]
