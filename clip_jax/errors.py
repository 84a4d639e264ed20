"""Exceptions for user mistakes (one line each), and the validators that configs and files from outside share."""

from __future__ import annotations

import contextlib
import copy
import difflib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import PurePath, PurePosixPath
from typing import Any, Self

LONGEST_NAME = 200  # characters; file systems allow 255 bytes, and suffixes are added
# Matches the user info of user:password@host and the values of the query parameters that sign a URL. It also matches a
# URL that was parsed as a path, where only one slash is left.
_SECRETS = re.compile(
    r"(?P<userinfo>(?:(?<=://)|(?<=:/))[^/@\s?#]+(?=@))"
    r"|(?P<parameter>(?<=[?&])(?:x-amz-(?:signature|credential|security-token)|x-goog-(?:signature|credential)"
    r"|awsaccesskeyid|signature|sig|token|access_token|auth|api_?key|key|password|secret)=)(?:(?!: )[^&#\s'\"])+",
    re.IGNORECASE,
)


def mask_secrets(text: str) -> str:
    """Replace user names, passwords and signatures in the URLs of ``text`` by ``***``."""
    return _SECRETS.sub(lambda match: (match["parameter"] or "") + "***", text) if ":/" in text else text


def one_line(text: str, longest: int | None = 120) -> str:
    """Return ``text`` as one printable line for a message.

    Line breaks and other unprintable characters are escaped. A text longer than ``longest`` characters is cut in the
    middle; None sets no limit.
    """
    if longest is not None and len(text) > longest:
        text = f"{text[: longest // 2]}…{text[-longest // 4 :]}"
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def short(value: object) -> str:
    """Return ``repr(value)`` as one printable line (`one_line`)."""
    try:
        return one_line(repr(value))
    except ValueError:  # a whole number of thousands of digits has no decimal form
        return f"a {type(value).__name__} of more than 4,300 digits"


def _assignment(field: str, value: object) -> str:
    """Return ``FIELD=VALUE`` for a message. A path, and the value of a command-line option, stand without quotes."""
    if isinstance(value, PurePath) or (isinstance(value, str) and field.startswith("--")):
        return f"{field}={one_line(str(value))}"
    return f"{field}={short(value)}"


class UserError(ValueError):
    """A user mistake, described in one line; commands print the line and exit with code 2.

    The line is ``SOURCE: FIELD=VALUE: REASON; HINT``; parts that are not given are left out.

    Args:
      message: a line in place of the composed one.
      field: the option, config field, column or file that is wrong.
      value: the value that was rejected. None is a value; ``...`` stands for no value.
      reason: why it was rejected, in a few words; for a value, what is allowed.
      hint: what to do.
      source: the file or record in which the field stands, where the field alone does not tell.
    """

    def __init__(
        self,
        message: str = "",
        *,
        field: object = None,
        value: object = ...,
        reason: str | None = None,
        hint: str | None = None,
        source: object = None,
    ) -> None:
        self.source, self.field = (None if name is None else str(name) for name in (source, field))
        self.reason, self.hint = reason, hint
        if not message:
            named = self.field if value is ... or self.field is None else _assignment(self.field, value)
            message = "; ".join(filter(None, (": ".join(filter(None, (self.source, named, reason))), hint)))
        message = one_line(mask_secrets(message), None)  # a name in it may hold any character
        super().__init__(message)  # the only argument, so that pickle and copy find the attributes in __dict__
        self.value = None if value is ... else mask_secrets(value) if isinstance(value, str) else value

    def at(self, source: object) -> Self:
        """Return the same error with the place where it was found.

        Args:
          source: a file, or a record of a file.
        """
        error = copy.copy(self)
        error.args = (one_line(mask_secrets(f"{source}: {self}"), None),)
        error.source = str(source) if self.source is None else f"{source}: {self.source}"
        return error


class ConfigError(UserError):
    """A setting that is unknown, out of range, contradictory, or would be ignored."""


def closest(name: object, known: Iterable[object], count: int = 1) -> list[str]:
    """Return up to ``count`` entries of ``known`` that are spelled most like ``name``, best first.

    Case is ignored. Of a dotted entry the last part may match alone, and one word of it: ``lr`` is like
    ``optim.peak_lr``. Four letters or more may be the beginning alone: ``zero_shot`` is like ``zeroshot_retrieval``.
    """
    spelled = str(name)[:LONGEST_NAME].lower()

    def likeness(entry: str) -> float:
        whole = entry.lower()
        last = whole.rpartition(".")[2]
        ratios = [difflib.SequenceMatcher(None, spelled, text).ratio() for text in {whole, last}]
        begins = len(_letters(spelled)) >= 4 and _letters(whole).startswith(_letters(spelled))
        return max(*ratios, 0.8 * (spelled in last.split("_")), 0.8 * begins)

    scores = {entry: likeness(entry) for entry in map(str, known)}
    return sorted((entry for entry in scores if scores[entry] >= 0.6), key=lambda entry: -scores[entry])[:count]


def _letters(text: str) -> str:
    return "".join(filter(str.isalnum, text))


def did_you_mean(name: object, known: Iterable[object]) -> str | None:
    """Return a hint with the entry of ``known`` that is spelled most like ``name``; None if there is none like it."""
    near = closest(name, known)
    return f"did you mean {near[0]}?" if near else None


