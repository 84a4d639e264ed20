"""What a caller of `clip_jax.train_run` adds to a run: a loss, evaluators, callbacks. Imports no jax."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clip_jax.config import LossConfig, RunConfig
from clip_jax.config.run import LOSSES
from clip_jax.errors import UserError
from clip_jax.storage.records import ExtensionRecord

if TYPE_CHECKING:
    from clip_jax.losses.pairs import PairLoss

EXTENSIONS = "extensions"  # field of status.json and result.json

Callback = Callable[[int, Mapping[str, float]], object]  # (step, metrics) -> ignored


@dataclass(frozen=True)
class Extensions:
    """A loss instead of the config's, the names of added evaluators, and callbacks."""

    loss: PairLoss | None = None
    evaluators: tuple[str, ...] = ()
    callbacks: tuple[Callback, ...] = ()

    def __post_init__(self) -> None:
        for name, functions in (("loss", (self.loss,) if self.loss is not None else ()), ("callbacks", self.callbacks)):
            for function in functions:
                if not callable(function):
                    raise UserError(field=name, value=repr(function), reason="must be a function")

    def check(self, config: RunConfig) -> None:
        """Check that the run uses the loss; raise UserError otherwise."""
        if self.loss is None:
            return
        if config.model.objective != "contrastive":
            reason = f"model.objective={config.model.objective!r} has no pair loss that it could replace"
            raise UserError(field="loss", value=function_name(self.loss), reason=reason)
        loss, default = config.loss, LossConfig()
        for field, value, used in (
            ("name", loss.name, loss.name in LOSSES),  # sigmoid goes with model.logit_bias
            ("implementation", loss.implementation, loss.implementation == default.implementation),
            ("chunk_size", loss.chunk_size, loss.chunk_size == default.chunk_size),
        ):
            if not used:
                reason = "would be ignored, as a loss is passed to train_run"
                raise UserError(field=f"loss.{field}", value=value, reason=reason)

    def records(self) -> ExtensionRecord | None:
        """Return what the run's records say of it: the names of the loss and the evaluators; None without both."""
        if self.loss is None and not self.evaluators:
            return None
        loss = None if self.loss is None else function_name(self.loss)
        return {"loss": loss, "evaluators": sorted(self.evaluators)}

    def pair_loss(self) -> PairLoss | None:
        """Return the loss with a check, when it is compiled, that its value is one float; None without a loss."""
        if self.loss is None:
            return None
        from clip_jax.losses.pairs import checked_loss

        return checked_loss(self.loss, "loss", function_name(self.loss))


def function_name(function: Callable[..., object]) -> str:
    """Return ``module.name`` of a function, or of the class of an object that is called."""
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"


NONE = Extensions()
