"""What a user did wrong, in one line; and the checks that configs and foreign files share."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

LONGEST_NAME = 200  # characters; file systems allow 255 bytes, and suffixes are added
# the password of user:password@host, and the values of parameters by which signed URLs are known; also of a URL that
# was read as a path, which leaves one slash
_SECRETS = re.compile(
    r"(?P<userinfo>(?:(?<=://)|(?<=:/))[^/@\s?#]+(?=@))"
    r"|(?P<parameter>(?<=[?&])(?:x-amz-(?:signature|credential|security-token)|x-goog-(?:signature|credential)"
    r"|awsaccesskeyid|signature|sig|token|access_token|auth|api_?key|key|password|secret)=)(?:(?!: )[^&#\s'\"])+",
    re.IGNORECASE,
)


def mask_secrets(text: str) -> str:
    """Replace user names, passwords and signatures in the URLs of a text by ``***``."""
    return _SECRETS.sub(lambda found: (found["parameter"] or "") + "***", text) if ":/" in text else text


def one_line(text: str, longest: int | None = 120) -> str:
    """Return a text of others fit for a message: line breaks and other characters that cannot be printed escaped, a
    text longer than ``longest`` characters cut in the middle."""
    if longest is not None and len(text) > longest:
        text = f"{text[: longest // 2]}…{text[-longest // 4 :]}"
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def short(value: object) -> str:
    """Return ``repr(value)`` as `one_line` does a text."""
    try:
        return one_line(repr(value))
    except ValueError:  # a whole number of thousands of digits has no decimal form
        return f"a {type(value).__name__} of more than 4,300 digits"


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
        message = one_line(mask_secrets(message), None)  # a name in it may hold any character
        super().__init__(message)  # the only argument, so that pickle and copy find the attributes in __dict__
        self.field, self.reason, self.hint = field, reason, hint
        self.value = mask_secrets(value) if isinstance(value, str) else value


class ConfigError(UserError):
    """A setting that is unknown, out of range, contradictory, or would be ignored."""


def one_of(name: str, value: object, allowed: tuple[object, ...]) -> None:
    """Raises ConfigError unless ``value`` is among ``allowed``."""
    if value not in allowed:
        reason = f"must be one of {', '.join(map(str, allowed))}"
        raise ConfigError(f"{name}={short(value)}: {reason}", field=name, value=value, reason=reason)


def at_least(name: str, value: float, low: float) -> None:
    """Raises ConfigError unless ``value`` >= ``low``."""
    if not value >= low:  # written so that NaN fails too
        reason = f"must be at least {low}"
        raise ConfigError(f"{name}={short(value)}: {reason}", field=name, value=value, reason=reason)


def between(name: str, value: float, low: float, high: float) -> None:
    """Raises ConfigError unless ``low`` <= ``value`` <= ``high``."""
    if not low <= value <= high:
        reason = f"must lie between {low} and {high}"
        raise ConfigError(f"{name}={short(value)}: {reason}", field=name, value=value, reason=reason)


def no_secret(name: str, value: str) -> None:
    """Raises ConfigError where a path or URL holds a password or a signature.

    Configs are written to records and mirrors, which others read; credentials belong into the store's own files or
    environment variables.
    """
    if mask_secrets(value) != value:
        reason = "holds a password or a signature, which would stand in the run's records"
        hint = "let the store find its credentials in its own files or variables, or copy the data"
        raise ConfigError(field=name, value=mask_secrets(value), reason=reason, hint=hint)


def parse_json(text: str | bytes, source: object) -> Any:
    """Parse JSON from outside.

    Args:
      text: JSON; bytes are UTF-8. A byte order mark in front is passed over.
      source: names the file in the message.

    Raises:
      UserError: it is not JSON, not UTF-8, nested too deep to read, or holds a number of more than 4,300 digits or half
        of a character.
    """
    try:
        value = json.loads(text.removeprefix("\ufeff") if isinstance(text, str) else text)
        if (b"\\u" if isinstance(text, bytes) else "\\u") in text:  # type: ignore[operator]
            json.dumps(value, ensure_ascii=False).encode()  # half a character of two cannot be written to any file
        return value
    except RecursionError:
        reason = "nested too deep"
    except ValueError as error:
        reason = str(error).splitlines()[0]
    reason = f"not JSON ({reason})"
    raise UserError(f"{source}: {reason}", field=str(source), reason=reason) from None


@contextlib.contextmanager
def foreign(source: object, what: str) -> Iterator[None]:
    """Turn whatever content of others makes a reader raise into one line.

    Args:
      source: the file, for the message.
      what: what the file is no such thing of, as ``"a config of open_clip"``.

    Raises:
      UserError: in place of any exception but a UserError, a missing file or a lack of memory; in place of a panic of
        a library in Rust too, which is none of Python's own exceptions.
    """
    try:
        yield
    except (UserError, MemoryError, FileNotFoundError):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        said = mask_secrets(str(error)).splitlines()
        reason = f"not {what} ({type(error).__name__}{': ' + said[0][:200] if said else ''})"
        raise UserError(f"{source}: {reason}", field=str(source), reason=reason) from error


def name_within(field: str, name: object, *, folders: bool = False, allowed: str = "") -> str:
    """Return a file name that a suite, a package or a table gave, if it stays inside the folder it belongs to.

    Args:
      field: names the place it was found in.
      name: the name.
      folders: whether it may lie in folders below, as ``a/b.jpg``.
      allowed: a regular expression that the whole name must match besides.

    Raises:
      UserError: it is empty, absolute, leads upwards, holds a control character or a backslash, is too long, does not
        match, or is no text.
    """
    reason = ""
    if not isinstance(name, str):
        reason = "must be a text"
    elif not name or name in (".", "..") or any(ord(c) < 32 or c == "\\" for c in name):
        reason = "is no file name"
    elif len(name) > (LONGEST_NAME if not folders else 4 * LONGEST_NAME):
        reason = "is too long for a file name"
    elif name.startswith("/") or ".." in PurePosixPath(name).parts:
        reason = "leads out of its folder"
    elif "/" in name and not folders:
        reason = "must be a plain file name"
    elif allowed and not re.fullmatch(allowed, name):
        reason = f"must match {allowed}"
    if reason:
        raise UserError(f"{field}={short(name)}: {reason}", field=field, value=name, reason=reason)
    assert isinstance(name, str)
    return name
