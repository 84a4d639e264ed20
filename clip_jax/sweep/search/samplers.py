"""What a search tries next: a function of its config and of what was found so far, so that no state is kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from clip_jax.errors import UserError
from clip_jax.sweep.search.space import Dimension, Setting, chain, grid, randoms

METHODS = ("grid", "random", "tpe")
STARTUP = 8  # settings by chance before TPE has something to go on

Told = tuple[Setting, float | None]  # None: it failed


def propose(
    space: Sequence[Dimension], method: str, trials: int, seed: int, together: int, told: Sequence[Told]
) -> list[Setting]:
    """The next settings, none when the search is over.

    ``grid`` and ``random`` are asked once and answer with all. ``tpe`` (Bergstra et al., 2011, by Optuna) begins with
    settings by chance and goes on ``together`` at a time. The first element of ``told`` is what was proposed first.

    Raises UserError without Optuna.
    """
    if method in ("grid", "random"):
        everything = grid(space) if method == "grid" else chain([randoms(space, trials, seed)])
        return [] if told else everything
    left = trials - len(told)
    if not told:
        return randoms(space, min(STARTUP, trials), seed)
    return _by_tpe(space, seed, min(together, left), told) if left > 0 else []


def _by_tpe(space: Sequence[Dimension], seed: int, count: int, told: Sequence[Told]) -> list[Setting]:
    try:
        import optuna
    except ImportError:
        raise UserError("method='tpe': needs Optuna: pip install 'clip-jax-scaling[search]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=seed + len(told), n_startup_trials=0, constant_liar=True)
    study = optuna.create_study(sampler=sampler)
    worst = max((v for _, v in told if v is not None and math.isfinite(v)), default=1.0)
    for setting, value in told:
        dimensions = [d for d in space if d.field in setting]
        study.add_trial(
            optuna.trial.create_trial(
                params={d.field: _inside(d, setting[d.field]) for d in dimensions},
                distributions={d.field: _distribution(optuna, d) for d in dimensions},
                value=worst * 1.1 if value is None or not math.isfinite(value) else value,
            )
        )
    return [_ask(study, space) for _ in range(count)]


def _ask(study: Any, space: Sequence[Dimension]) -> Setting:
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


def _inside(d: Dimension, value: Any) -> Any:
    """Rounding to four digits may leave the range by a hair."""
    return value if d.kind == "choice" else min(max(value, d.low), d.high)


def _distribution(optuna: Any, d: Dimension) -> Any:
    if d.kind == "choice":
        return optuna.distributions.CategoricalDistribution(d.values)
    if d.kind == "integer":
        return optuna.distributions.IntDistribution(int(d.low), int(d.high))
    return optuna.distributions.FloatDistribution(d.low, d.high, log=d.kind == "log")


def survivors(values: Sequence[float | None], keep: float) -> list[int]:
    """Successive halving (Jamieson & Talwalkar, 2016): the places of the best share ``keep``, at least one of those
    that did not fail, in their order."""
    alive = [i for i, v in enumerate(values) if v is not None and math.isfinite(v)]
    count = max(1, math.ceil(keep * len(values)))
    return sorted(sorted(alive, key=lambda i: (values[i], i))[:count])
