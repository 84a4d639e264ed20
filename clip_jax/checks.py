"""What a user did wrong, in one line, and the checks that every config shares."""

from __future__ import annotations


class UserError(ValueError):
    """A mistake of the user's: one line that names what was wrong; the command exits with 2.

    Args:
      message: the line; composed from the others where it is empty, as ``FIELD=VALUE: REASON; HINT``.
      field: the option, config field, column or file that is wrong.
      value: what it was given.
      reason: why that cannot be, in a few words.
      hint: what to do instead.
    """

    def __init__(
        self,
        message: str = "",
        *,
        field: str | None = None,
        value: object = None,
        reason: str | None = None,
        hint: str | None = None,
    ) -> None:
        if not message:
            named = field if value is None or field is None else f"{field}={value}"
            message = "; ".join(filter(None, (": ".join(filter(None, (named, reason))), hint)))
        super().__init__(message)  # the only argument, so that pickle and copy find the attributes in __dict__
        self.field, self.value, self.reason, self.hint = field, value, reason, hint


class ConfigError(UserError):
    """A setting that is unknown, out of range, contradictory, or would be ignored."""


def one_of(name: str, value: object, allowed: tuple[object, ...]) -> None:
    """Raises ConfigError unless ``value`` is among ``allowed``."""
    if value not in allowed:
        reason = f"must be one of {', '.join(map(str, allowed))}"
        raise ConfigError(f"{name}={value!r}: {reason}", field=name, value=value, reason=reason)


def at_least(name: str, value: float, low: float) -> None:
    """Raises ConfigError unless ``value`` >= ``low``."""
    if not value >= low:  # written so that NaN fails too
        reason = f"must be at least {low}"
        raise ConfigError(f"{name}={value!r}: {reason}", field=name, value=value, reason=reason)


def between(name: str, value: float, low: float, high: float) -> None:
    """Raises ConfigError unless ``low`` <= ``value`` <= ``high``."""
    if not low <= value <= high:
        reason = f"must lie between {low} and {high}"
        raise ConfigError(f"{name}={value!r}: {reason}", field=name, value=value, reason=reason)


def one_line(text: str, longest: int = 120) -> str:
    """What stands in a file, fit for a message: line breaks and other control characters escaped, a long text cut."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[: longest + 1])
    return shown if len(shown) <= longest else f"{shown[:longest]}…"
