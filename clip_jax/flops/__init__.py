"""Parameter and FLOP counts in closed form, and specifications of devices. Loads no jax."""

from clip_jax.flops.model import (
    FlopCounts,
    ParamCounts,
    TrainingFlops,
    Work,
    caption_flops,
    flops_per_sample,
    jaxpr_flops,
    jaxpr_work,
    params,
    training_flops,
)

__all__ = [
    "FlopCounts",
    "ParamCounts",
    "TrainingFlops",
    "Work",
    "caption_flops",
    "flops_per_sample",
    "jaxpr_flops",
    "jaxpr_work",
    "params",
    "training_flops",
]