def one_of(name: str, value: object, allowed: Iterable[object], source: object = None) -> None:
    """Check that ``value`` is among ``allowed``; raise ConfigError otherwise, with ``source`` where one is given."""
    allowed = tuple(allowed)
    if value not in allowed:
        reason = f"must be one of {', '.join(map(str, allowed))}"
        raise ConfigError(source=source, field=name, value=value, reason=reason, hint=did_you_mean(value, allowed))


def at_least(name: str, value: float, low: float) -> None:
    """Check that ``value`` >= ``low``; raise ConfigError otherwise."""
    if not value >= low:  # written so that NaN fails too
        raise ConfigError(field=name, value=value, reason=f"must be at least {low}")


def between(name: str, value: float, low: float, high: float) -> None:
    """Check that ``low`` <= ``value`` <= ``high``; raise ConfigError otherwise."""
    if not low <= value <= high:
        raise ConfigError(field=name, value=value, reason=f"must lie between {low} and {high}")


def require_columns(
    present: Iterable[object], needed: Iterable[str], *, option: str | None = None, source: object = None
) -> None:
    """Check that a table has its ``needed`` columns.

    Args:
      present: names of the table's columns.
      needed: names of those that must be there.
      option: the command-line option that names the column, where one does.
      source: the table, where the field alone does not tell.

    Raises:
      UserError: columns are missing; the hint lists those of the table.
    """
    names = list(map(str, present))
    if missing := [name for name in needed if name not in names]:
        field, value = (option, missing[0]) if option else (", ".join(missing), ...)
        hint = f"the columns are {', '.join(names)}"
        raise UserError(source=source, field=field, value=value, reason="no such column in the table", hint=hint)


def no_secret(name: str, value: str) -> None:
    """Check that a path or URL holds no password or signature; raise ConfigError otherwise.

    Configs are copied into run records and experiment trackers, which other people read. Credentials belong in the
    object store's own files or environment variables.
    """
    if mask_secrets(value) != value:
        reason = "contains a password or a signature, which would be copied into the run's records"
        hint = "keep credentials in the store's own files or environment variables, or copy the data"
        raise ConfigError(field=name, value=mask_secrets(value), reason=reason, hint=hint)


def parse_json(text: str | bytes, source: object) -> Any:
    """Parse JSON that comes from outside the program.

    Args:
      text: the JSON text; bytes are decoded as UTF-8. A leading byte order mark is skipped.
      source: the file, as named in the error message.

    Raises:
      UserError: the text is not JSON, is not UTF-8, is nested too deeply, or holds a number of more than 4,300 digits
        or a lone surrogate.
    """
    try:
        value = json.loads(text.removeprefix("\ufeff") if isinstance(text, str) else text)
        if (b"\\u" if isinstance(text, bytes) else "\\u") in text:  # type: ignore[operator]
            json.dumps(value, ensure_ascii=False).encode()  # fails for a lone surrogate, which no file can hold
        return value
    except RecursionError:
        reason = "nested too deep"
    except ValueError as error:
        reason = str(error).splitlines()[0]
    raise UserError(field=source, reason=f"not JSON ({reason})") from None


@contextlib.contextmanager
def foreign(source: object, what: str) -> Iterator[None]:
    """Convert exceptions that a reader raises on malformed content into a one-line UserError.

    Args:
      source: the file, as named in the message.
      what: the expected content, such as ``"a config of open_clip"``; the message says "not WHAT".

    Raises:
      UserError: instead of any exception other than UserError, FileNotFoundError and MemoryError. A panic in a Rust
        library, which does not derive from Exception, is converted too.
    """
    try:
        yield
    except (UserError, MemoryError, FileNotFoundError):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        lines = mask_secrets(str(error)).splitlines()
        reason = f"not {what} ({type(error).__name__}{': ' + lines[0][:200] if lines else ''})"
        raise UserError(field=source, reason=reason) from error


def name_within(field: str, name: object, *, folders: bool = False, allowed: str = "") -> str:
    """Return a file name from an outside source after checking that it cannot leave the folder it belongs to.

    Args:
      field: the field that holds the name, for the error message.
      name: the name, as a suite, package or table gave it.
      folders: whether subfolders are allowed, as in ``a/b.jpg``.
      allowed: a regular expression that the whole name must also match.

    Raises:
      UserError: the name is not a string, is empty, absolute or too long, leads upwards, contains a control character
        or a backslash, or does not match ``allowed``.
    """
    reason = ""
    if not isinstance(name, str):
        reason = "must be a string"
    elif not name or name in (".", "..") or any(ord(c) < 32 or c == "\\" for c in name):
        reason = "is not a file name"
    elif len(name) > (LONGEST_NAME if not folders else 4 * LONGEST_NAME):
        reason = "is too long for a file name"
    elif name.startswith("/") or ".." in PurePosixPath(name).parts:
        reason = "leads out of its folder"
    elif "/" in name and not folders:
        reason = "must be a plain file name"
    elif allowed and not re.fullmatch(allowed, name):
        reason = f"must match {allowed}"
    if reason:
        raise UserError(field=field, value=name, reason=reason)
    assert isinstance(name, str)
    return name
