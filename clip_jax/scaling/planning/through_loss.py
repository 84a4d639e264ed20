"""Forecast an error through a loss: the averaged law gives the loss at a compute, a link the error at that loss.

The link is fitted to all runs, so it rests on many more points than the frontier. What is uncertain about the loss (its
form included) and about the link is carried on: the forecast is the mixture of the link's predictive distributions over
the losses that are forecast. ``benchmarks/through_coverage.py`` simulates its coverage.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from clip_jax.errors import require_columns
from clip_jax.scaling.analysis.averaging import AveragedForecast, Mixture
from clip_jax.scaling.data.observations import picture_scatter
from clip_jax.scaling.data.records import ForecastBands
from clip_jax.scaling.fit.loss import LOG_HUBER
from clip_jax.scaling.fit.result import Fit
from clip_jax.scaling.fit_law import fit_law
from clip_jax.scaling.laws import SigmoidLink, with_ceiling
from clip_jax.scaling.laws.base import Array
from clip_jax.scaling.profile.prediction import Prediction
from clip_jax.scaling.profile.profile_likelihood import prediction_profile
from clip_jax.scaling.profile.statistic import scatter

if TYPE_CHECKING:
    import pandas as pd

LOSSES = 60  # quantiles of the loss of the curve, and of a run, at which the error is added up
PROFILED = 12  # of these, at which the link is profiled; between them the profile is smooth
ROOTS = 40  # of a profile on each side
TAIL = 1e-3  # probability of a loss beyond them, on each side


@dataclass(frozen=True)
class Through:
    """The loss through which an error is forecast: its column, and its value for guessing (None: not known)."""

    loss: str
    chance: float | None = None


def fit_link(rows: pd.DataFrame, metric: str, loss: str, chance: float | None) -> Fit:
    """Fit error(loss), a sigmoid, to all runs.

    Args:
      rows: one per run.
      metric: column of the error.
      loss: column of the loss; rows without it are left out.
      chance: the error of guessing, which the link reaches at a large loss; None: fitted.

    Raises:
      UserError: the table has no such column, or too few rows.
    """
    require_columns(rows, [loss])
    known = rows[np.isfinite(rows[loss]) & (rows[loss] > 0)]
    law, fixed = with_ceiling(SigmoidLink(), chance)
    return fit_law(
        law, {"loss": known[loss].to_numpy(float)}, known[metric].to_numpy(float), loss=LOG_HUBER, fixed=fixed
    )


def forecasts_through(
    losses: AveragedForecast,
    link: Fit,
    targets: Sequence[float],
    *,
    loss_sd: float,
    seeds: int,
    pictures: Sequence[tuple[float, int]] = (),
    name: str = "through the loss",
) -> list[ForecastBands]:
    """Forecast the error of the best size at each compute.

    Args:
      losses: the averaged forecast of the loss.
      link: of `fit_link`.
      targets: the computes, in FLOPs.
      loss_sd: scatter of a run's ln(loss).
      seeds: number of runs that a measured error is the mean of.
      pictures: (error at the largest budget, number of pictures) of each task.
      name: of the forecast, as ``form``.

    Returns:
      The median and the 95 % bands of each, as of `preregistration.preregister_targets`.
    """
    root, run_sd = math.sqrt(seeds), scatter(link)
    last = float(np.mean([p[0] for p in pictures])) if pictures else 1.0
    weights = dict(zip(losses.names, map(float, losses.weights), strict=True))
    bands: list[ForecastBands] = []
    for flops in targets:
        of_curve = losses.curve_at(flops)
        errors = _ErrorsAtLosses(link, of_curve, losses.run_at(flops, loss_sd))
        curve = errors.where(of_curve, 0.0)
        same, new = (picture_scatter(curve.median / last, pictures, same=s) for s in (True, False))
        of_mean, of_run = (losses.run_at(flops, sd) for sd in (loss_sd / root, loss_sd))
        mean, run, mean_new = (
            _ends(errors.where(loss, math.hypot(sd, extra)), loss)
            for loss, sd, extra in (
                (of_mean, run_sd / root, same), (of_run, run_sd, same), (of_mean, run_sd / root, new)
            )
        )  # fmt: skip
        bands.append({
            "form": name, "predicted": curve.median, "curve": _ends(curve, of_curve), "mean": mean, "run": run,
            "mean_new_pictures": mean_new, "picture_sd": {"same": same, "new": new}, "weights": weights, "forms": [],
        })  # fmt: skip
    return bands


class _ErrorsAtLosses:
    """The link's predictive distributions at losses that are dense where those of one target are likely."""

    def __init__(self, link: Fit, curve: Mixture, run: Mixture) -> None:
        likely = (np.arange(LOSSES) + 0.5) / LOSSES
        losses = np.concatenate([d.quantiles(np.concatenate([[TAIL], likely, [1 - TAIL]]))[0] for d in (curve, run)])
        known = link.data.columns["loss"]
        # a side that the data leave open: no further from the runs' losses than ten times
        self.z = np.unique(np.log(np.clip(losses, known.min() / 10, known.max() * 10)))
        knots = np.unique(np.quantile(self.z, np.linspace(0, 1, PROFILED)))
        profiles = [prediction_profile(link, {"loss": float(loss)}) for loss in np.exp(knots)]
        self.predictions = _between(knots, profiles, self.z, link)

    def where(self, losses: Mixture, sd: float) -> Mixture:
        """Return the distribution of the error, scattered by ``sd`` in ln(error), for one of the loss."""
        below = losses.cdf((self.z[1:] + self.z[:-1]) / 2)
        weights = np.diff(below, prepend=0.0, append=1.0)
        used = weights > 0
        predictions = [p.scattered(sd) if sd else p for p, u in zip(self.predictions, used, strict=True) if u]
        names = tuple(f"loss {loss:.4g}" for loss in np.exp(self.z[used]))
        return Mixture(names, weights[used], tuple(predictions))


def _between(knots: Array, profiles: list[Prediction], z: Array, link: Fit) -> list[Prediction]:
    """Return the predictions at each ln(loss) of ``z``, from those at the knots: equal roots are interpolated."""
    from scipy.interpolate import PchipInterpolator

    if not all(len(p.root) for p in profiles):  # the data tell nothing of some losses: nothing of any
        return [replace(profiles[0], z=np.zeros(0), root=np.zeros(0))] * len(z)
    low, high = max(p.root[0] for p in profiles), min(p.root[-1] for p in profiles)
    roots = np.linspace(low, high, 2 * ROOTS + 1)
    positions = PchipInterpolator(knots, np.stack([p.position(roots)[0] for p in profiles]))(z)
    values = link.predict({"loss": np.exp(z)})
    converged = all(p.converged[0] for p in profiles), all(p.converged[1] for p in profiles)
    return [
        replace(profiles[0], value=float(value), z=np.maximum.accumulate(at), root=roots, converged=converged)
        for value, at in zip(values, positions, strict=True)
    ]


def _ends(errors: Mixture, losses: Mixture) -> list[float | None]:
    """Return the ends of the 95 % band; a side on which the data leave the loss open is open."""
    low, high = errors.interval().bounded_ends
    loss = losses.interval()
    return [None if loss.open_low else low, None if loss.open_high else high]
