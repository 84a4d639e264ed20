"""What ``result.json`` holds: all that the laws need to know of a finished run."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Any

from jax.sharding import Mesh

from clip_jax import flops
from clip_jax.config import RunConfig
from clip_jax.config.io import to_dict
from clip_jax.train.anomalies import Feed
from clip_jax.train.metrics import Meter, training_flops
from clip_jax.train.run_directory import Record

PACKAGES = (
    "clip-jax-scaling", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "tokenizers", "numpy",
)  # fmt: skip


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{n: metadata.version(n) for n in PACKAGES}}


def make_result(
    config: RunConfig,
    mesh: Mesh,
    record: Record,
    meter: Meter,
    rows: list[dict[str, Any]],
    feed: Feed,
    flops_of_evaluation: float,
) -> dict[str, Any]:
    """The result of a run that did all its steps; ``rows`` are its last evaluation, ``flops_of_evaluation`` what one
    costs."""
    counted = flops.params(config.model)
    spent = training_flops(config, config.samples_seen)
    value = {(r["task"], r["metric"]): r["value"] for r in rows}
    device = mesh.devices.flat[0]
    seconds = meter.clock.seconds()
    return {
        "run_id": record.run_id,
        "family_id": record.family_id,
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
        "unique_samples": feed.batches.order.distinct(config.samples_seen),
        "drawn_by_path": feed.batches.drawn(config.samples_seen),
        "batch_size": config.batch_size,
        "seed": config.seed,
        "steps": config.steps,
        "peak_lr": config.optim.peak_lr,
        "wall_s": record.wall_s,
        "eval_s": seconds["evaluation"],
        "eval_flops": len({r["step"] for r in record.rows("evals.jsonl")}) * flops_of_evaluation,
        "seconds": seconds,
        "goodput": meter.goodput,
        "samples_per_s": meter.speed,
        "mfu": meter.mfu(meter.speed),
        "device": {"kind": device.device_kind, "platform": device.platform, "count": mesh.size},
        "mesh": dict(mesh.shape),
        "attempts": record.attempt,
        "events": record.events(),
        "versions": _versions(),
        "broken_records": feed.broken_records,
        **record.inputs,
        "error_mean": value.get(("zero_shot_mean", "error")),
        "val_loss": value.get(("validation", "loss")),
        "val_loss_refit": value.get(("validation", "loss_refit")),
        "evals": [{k: v for k, v in r.items() if k not in ("step", "flops")} for r in rows],
    }
