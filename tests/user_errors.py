"""Checks of a UserError by its attributes, so that a test does not depend on the wording."""

import contextlib
import re
from pathlib import PurePath

import pytest

from clip_jax.errors import UserError


@contextlib.contextmanager
def raises_user_error(kind=UserError, **expected):
    """Check that the body raises a ``kind`` with these attributes; yield pytest's ExceptionInfo.

    Args:
      kind: UserError or a class derived from it.
      expected: ``field``, ``value``, ``source``, ``reason`` and ``hint``. ``field``, ``source`` and ``value`` must be
        equal (a path is compared as text); a compiled pattern must be found. A text for ``reason`` or ``hint`` is a
        part of it: a name or a number there, or a word that tells the error from others of the same field.
    """
    with pytest.raises(kind) as caught:
        yield caught
    check_user_error(caught.value, **expected)


def check_user_error(error, **expected):
    """Check the attributes of an error: see `raises_user_error`."""
    assert "\n" not in str(error)
    for name, wanted in expected.items():
        actual = getattr(error, name)
        if isinstance(wanted, re.Pattern):
            agrees = wanted.search(str(actual))
        elif name in ("reason", "hint"):
            agrees = wanted in (actual or "")
        else:
            agrees = actual == (str(wanted) if isinstance(wanted, PurePath) and name != "value" else wanted)
        assert agrees, f"{name} is {actual!r}, not {wanted!r}, of the error: {error}"


def error_fields(output):
    """Return what each error line that a command printed names first, such as ``--top`` or ``data.paths``."""
    lines = [line.removeprefix("clip-jax: ") for line in output.splitlines() if line.startswith("clip-jax: ")]
    return [re.split(r"=|: ", line)[0] for line in lines]
