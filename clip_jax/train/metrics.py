"""Loss and speed of a run under way, read from the device one step late so that it never waits for the host."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from jax.sharding import Mesh

from clip_jax import flops
from clip_jax.config import RunConfig
from clip_jax.flops.devices import peak_flops
from clip_jax.train.anomalies import Watch, losses_of
from clip_jax.train.run_directory import Record
from clip_jax.train.timer import Clock
from clip_jax.train.trackers import Mirror, Progress

# what differs between two runs of the same numbers
TIMES = ("wall_s", "samples_per_s", "mfu", "step_s", "goodput")


def training_flops(config: RunConfig, samples_seen: int) -> flops.TrainingFlops:
    """What so many samples of this run cost."""
    return flops.training_flops(config.model, samples_seen, config.batch_size, config.init_from.freeze)


class Meter:
    """Writes the rows of ``metrics.jsonl``.

    ``step_s`` is the time of the steps that led to the present state: those that a kill or a rollback threw away do not
    count. ``goodput`` is its share of the wall time of all attempts.
    """

    def __init__(
        self,
        config: RunConfig,
        mesh: Mesh,
        record: Record,
        mirror: Mirror,
        clock: Clock,
        step: int,
        rows: Iterable[dict[str, Any]],
        *,
        show: bool,
    ) -> None:
        """Goes on from ``step``; ``rows`` are those of earlier attempts up to it."""
        rows = list(rows)
        self.config, self.mesh, self.record, self.mirror, self.clock = config, mesh, record, mirror, clock
        self.show = show
        self.watch = Watch(config.faults, losses_of(rows))
        self._step_s = [(0, 0.0)] + [(row["step"], row.get("step_s", 0.0)) for row in rows]
        device = mesh.devices.flat[0]
        self.peak = peak_flops(device.device_kind, config.model.compute_dtype)
        self.speed: float | None = None
        self.go_on_from(step)

    def go_on_from(self, step: int) -> None:
        """Training continues from the state of ``step``: forget what came after it."""
        self.watch.cut_back(step)
        self._step_s = [(s, seconds) for s, seconds in self._step_s if s <= step]
        self._since = self._stepping()
        self.held: tuple[int, Any] | None = None
        self.mark: tuple[int, float] | None = None  # step, seconds of training
        self.first: tuple[int, float] | None = None
        self.progress = Progress(self.config.steps, step, shown=self.show)

    def _stepping(self) -> float:
        return self.clock.attempt("step")

    @property
    def step_s(self) -> float:
        """Seconds of the steps that led here."""
        return self._step_s[-1][1] + self._stepping() - self._since

    @property
    def goodput(self) -> float:
        """Their share of the wall time of all attempts."""
        return self.step_s / max(self.record.wall_s, 1e-9)

    def mfu(self, samples_per_s: float | None) -> float | None:
        """Model FLOPs utilisation (Chowdhery et al., 2022); None where the device's peak is unknown."""
        if samples_per_s is None or self.peak is None:
            return None
        per_sample = training_flops(self.config, 1).total
        return samples_per_s * per_sample / (self.peak * self.mesh.size)

    def hold(self, step: int, metrics: Any) -> None:
        """Remember a step's metrics without waiting for them."""
        self.held = (step, metrics)

    def flush(self) -> None:
        """Record what was held. Raises Fault when the loss is no number or a spike."""
        if self.held is None:
            return
        step, metrics = self.held
        self.held = None
        values = {k: float(np.asarray(v)) for k, v in metrics.items()}
        now = (step, self.clock.attempt("step", "data"))  # so that evaluations and checkpoints do not slow it down
        self.first = self.first or now  # the time before it went into compiling
        size = self.config.batch_size
        if self.mark is not None and now[1] > self.mark[1]:
            values["samples_per_s"] = (step - self.mark[0]) * size / (now[1] - self.mark[1])
        if now[1] > self.first[1]:
            self.speed = (step - self.first[0]) * size / (now[1] - self.first[1])
        self.mark = now
        self._step_s.append((step, self.step_s))
        self._since = self._stepping()
        mfu = self.mfu(values.get("samples_per_s"))
        times = {"mfu": mfu, "wall_s": self.record.wall_s, "step_s": self.step_s, "goodput": self.goodput}
        self.record.append("metrics.jsonl", {"step": step, "samples_seen": step * size, **values, **times})
        self.record.beat(step=step, seconds=self.clock.seconds())
        self.watch.see(step, values["loss"])
        self.mirror.log({f"train/{k}": v for k, v in values.items()}, step)
        self.progress.show(step, values["loss"], self.speed, self.mfu(self.speed))
