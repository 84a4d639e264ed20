"""Loss and throughput of a run, read from the device one step late so that the device never waits for the host."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import jax
import numpy as np
from jax.sharding import Mesh

from clip_jax import flops
from clip_jax.config import RunConfig
from clip_jax.flops.devices import peak_flops
from clip_jax.storage.records import MetricsRow
from clip_jax.train.anomalies import LossMonitor, losses_of
from clip_jax.train.progress import Progress
from clip_jax.train.run_directory import RunDirectory
from clip_jax.train.timer import Clock
from clip_jax.train.trackers import Tracker

# columns that differ between two runs with the same losses
TIMES = ("wall_s", "samples_per_s", "mfu", "step_s", "goodput")


def training_flops(config: RunConfig, samples_seen: int) -> flops.TrainingFlops:
    """Return the FLOPs that training this run on ``samples_seen`` samples takes.

    Args:
      config: the run: its model, batch size and frozen towers.
      samples_seen: pairs of all steps.
    """
    return flops.training_flops(config.model, samples_seen, config.batch_size, config.init_from.freeze_tower)


class Meter:
    """Writer of the rows of ``metrics.jsonl``.

    ``step_s`` is the time of the steps that led to the current state, without those that a kill or a rollback
    discarded. ``goodput`` is the share of ``step_s`` in the wall time of all attempts.
    """

    def __init__(
        self,
        config: RunConfig,
        mesh: Mesh,
        directory: RunDirectory,
        tracker: Tracker,
        clock: Clock,
        step: int,
        rows: Iterable[MetricsRow],
        *,
        show: bool,
    ) -> None:
        """Continue from ``step``; ``rows`` are the rows of earlier attempts up to that step."""
        rows = list(rows)
        self.config, self.mesh, self.directory, self.tracker, self.clock = config, mesh, directory, tracker, clock
        self.show = show
        self.monitor = LossMonitor(config.anomalies, losses_of(rows))
        self._step_s = [(0, 0.0)] + [(row["step"], row.get("step_s", 0.0)) for row in rows]
        device = mesh.devices.flat[0]
        self.peak = peak_flops(device.device_kind, config.model.compute_dtype)
        self.speed: float | None = None
        self.resume_from(step)

    def resume_from(self, step: int) -> None:
        """Continue from the state of ``step``, after a start or a rollback; forget what came after it."""
        self.monitor.truncate_after(step)
        self._step_s = [(s, seconds) for s, seconds in self._step_s if s <= step]
        self._since = self._stepping()
        self.deferred: tuple[int, Mapping[str, jax.Array]] | None = None
        self.last_logged: tuple[int, float] | None = None  # step, seconds of training
        self.first_logged: tuple[int, float] | None = None
        self.progress = Progress(self.config.steps, shown=self.show)

    def close(self) -> None:
        """End the progress line."""
        self.progress.close()

    def _stepping(self) -> float:
        return self.clock.attempt("step")

    @property
    def step_s(self) -> float:
        """Seconds of the steps that led to the current state."""
        return self._step_s[-1][1] + self._stepping() - self._since

    @property
    def goodput(self) -> float:
        """Share of `step_s` in the wall time of all attempts."""
        return self.step_s / max(self.directory.wall_s, 1e-9)

    def mfu(self, samples_per_s: float | None) -> float | None:
        """Return the model FLOPs utilization (Chowdhery et al., 2022), or None if the device's peak is unknown."""
        if samples_per_s is None or self.peak is None:
            return None
        per_sample = training_flops(self.config, 1).total
        return samples_per_s * per_sample / (self.peak * self.mesh.size)

    def defer(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
        """Keep a step's metrics for the next `flush`, without waiting for the device."""
        self.deferred = (step, metrics)

    def flush(self) -> None:
        """Write the deferred metrics.

        Raises:
          Anomaly: the loss is not finite or spiked.
        """
        if self.deferred is None:
            return
        step, metrics = self.deferred
        self.deferred = None
        values = {k: float(np.asarray(v)) for k, v in metrics.items()}
        # without evaluations and checkpoints, which would lower the throughput
        now = step, self.clock.attempt("step", "data")
        self.first_logged = self.first_logged or now  # earlier time was spent on compiling
        size = self.config.batch_size
        if self.last_logged is not None and now[1] > self.last_logged[1]:
            values["samples_per_s"] = (step - self.last_logged[0]) * size / (now[1] - self.last_logged[1])
        if now[1] > self.first_logged[1]:
            self.speed = (step - self.first_logged[0]) * size / (now[1] - self.first_logged[1])
        self.last_logged = now
        self._step_s.append((step, self.step_s))
        self._since = self._stepping()
        mfu = self.mfu(values.get("samples_per_s"))
        times = {"mfu": mfu, "wall_s": self.directory.wall_s, "step_s": self.step_s, "goodput": self.goodput}
        self.directory.append("metrics.jsonl", {"step": step, "samples_seen": step * size, **values, **times})
        self.directory.heartbeat(step=step, seconds=self.clock.seconds())
        self.monitor.observe(step, values["loss"])
        self.tracker.log({f"train/{k}": v for k, v in values.items()}, step)
        self.progress.show(step, values["loss"], self.speed, self.mfu(self.speed))
