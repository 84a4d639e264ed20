"""Non-finite losses and loss spikes: detection, and the batch offsets after a rollback."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator

from clip_jax.config import AnomalyConfig, RunConfig
from clip_jax.data.pipeline.loader import Arrays, Batches, train_batches
from clip_jax.data.sources.base import Source
from clip_jax.data.tokenizers.learned_bpe import Tokenizer
from clip_jax.storage.records import Event, MetricsRow


class Anomaly(Exception):
    """A non-finite loss (``kind`` "nan") or a loss spike (``kind`` "spike") at ``step``."""

    def __init__(self, step: int, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.step, self.kind, self.detail = step, kind, detail


class LossMonitor:
    """Detector of NaNs and spikes in the logged losses, which the host reads anyway.

    A loss is a spike if it exceeds ``anomalies.spike_factor`` times the median of the ``anomalies.spike_window`` logged
    losses before it. Nothing is a spike before that many losses were logged.
    """

    def __init__(self, config: AnomalyConfig, losses: Iterable[tuple[int, float]]) -> None:
        self.config = config
        self.losses = list(losses)

    def observe(self, step: int, loss: float) -> None:
        """Add the loss of ``step``.

        Raises:
          Anomaly: the loss is not finite, or a spike that ``anomalies.on_spike`` does not ignore.
        """
        if not math.isfinite(loss):
            raise Anomaly(step, "nan", f"the loss is not finite at step {step}")
        before = [value for _, value in self.losses[-self.config.spike_window :]]
        if self.config.on_spike != "ignore" and len(before) == self.config.spike_window:
            usual = statistics.median(before)
            if loss > self.config.spike_factor * usual:
                raise Anomaly(
                    step,
                    "spike",
                    f"the loss is {loss:.4g} at step {step}, above anomalies.spike_factor={self.config.spike_factor:g} "
                    f"times the {usual:.4g} before",
                )
        self.losses.append((step, loss))

    def truncate_after(self, step: int) -> None:
        """Forget the losses after ``step``."""
        self.losses = [(s, loss) for s, loss in self.losses if s <= step]


class DataOffsets:
    """Batch offsets after rollbacks: step ``n`` is trained on batch ``n + offset(n)`` of the data's order.

    After a rollback from ``step`` to ``to``, training continues with the batches after the last one consumed; the
    skipped ones are never replayed. The offsets are rebuilt from the run's events, so a resumed run uses the same ones.
    """

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self._rollbacks = [(int(e["to"]), int(e["data_offset"])) for e in events if e["event"] == "rollback"]

    @property
    def count(self) -> int:
        """Number of rollbacks."""
        return len(self._rollbacks)

    def offset(self, step: int) -> int:
        """Return how many batches ahead of ``step`` (updates done) the next batch lies."""
        return next((offset for to, offset in reversed(self._rollbacks) if to <= step), 0)

    def add(self, step: int, to: int) -> int:
        """Add a rollback from ``step`` to ``to``; return the offset that holds from ``to`` on."""
        offset = step + self.offset(step - 1) - to
        self._rollbacks.append((to, offset))
        return offset


class BatchStream:
    """The batches of a run by step, at their `DataOffsets`. Close it at the end."""

    def __init__(
        self, config: RunConfig, source: Source, tokenizer: Tokenizer, offsets: DataOffsets, step: int
    ) -> None:
        self._config, self._source, self._tokenizer, self._offsets = config, source, tokenizer, offsets
        self._broken, self._store = 0, Counter[str]()
        self.batches = self._open(step)

    def _open(self, step: int) -> Batches:
        offset = self._offsets.offset(step)
        self._next = (step, offset)
        longer = dataclasses.replace(self._config, steps=self._config.steps + offset)
        return train_batches(longer, self._source, self._tokenizer, step + offset)

    def batch(self, step: int) -> Arrays:
        """Return this process's share of the batch for the update after ``step``; block until it is ready."""
        return next(self._at(step))

    def pieces(self, step: int) -> Iterator[Arrays]:
        """Yield that batch in pieces, as they come; it must be drawn to its end."""
        return self._at(step).pieces()

    def _at(self, step: int) -> Batches:
        offset = self._offsets.offset(step)
        if self._next != (step, offset):
            self._broken, self._store = self.broken_records, self.store
            self.close()
            self.batches = self._open(step)
        self._next = (step + 1, offset)
        return self.batches

    def close(self) -> None:
        """Stop the threads and workers that prefetch batches."""
        self.batches.close()

    @property
    def broken_records(self) -> int:
        """Number of corrupt records skipped so far."""
        return self._broken + self.batches.broken_records

    @property
    def store(self) -> Counter[str]:
        """What this process and its workers asked of remote stores so far (`range_reads.COUNTED`)."""
        return Counter({name: self._store[name] + count for name, count in self.batches.store.items()})


def losses_of(rows: Iterable[MetricsRow]) -> Iterator[tuple[int, float]]:
    """Return (step, loss) for each row of ``metrics.jsonl``; skip rows whose loss was not finite."""
    return ((row["step"], row["loss"]) for row in rows if row["loss"] is not None)
