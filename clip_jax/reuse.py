"""What runs of one process share: compiled programs and evaluation data, only where a process trains many runs.

Everywhere else each call makes its own, so that no memory is held for runs that never come.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

T = TypeVar("T")
MOST = 32  # values; those of the sizes of one sweep, of which each has a few
_kept: OrderedDict[Hashable, Any] | None = None


def keep() -> None:
    """Keep values from now on, for as long as the process lives."""
    global _kept
    _kept = OrderedDict()


def reuse(key: Hashable, make: Callable[[], T]) -> T:
    """Return ``make()``, or what an earlier call with an equal key made if this process keeps values (`keep`).

    Args:
      key: all that the value depends on, beginning with its name. It is kept too.
      make: makes the value, which nobody may change.
    """
    if _kept is None:
        return make()
    if key not in _kept:
        _kept[key] = make()
    _kept.move_to_end(key)
    while len(_kept) > MOST:
        _kept.popitem(last=False)
    value: T = _kept[key]
    return value
