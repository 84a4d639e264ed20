"""A reference of config fields, from the dataclasses: type, choices, default, and the comment at each field."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import io
import json
import textwrap
import tokenize
import typing
from collections.abc import Iterator
from dataclasses import dataclass

from clip_jax.config.fields import RENAMED, choices_of, field_types
from clip_jax.config.run import RunConfig

WIDTH = 120  # columns of a terminal


@dataclass(frozen=True)
class FieldEntry:
    """One config field, as the command line names it."""

    name: str  # dotted
    values: str  # its type, or its choices
    default: str  # as the command line takes it
    meaning: str
    former: str = ""  # former name


@dataclass(frozen=True)
class FieldGroup:
    """The fields of one dataclass."""

    name: str  # dotted; empty for the config itself
    about: str
    entries: tuple[FieldEntry, ...]


def groups_of(cls: type, prefix: str = "") -> Iterator[FieldGroup]:
    """Yield a config dataclass's fields, then those of each group in it; of a sweep's base run only its name.

    Args:
      cls: the dataclass.
      prefix: of the fields' names, such as ``distributed.``.
    """
    hints, comments = field_types(cls), _comments(cls)
    former = {name: first for first, name in RENAMED.get(cls.__name__, {}).items()}
    entries, nested = [], []
    for f in dataclasses.fields(cls):
        name, hint = f"{prefix}{f.name}", hints[f.name]
        if hint is RunConfig:
            entries.append(FieldEntry(f"{name}.FIELD", "", "", f"any field of a run: {name}.optim.peak_lr"))
        elif dataclasses.is_dataclass(hint):
            nested.append((typing.cast(type, hint), name))
        else:
            default = "" if f.default is dataclasses.MISSING else _as_typed(f.default)
            entries.append(FieldEntry(name, _values(hint), default, comments[f.name], former.get(f.name, "")))
    yield FieldGroup(prefix.rstrip("."), inspect.getdoc(cls) or "", tuple(entries))
    for inner, name in nested:
        yield from groups_of(inner, f"{name}.")


def _values(hint: object) -> str:
    if choices := choices_of(hint):
        return " | ".join(choice or '""' for choice in choices)
    if typing.get_origin(hint) is tuple:
        return f"list of {_values(typing.get_args(hint)[0])}"
    names: dict[object, str] = {str: "text", int: "int", float: "float", bool: "true | false"}
    return names[hint]


def _as_typed(value: object) -> str:
    if isinstance(value, str):
        return value or '""'
    if isinstance(value, tuple):
        return f"[{', '.join(json.dumps(v) if isinstance(v, str) else _as_typed(v) for v in value)}]"
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else json.dumps(value)


def _comments(cls: type) -> dict[str, str]:
    """Return each field's comments: lines above it, then those beside it."""
    source = textwrap.dedent(inspect.getsource(cls))
    comments, alone = {}, set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            comments[token.start[0]] = token.string.lstrip("# ")
            if not token.line[: token.start[1]].strip():
                alone.add(token.start[0])
    (body,) = ast.parse(source).body
    assert isinstance(body, ast.ClassDef)
    texts = {}
    for node in body.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            first = node.lineno
            while first - 1 in alone:
                first -= 1
            lines = [comments[i] for i in range(first, (node.end_lineno or first) + 1) if i in comments]
            texts[node.target.id] = " ".join(lines)
    return texts


def as_text(cls: type, prefix: str = "") -> str:
    """Return the fields of a config dataclass as lines for a terminal, each as the command line takes it."""
    blocks = []
    for group in groups_of(cls, prefix):
        about = " ".join(group.about.replace("`", "").split())
        lines = textwrap.wrap(f"{group.name}: {about}" if group.name else about, WIDTH)
        for entry in group.entries:
            option = f"  --{entry.name}={entry.default}" if entry.values else f"  --{entry.name}=…"
            lines.append(f"{option:44s}  {entry.values}".rstrip())
            lines += textwrap.wrap(
                entry.meaning.replace("`", ""), WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6
            )
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def as_markdown(cls: type, title: str, prefix: str = "") -> str:
    """Return the fields of a config dataclass as a section of a Markdown page, a table for each group."""
    lines = [f"## {title}"]
    for group in groups_of(cls, prefix):
        lines += ["", *([f"### `{group.name}`", ""] if group.name else []), " ".join(group.about.split()), ""]
        lines += ["| field | type | default | meaning |", "|---|---|---|---|"]
        for entry in group.entries:
            former = f" (formerly `{entry.former}`)" if entry.former else ""
            cells = (f"`{entry.name}`", entry.values, entry.default and f"`{entry.default}`", entry.meaning + former)
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)
