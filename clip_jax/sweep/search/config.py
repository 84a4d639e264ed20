"""Config of a hyperparameter search: the space, how it is searched, and where the runs are trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from clip_jax.config import RunConfig
from clip_jax.config.fields import check_choices, current_path
from clip_jax.config.io import from_dict, set_dotted, to_dict
from clip_jax.config.sweep import EngineName, Resources
from clip_jax.errors import ConfigError, at_least, between
from clip_jax.sweep.search.samplers import Method
from clip_jax.sweep.search.space import Dimension, Setting, grid, parse_space

METRIC_KEYS = {"error_mean": ("zero_shot_mean", "error"), "val_loss_refit": ("validation", "loss_refit")}


@dataclass(frozen=True)
class SearchConfig:
    """Search on one model: each setting is trained with every seed, and the lowest mean of ``metric`` wins."""

    name: str  # of the search and, by default, of its directory
    base: RunConfig = field(default_factory=RunConfig)
    space: tuple[str, ...] = ("optim.peak_lr = log(1e-3, 3e-2, 6)",)  # see `search.space`
    method: Method = "random"  # tpe: tree-structured Parzen estimator (Bergstra et al., 2011)
    trials: int = 16  # settings in all; a grid has its own number
    trials_per_round: int = 4  # tpe: settings proposed at a time
    proposal_seed: int = 0  # random, tpe
    seeds: tuple[int, ...] = (0,)  # runs of a setting; each is added to base.seed
    survivor_fraction: float = (
        1.0  # fraction that continues after each of base.evals.at_fractions; 1 trains all to the end
    )
    metric: Literal["error_mean", "val_loss_refit"] = "error_mean"  # what is minimized: its mean over the seeds
    engine: EngineName | str = "local"  # what runs the jobs; or the name that an installed package adds
    resources: Resources = field(default_factory=Resources)
    max_concurrent_runs: int = 1  # runs at once

    def __post_init__(self) -> None:
        if not self.name or any(c in self.name for c in "/\\ "):
            raise ConfigError(field="name", value=self.name, reason="must be a name without spaces and slashes")
        check_choices(self)
        self.resources.check_for(self.engine)
        if self.base.epochs:
            raise ConfigError(
                field="base.epochs", reason="a search compares runs by their steps", hint="set base.steps"
            )
        for name in ("trials", "trials_per_round", "max_concurrent_runs"):
            at_least(name, getattr(self, name), 1)
        at_least("proposal_seed", self.proposal_seed, 0)
        between("survivor_fraction", self.survivor_fraction, 0.01, 1.0)
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ConfigError(field="seeds", value=self.seeds, reason="must hold at least one value, and none twice")
        if self.survivor_fraction < 1 and not self.base.evals.at_fractions:
            reason = "ignored without base.evals.at_fractions, where runs are compared early"
            raise ConfigError(field="survivor_fraction", reason=reason)
        if self.method != "tpe" and self.trials_per_round != SearchConfig.trials_per_round:
            raise ConfigError(field="trials_per_round", reason=f"ignored with method={self.method!r}")
        if self.method == "grid":
            for name in ("trials", "proposal_seed"):
                if getattr(self, name) != getattr(SearchConfig, name):
                    raise ConfigError(field=name, reason="ignored with method='grid'")
            grid(self.dimensions)
        for dimension in self.dimensions:  # so that a field that does not exist is reported before any run starts
            apply(self.base, {dimension.field: dimension.at(0.5)}, check=dimension.parent == "")

    @property
    def dimensions(self) -> tuple[Dimension, ...]:
        """Search space, parsed."""
        return parse_space(self.space)

    @property
    def stages(self) -> list[int]:
        """Steps at which runs are compared, including the last step."""
        early = (
            {max(1, round(f * self.base.steps)) for f in self.base.evals.at_fractions}
            if self.survivor_fraction < 1
            else set()
        )
        return sorted(early | {self.base.steps})


def apply(base: RunConfig, setting: Setting, *, check: bool = True) -> RunConfig:
    """Return ``base`` with the fields of a setting.

    Raises:
      ConfigError: a field does not exist or, with ``check``, a value does not fit the others.
    """
    values: dict[str, Any] = to_dict(base)
    for dotted, value in setting.items():
        name = current_path(RunConfig, dotted)
        group = values
        for part in name.split("."):
            if not isinstance(group, dict) or part not in group:
                raise ConfigError(source="space", field=name, reason="a run has no such field")
            group = group[part]
        set_dotted(values, name, value)
    return from_dict(RunConfig, values) if check else base
