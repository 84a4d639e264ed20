"""What a user did wrong, in one line, and the checks that every config shares."""

from __future__ import annotations


class UserError(ValueError):
    """A mistake of the user's: one line that names what was wrong; the command exits with 2."""


class ConfigError(UserError):
    """A setting that is unknown, out of range, contradictory, or would be ignored."""


def one_of(name: str, value: object, allowed: tuple[object, ...]) -> None:
    """Raises ConfigError unless ``value`` is among ``allowed``."""
    if value not in allowed:
        raise ConfigError(f"{name}={value!r}: must be one of {', '.join(map(str, allowed))}")


def at_least(name: str, value: float, low: float) -> None:
    """Raises ConfigError unless ``value`` >= ``low``."""
    if not value >= low:  # written so that NaN fails too
        raise ConfigError(f"{name}={value!r}: must be at least {low}")


def between(name: str, value: float, low: float, high: float) -> None:
    """Raises ConfigError unless ``low`` <= ``value`` <= ``high``."""
    if not low <= value <= high:
        raise ConfigError(f"{name}={value!r}: must lie between {low} and {high}")
