"""The result of a finished run, put together from its parts."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import cast

from jax.sharding import Mesh

from clip_jax import flops
from clip_jax.config import RunConfig
from clip_jax.config.io import to_dict
from clip_jax.storage.records import EvaluationRow, Measurement
from clip_jax.train.anomalies import BatchStream
from clip_jax.train.metrics import Meter, training_flops
from clip_jax.train.run_directory import RunDirectory
from clip_jax.train.run_result import RunResult
from clip_jax.types import JsonObject

PACKAGES = (
    "clip-jax-scaling", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "tokenizers", "numpy",
)  # fmt: skip


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{n: metadata.version(n) for n in PACKAGES}}


def fields_of_config(config: RunConfig) -> JsonObject:
    """Return the fields of a `RunResult` that the config alone determines."""
    counted, spent = flops.params(config.model), training_flops(config, config.samples_seen)
    return {
        "config": to_dict(config), "flops": spent.total, "flops_logits": spent.logits,
        "flops_per_sample": flops.flops_per_sample(config.model).total, "params": counted.total,
        "params_image": counted.image, "params_text": counted.text, "params_no_embed": counted.no_embed,
        "samples_seen": config.samples_seen, "batch_size": config.batch_size, "seed": config.seed,
        "steps": config.steps, "peak_lr": config.optim.peak_lr,
    }  # fmt: skip


def make_result(
    config: RunConfig,
    mesh: Mesh,
    directory: RunDirectory,
    meter: Meter,
    rows: list[EvaluationRow],
    stream: BatchStream,
    store: dict[str, int],
    flops_of_evaluation: float,
) -> RunResult:
    """Return the result of a run that did all its steps.

    Args:
      config: the run.
      mesh: the devices it was trained on.
      directory: its files.
      meter: its throughput.
      rows: its last evaluation.
      stream: its batches.
      store: what was asked of remote stores.
      flops_of_evaluation: the FLOPs of one evaluation.
    """
    value = {(r["task"], r["metric"]): r["value"] for r in rows}
    device = mesh.devices.flat[0]
    seconds = meter.clock.seconds()
    return RunResult(
        run_id=directory.run_id,
        family_id=directory.family_id,
        state="finished",
        exit_reason="all steps done",
        final=True,
        **fields_of_config(config),
        unique_samples=stream.batches.order.distinct(config.samples_seen),
        drawn_by_path=stream.batches.drawn(config.samples_seen),
        wall_s=directory.wall_s,
        eval_s=seconds["evaluation"],
        eval_flops=len({r["step"] for r in directory.evaluations()}) * flops_of_evaluation,
        seconds=seconds,
        goodput=meter.goodput,
        samples_per_s=meter.speed,
        mfu=meter.mfu(meter.speed),
        device={"kind": device.device_kind, "platform": device.platform, "count": mesh.size},
        mesh=dict(mesh.shape),
        attempts=directory.attempt,
        events=directory.events(),
        versions=_versions(),
        broken_records=stream.broken_records,
        store=store,
        **directory.inputs,
        error_mean=value.get(("zero_shot_mean", "error")),
        val_loss=value.get(("validation", "loss")),
        val_loss_refit=value.get(("validation", "loss_refit")),
        evals=[cast(Measurement, {k: v for k, v in r.items() if k not in ("step", "flops")}) for r in rows],
    )
