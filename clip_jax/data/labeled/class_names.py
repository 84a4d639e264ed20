"""Class names: read from files, and matched by name with a published list."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Literal, get_args

from clip_jax.errors import UserError, one_of

Pairing = Literal["name", "place"]
MAX_NAMES_SHOWN = 6  # per error message


def read_names(path: Path) -> tuple[str, ...]:
    """Read one class name per line, in the order of the labels; a blank line is a class without a name.

    Returns () when the file does not exist. A byte order mark is ignored. Raises UserError when it is not UTF-8.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return ()
    except UnicodeDecodeError as error:
        reason = f"is not UTF-8 text (byte {error.start})"
        raise UserError(field=path, reason=reason, hint="save it as UTF-8") from None
    lines = text.split("\n")  # not splitlines(): a name may contain other line separators
    return tuple(line.strip() for line in (lines if lines[-1] else lines[:-1]))


def read_lines(path: Path) -> tuple[str, ...]:
    """Read the lines that are not blank; otherwise like `read_names`."""
    return tuple(filter(None, read_names(path)))


def read_templates(path: Path) -> tuple[str, ...]:
    """Read prompt templates, one per line. Raises UserError for one without ``{c}``."""
    return check_templates(read_lines(path), path)


def check_templates(templates: Sequence[str], source: object = None) -> tuple[str, ...]:
    """Return prompt templates after checking that each has ``{c}``; raise UserError naming ``source`` otherwise."""
    for template in templates:
        if "{c}" not in template:
            raise UserError(source=source, field="template", value=template, reason="has no {c} for the class name")
    return tuple(templates)


def _spelled(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").split())


def _letters(name: str) -> str:
    return "".join(c for c in name.casefold() if c.isalnum())


def class_numbers(names: Sequence[str]) -> list[int] | None:
    """Return the zero-based index of each name if the names are the numbers from 0 or from 1 on, else None.

    Leading zeros are ignored.
    """
    if not names or not all(n.isascii() and n.isdigit() for n in names):
        return None
    values = [int(n) for n in names]
    first = min(values)
    ordered = sorted(values) == list(range(first, first + len(values)))
    return [v - first for v in values] if first in (0, 1) and ordered else None


def pair_names(
    classes: Sequence[str], published: Sequence[str], source: str, *, labels: Sequence[str] = (), by: Pairing = "name"
) -> list[int]:
    """Match each class of a set with a published class name.

    Names match if they are equal but for case, underscores and spaces; or, if no other name does, but for signs between
    the letters ("C-V", "C/V"). Names that are the numbers from 0 or 1 on are indices into the published list. Names
    that occur several times match in order.

    Args:
      classes: the set's class names.
      published: as many names.
      source: the set, for errors.
      labels: what the set calls the published classes, in the published order, if that is known.
      by: ``name``; or ``place``, by position.

    Returns:
      The index into ``published`` of each class, int [C].

    Raises:
      UserError: classes without a match; its ``reason`` lists them.
    """
    one_of("pair", by, get_args(Pairing))
    if by == "place" and len(classes) == len(published):
        return list(range(len(classes)))
    matches: dict[int, int] = {}  # index into classes -> index into published
    rounds: list[tuple[Sequence[str], Callable[[str], str]]] = [
        (names, form) for form in (_spelled, _letters) for names in (published, labels)
    ]
    for names, form in rounds:
        groups, published_groups = _groups(classes, form, matches), _groups(names, form, matches.values())
        for key in groups.keys() & published_groups.keys():
            if form is _spelled or len(groups[key]) == len(published_groups[key]) == 1:
                matches |= dict(zip(groups[key], published_groups[key], strict=False))
    numbers = class_numbers(classes)
    if numbers is not None and len(classes) == len(published) and not matches:
        return numbers
    unmatched = [name for i, name in enumerate(classes) if i not in matches]
    left = [name for i, name in enumerate(published) if i not in matches.values()]
    if unmatched or left:
        reason = f"{_listed(unmatched)} of its {len(classes)} classes match none of the names {_listed(left)}"
        hint = 'rename them, or set pair="place"' if len(classes) == len(published) else "rename them"
        raise UserError(source=source, field="pair", value=by, reason=reason, hint=hint)
    return [matches[i] for i in range(len(classes))]


def _groups(names: Sequence[str], form: Callable[[str], str], taken: Collection[int]) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        if i not in taken:
            groups.setdefault(form(name), []).append(i)
    return groups


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_NAMES_SHOWN} more" if len(names) > MAX_NAMES_SHOWN else ""
    return ", ".join(map(repr, names[:MAX_NAMES_SHOWN])) + more if names else "none"
