"""Link laws from a loss to the error of a downstream task: laws of one column, ``loss``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType

import numpy as np

from clip_jax.scaling.laws.base import Array, Law, Logs, Parameter, Values


@dataclass(frozen=True)
class ExponentialLink(Law):
    """An exponential link, error = top - k·e^(-gamma·loss) (Gadre et al., 2024)."""

    key, name = "link-exponential", "exponential link"
    columns = ("loss",)
    parameters = (
        Parameter("top", "error at a large loss", 0.0, 2.0, of_y=True),
        Parameter("k", "what a loss of 0 would remove", 1e-12, 1e12, log=True),
        Parameter("gamma", "how fast the error leaves the top", 1e-3, 1e3, log=True, carries=(("loss", -1.0),)),
    )
    offset = above = "top"
    amplitudes = ("k",)
    exponent_name = "gamma"
    template = "{top} - {k}·e^(-{gamma}·loss)"
    latex_template = r"<top> - <k>\,e^{-<gamma> L}"

    def curve(self, p: Values, x: Values, xp: ModuleType) -> Array:
        """Return top - k·e^(-gamma·loss)."""
        return p["top"] - p["k"] * xp.exp(-p["gamma"] * xp.exp(x["loss"]))

    def grid(self, x: Logs, y: Array) -> list[list[float]]:
        """Return tops above the highest error, with factors and rates."""
        tops = [float(np.max(y)) * s for s in (1.0, 1.02, 1.1, 1.3)]
        return [tops, np.geomspace(0.01, 300, 30).tolist(), np.geomspace(0.3, 20, 20).tolist()]

    def inverse(self, values: Values, y: Array) -> Array:
        """Return loss = ln(k / (top - y)) / gamma; infinite at or above the top."""
        below = values["top"] - np.asarray(y, float)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(below > 0, np.log(values["k"] / below) / values["gamma"], np.inf)


@dataclass(frozen=True)
class SigmoidLink(Law):
    """A sigmoid link, error = low + (top - low) / (1 + e^(-k·(loss/middle - 1))): steepest at ``middle``."""

    key, name = "link-sigmoid", "sigmoid link"
    columns = ("loss",)
    parameters = (
        Parameter("low", "error at a small loss", 0.0, 1.0, of_y=True),
        Parameter("top", "error at a large loss", 0.0, 2.0, of_y=True),
        Parameter("k", "steepness", 1e-2, 1e3, log=True),
        Parameter("middle", "loss halfway", 1e-2, 1e2, log=True, carries=(("loss", 1.0),)),
    )
    below, above = "low", "top"
    replaced = "middle"
    exponent_name = "k"
    template = "{low} + ({top} - {low})/(1 + e^(-{k}·(loss/{middle} - 1)))"
    latex_template = r"<low> + \frac{<top> - <low>}{1 + e^{-<k>(L/<middle> - 1)}}"

    def curve(self, p: Values, x: Values, xp: ModuleType) -> Array:
        """Return low + (top - low) / (1 + e^(-k·(loss/middle - 1)))."""
        away = xp.clip(p["k"] * (xp.exp(x["loss"]) / p["middle"] - 1), -60, 60)
        return p["low"] + (p["top"] - p["low"]) / (1 + xp.exp(-away))

    def through(self, p: Mapping[str, Array], at: Values, y: Array, xp: ModuleType) -> dict[str, Array]:
        """Replace middle: loss/middle = 1 + ln((y - low)/(top - y))/k, which must lie above 0."""
        share = 1 + xp.log((y - p["low"]) / (p["top"] - y)) / p["k"]
        return {**p, "middle": xp.exp(at["loss"]) / xp.where(share > 0, share, xp.nan)}

    def grid(self, x: Logs, y: Array) -> list[list[float]]:
        """Return middles inside and around the data, with lows, tops and slopes."""
        lows, tops = [0.0, float(np.min(y)) * 0.8], [float(np.max(y)) * s for s in (1.01, 1.1, 1.4)]
        span = np.exp(np.linspace(x["loss"].min() - 0.3, x["loss"].max() + 0.3, 12)).tolist()
        return [lows, tops, np.geomspace(0.5, 60, 12).tolist(), span]

    def inverse(self, values: Values, y: Array) -> Array:
        """Return loss = middle·(1 + ln((y - low)/(top - y))/k); infinite at or above the top."""
        y = np.asarray(y, float)
        with np.errstate(divide="ignore", invalid="ignore"):
            logit = np.log((y - values["low"]) / (values["top"] - y))
        return np.where(y < values["top"], values["middle"] * (1 + logit / values["k"]), np.inf)
