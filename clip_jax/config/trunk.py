"""Trunks: runs at a constant learning rate, from which runs of several lengths take their first steps.

Up to its learning-rate decay, a run with ``optim.schedule=wsd`` does not depend on its length. Importing this module
loads neither jax nor numpy.
"""

from __future__ import annotations

import dataclasses

from clip_jax.config.run import RunConfig

TRUNK_STEPS = 10**9  # so many that the decay is never reached; a trunk is trained up to the last branch taken from it


def trunk_config(config: RunConfig) -> RunConfig:
    """Return the trunk of a run: the same for every number of steps, and without evaluations.

    Args:
      config: the run, with ``optim.schedule=wsd``.
    """
    return dataclasses.replace(config, steps=TRUNK_STEPS, evals=dataclasses.replace(config.evals, at_fractions=()))


def branch_step(config: RunConfig) -> int:
    """Return the last step at which a run can branch off its trunk; 0 if there is none.

    It is a multiple of ``checkpoint_every``, before the decay and before the first evaluation.

    Args:
      config: the run.
    """
    optim, steps = config.optim, config.steps
    if optim.schedule != "wsd" or optim.warmup_of(steps) != optim.warmup_of(TRUNK_STEPS):
        return 0
    first_evaluation = min((round(f * steps) for f in config.evals.at_fractions), default=steps)
    last = min(int((1 - optim.lr_decay_fraction) * steps), first_evaluation - 1)
    return max(0, last // config.checkpoint_every * config.checkpoint_every)
