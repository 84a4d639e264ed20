"""Samplers of a search: the next settings as a function of config and results, so that no state is kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from clip_jax.errors import UserError
from clip_jax.sweep.search.space import Dimension, Setting, grid, sample_random, unique

if TYPE_CHECKING:
    import optuna

RANDOM_STARTS = 8  # random settings before TPE begins

Method = Literal["grid", "random", "tpe"]
Observation = tuple[Setting, float | None]  # the value is None if the setting failed


def propose(
    space: Sequence[Dimension],
    method: Method,
    trials: int,
    seed: int,
    batch_size: int,
    observations: Sequence[Observation],
) -> list[Setting]:
    """Return the next settings; an empty list ends the search.

    ``grid`` and ``random`` propose all settings in the first call. ``tpe`` (Bergstra et al., 2011, by Optuna) begins
    with random settings and then proposes ``batch_size`` at a time.

    Args:
      space: the dimensions.
      method: how, as above.
      trials: settings in all.
      seed: of the random settings and of TPE.
      batch_size: settings per proposal of TPE.
      observations: settings proposed so far with their values, oldest first.

    Raises:
      UserError: Optuna is not installed.
    """
    if method in ("grid", "random"):
        everything = grid(space) if method == "grid" else unique([sample_random(space, trials, seed)])
        return [] if observations else everything
    left = trials - len(observations)
    if not observations:
        return sample_random(space, min(RANDOM_STARTS, trials), seed)
    return _by_tpe(space, seed, min(batch_size, left), observations) if left > 0 else []


def _by_tpe(space: Sequence[Dimension], seed: int, count: int, observations: Sequence[Observation]) -> list[Setting]:
    try:
        import optuna
    except ImportError:
        hint = "pip install 'clip-jax-scaling[search]'"
        raise UserError(field="method", value="tpe", reason="needs Optuna", hint=hint) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=seed + len(observations), n_startup_trials=0, constant_liar=True)
    study = optuna.create_study(sampler=sampler)
    worst = max((v for _, v in observations if v is not None and math.isfinite(v)), default=1.0)
    for setting, value in observations:
        dimensions = [d for d in space if d.field in setting]
        study.add_trial(
            optuna.trial.create_trial(
                params={d.field: _clip(d, setting[d.field]) for d in dimensions},
                distributions={d.field: _distribution(optuna, d) for d in dimensions},
                value=worst * 1.1 if value is None or not math.isfinite(value) else value,
            )
        )
    return [_suggest(study, space) for _ in range(count)]


def _suggest(study: optuna.Study, space: Sequence[Dimension]) -> Setting:
    trial, setting = study.ask(), Setting()
    for d in space:
        if not d.exists(setting):
            continue
        if d.kind == "choice":
            setting[d.field] = trial.suggest_categorical(d.field, d.values)
        elif d.kind == "integer":
            setting[d.field] = trial.suggest_int(d.field, int(d.low), int(d.high))
        else:
            setting[d.field] = float(f"{trial.suggest_float(d.field, d.low, d.high, log=d.kind == 'log'):.4g}")
    return setting


def _clip(d: Dimension, value: Any) -> Any:
    """Clip a value to its range, which rounding to four digits may leave."""
    return value if d.kind == "choice" else min(max(value, d.low), d.high)


def _distribution(optuna: Any, d: Dimension) -> Any:
    if d.kind == "choice":
        return optuna.distributions.CategoricalDistribution(d.values)
    if d.kind == "integer":
        return optuna.distributions.IntDistribution(int(d.low), int(d.high))
    return optuna.distributions.FloatDistribution(d.low, d.high, log=d.kind == "log")


def survivors(values: Sequence[float | None], keep: float) -> list[int]:
    """Return the indices of the best fraction ``keep`` in their order (successive halving, Jamieson & Talwalkar, 2016).

    At least one survives of those that did not fail.
    """
    alive = [i for i, v in enumerate(values) if v is not None and math.isfinite(v)]
    count = max(1, math.ceil(keep * len(values)))
    return sorted(sorted(alive, key=lambda i: (values[i], i))[:count])
