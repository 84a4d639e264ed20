"""Laws, losses, sources, evaluators and engines that installed packages add by entry points.

A package names them in its ``pyproject.toml``:

    [project.entry-points."clip_jax.losses"]
    hinge = "my_package.losses:hinge"

Entry points are looked up only for a name that is not one of this package's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Literal, cast

from clip_jax.errors import ConfigError, UserError, did_you_mean

Kind = Literal["laws", "losses", "sources", "evaluators", "engines"]


def added(kind: Kind) -> dict[str, EntryPoint]:
    """Return what installed packages add of a kind, by name."""
    return {point.name: point for point in entry_points(group=f"clip_jax.{kind}")}


def check_name(field: str, name: object, kind: Kind, builtin: Sequence[str] = ()) -> None:
    """Check that a name is one of ``builtin`` or of an installed package; raise ConfigError otherwise."""
    if name in builtin or name in (others := sorted(added(kind))):
        return
    reason = f"must be one of {', '.join((*builtin, *others))}" if builtin or others else "there is none of that name"
    near = did_you_mean(name, (*builtin, *others))
    hint = near or f"an installed package adds names by entry points of the group clip_jax.{kind}"
    raise ConfigError(field=field, value=name, reason=reason, hint=hint)


def load(field: str, name: str, kind: Kind) -> Callable[..., object]:
    """Return the function or class of an entry point; whether it can be called is for the caller to check.

    Args:
      field: the setting that holds the name, for error messages.
      name: the entry point.
      kind: its group, without ``clip_jax.``.

    Raises:
      UserError: there is no such entry point, or its module or object cannot be imported.
    """
    check_name(field, name, kind)
    point = added(kind)[name]
    try:
        return cast(Callable[..., object], point.load())
    except Exception as error:
        lines = str(error).splitlines() or [""]
        reason = f"{point.value} of the package {point.dist.name if point.dist else '?'} cannot be imported"
        hint = f"{type(error).__name__}: {lines[0]}"
        raise UserError(field=field, value=name, reason=reason, hint=hint) from error
