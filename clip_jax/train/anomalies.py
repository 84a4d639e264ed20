"""A loss that is not a number or jumps: noticing it, and going back to go around it."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable, Iterator
from typing import Any

from clip_jax.config import FaultConfig, RunConfig
from clip_jax.data.pipeline.loader import Batches, train_batches
from clip_jax.data.sources.base import Source
from clip_jax.data.tokenizers.learned_bpe import Tokenizer


class Fault(Exception):
    """Training went wrong at a step: ``kind`` is "nan" or "spike"."""

    def __init__(self, step: int, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.step, self.kind, self.detail = step, kind, detail


class Watch:
    """Looks at the logged losses, which the host has anyway.

    A spike is judged against the median of the ``faults.spike_window`` logged losses before it, once there are so many.
    """

    def __init__(self, config: FaultConfig, losses: Iterable[tuple[int, float]]) -> None:
        self.config = config
        self.losses = list(losses)

    def see(self, step: int, loss: float) -> None:
        """Raises Fault."""
        if not math.isfinite(loss):
            raise Fault(step, "nan", f"the loss is not finite at step {step}")
        before = [value for _, value in self.losses[-self.config.spike_window :]]
        if self.config.on_spike != "ignore" and len(before) == self.config.spike_window:
            usual = statistics.median(before)
            if loss > self.config.spike_factor * usual:
                raise Fault(
                    step,
                    "spike",
                    f"the loss is {loss:.4g} at step {step}, above faults.spike_factor={self.config.spike_factor:g} "
                    f"times the {usual:.4g} before",
                )
        self.losses.append((step, loss))

    def cut_back(self, step: int) -> None:
        """Forget the losses after ``step``."""
        self.losses = [(s, loss) for s, loss in self.losses if s <= step]


class Detours:
    """Which batch each step is trained on: number ``step + offset(step)`` of the data's order.

    A rollback from ``step`` to ``to`` gives the steps after ``to`` the batches that follow the last one used, so none
    of those in between is met again. A run's events hold all there is to know, so once resumed it takes the same
    detours.
    """

    def __init__(self, events: Iterable[dict[str, Any]] = ()) -> None:
        self._turns = [(int(e["to"]), int(e["data_offset"])) for e in events if e["event"] == "rollback"]

    @property
    def count(self) -> int:
        return len(self._turns)

    def offset(self, step: int) -> int:
        """How far ahead of ``step`` (updates done) the next batch lies."""
        return next((offset for to, offset in reversed(self._turns) if to <= step), 0)

    def add(self, step: int, to: int) -> int:
        """Note a rollback; returns the offset from ``to`` on."""
        offset = step + self.offset(step - 1) - to
        self._turns.append((to, offset))
        return offset


class Feed:
    """The batches of a run by step, around its detours. Close it at the end."""

    def __init__(self, config: RunConfig, source: Source, tokenizer: Tokenizer, detours: Detours, step: int) -> None:
        self._config, self._source, self._tokenizer, self._detours = config, source, tokenizer, detours
        self._broken = 0
        self.batches = self._open(step)

    def _open(self, step: int) -> Batches:
        offset = self._detours.offset(step)
        self._next = (step, offset)
        longer = dataclasses.replace(self._config, steps=self._config.steps + offset)
        return train_batches(longer, self._source, self._tokenizer, step + offset)

    def batch(self, step: int) -> dict[str, Any]:
        """This process's share of the batch for the update after ``step``; blocks until it is ready."""
        offset = self._detours.offset(step)
        if self._next != (step, offset):
            self._broken = self.broken_records
            self.close()
            self.batches = self._open(step)
        self._next = (step + 1, offset)
        return next(self.batches)

    def close(self) -> None:
        """End what makes batches ahead."""
        self.batches.close()

    @property
    def broken_records(self) -> int:
        """Records passed over so far."""
        return self._broken + self.batches.broken_records


def losses_of(rows: Iterable[dict[str, Any]]) -> Iterator[tuple[int, float]]:
    """(step, loss) of rows of ``metrics.jsonl``; a loss that was not a number is left out."""
    return ((row["step"], row["loss"]) for row in rows if row["loss"] is not None)
