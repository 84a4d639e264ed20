"""Numbers that are not finite stop what would use them, and the tensor or the picture that holds them is named."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from clip_jax.errors import UserError

REASON = "holds numbers that are not finite"
OVERFLOW = "float16 ends at 65504 and this overflows it; evaluate in float32 or bfloat16"


class NotFinite(UserError):
    """One row of a result is not finite: ``field`` says of what, ``value`` which one, ``row`` where it stands."""

    row = 0

    @classmethod
    def at(cls, what: str, row: int, name: str, hint: str | None = None) -> NotFinite:
        """The error that names a row."""
        more = f"; {hint}" if hint else ""
        error = cls(f"{name}: its {what} {REASON}{more}", field=what, value=name, reason=REASON, hint=hint)
        error.row = row
        return error

    def renamed(self, name: str) -> NotFinite:
        """The same under the name that whoever knows the pictures has for this one."""
        return NotFinite.at(str(self.field), self.row, name, self.hint)


def finite_rows(
    values: np.ndarray, what: str, name: Callable[[int], str], *, dtype: str = "float32", first: int = 0
) -> np.ndarray:
    """``values`` [N, ...] as they are. Raises NotFinite, naming the first row that is not finite.

    Args:
      values: embeddings, features, logits or scores, one row a picture or text.
      what: they are.
      name: of a row.
      dtype: they were computed in.
      first: the number of the first row here.
    """
    bad = ~np.isfinite(values).reshape(len(values), -1).all(axis=1)
    if bad.any():
        row = first + int(bad.argmax())
        raise NotFinite.at(what, row, name(row), OVERFLOW if dtype == "float16" else None)
    return values


def finite_tensors(source: str, tensors: Iterable[tuple[str, np.ndarray]]) -> None:
    """Raises UserError, one line that lists the tensors (pairs of name and array) with numbers that are not finite."""
    bad = sorted({name for name, value in tensors if not np.isfinite(value).all()})
    if bad:
        more = f" and {len(bad) - 6} more" if len(bad) > 6 else ""
        raise UserError(
            f"{source}: weights that are not finite: {', '.join(bad[:6])}{more}",
            field=bad[0], value=source, reason=REASON,
        )  # fmt: skip
