"""Checks for NaN and infinity that name the tensor or the sample that holds them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from clip_jax.errors import UserError

REASON = "holds numbers that are not finite"
OVERFLOW = "float16 ends at 65504 and this overflows it; evaluate in float32 or bfloat16"


class NotFinite(UserError):
    """A row of a result that is not finite: ``field`` is the kind of result, ``source`` the row's name, ``row`` its
    index."""

    row = 0

    @classmethod
    def of_row(cls, what: str, row: int, name: str, hint: str | None = None) -> NotFinite:
        """Return the error for row ``row`` of ``what``, called ``name`` in the message."""
        error = cls(source=name, field=what, reason=REASON, hint=hint)
        error.row = row
        return error

    def renamed(self, name: str) -> NotFinite:
        """Return the same error with the sample's name as the caller knows it, such as a file name."""
        return NotFinite.of_row(str(self.field), self.row, name, self.hint)


def finite_rows(
    values: np.ndarray, what: str, name: Callable[[int], str], *, dtype: str = "float32", first: int = 0
) -> np.ndarray:
    """Return ``values`` unchanged after checking that every row is finite.

    Args:
      values: [N, ...], embeddings, features, logits or scores, one row per picture or text.
      what: the kind of result, for the message.
      name: maps a row's number to its name.
      dtype: the compute dtype; with float16 the message points at overflow.
      first: the number of the first row of ``values``.

    Raises:
      NotFinite: names the first row that is not finite.
    """
    bad = ~np.isfinite(values).reshape(len(values), -1).all(axis=1)
    if bad.any():
        row = first + int(bad.argmax())
        raise NotFinite.of_row(what, row, name(row), OVERFLOW if dtype == "float16" else None)
    return values


def finite_tensors(source: str, tensors: Iterable[tuple[str, np.ndarray]]) -> None:
    """Check that every tensor, given as (name, array), is finite; raise UserError listing those that are not."""
    bad = sorted({name for name, value in tensors if not np.isfinite(value).all()})
    if bad:
        more = f" and {len(bad) - 6} more" if len(bad) > 6 else ""
        raise UserError(source=source, field=f"{', '.join(bad[:6])}{more}", reason=REASON)
