"""`clip-jax config`: every config field with its type, choices, default and meaning."""

from __future__ import annotations

from typing import TypeVar

from clip_jax.config import DistributedConfig, ModelConfig, RunConfig
from clip_jax.config.fields import field_types
from clip_jax.config.io import load
from clip_jax.config.reference import as_markdown, as_text, groups_of
from clip_jax.config.sweep import IndexConfig, SweepConfig
from clip_jax.errors import UserError
from clip_jax.sweep.search.config import SearchConfig

T = TypeVar("T")
# name -> title, dataclass, and prefix of its fields on the command line
CONFIGS: dict[str, tuple[str, type, str]] = {
    "run": ("A run: `clip-jax train`", RunConfig, ""),
    "sweep": ("A sweep: `clip-jax sweep plan | run | preflight`", SweepConfig, ""),
    "search": ("A search: `clip-jax sweep search`", SearchConfig, ""),
    "index": ("An index in parts: `clip-jax data index`", IndexConfig, ""),
    "distributed": ("How processes find each other: `clip-jax train`", DistributedConfig, "distributed."),
}
COMMANDS: dict[str, type] = {
    "clip-jax train": RunConfig, "clip-jax sweep run": SweepConfig, "clip-jax sweep search": SearchConfig,
}  # fmt: skip


def read_config(cls: type[T], path: str, overrides: dict[str, str]) -> T:
    """Read the config of a command, as `config.io.load` does. Raises UserError."""
    return load(cls, path, overrides, COMMANDS, _model_of)


def _model_of(source: str) -> ModelConfig:
    from clip_jax.inference import model_of

    return model_of(source)


def config_text(name: str | None, *, markdown: bool = False) -> str:
    """Return a reference of config fields.

    Args:
      name: ``run``, ``sweep``, ``search``, ``distributed``, or a group of one of them, such as ``optim``; None for all.
      markdown: whether to return a page in Markdown, of whole configs only.

    Raises:
      UserError: there is no such group.
    """
    chosen = [CONFIGS[name]] if name in CONFIGS else list(CONFIGS.values())
    if markdown:
        if name is not None and name not in CONFIGS:
            raise UserError(field="GROUP", value=name, reason=f"must be {' or '.join(CONFIGS)} with --markdown")
        return "\n\n".join(["# Config fields", *(as_markdown(cls, title, prefix) for title, cls, prefix in chosen)])
    if name is None or name in CONFIGS:
        return "\n\n".join(f"{title.replace('`', '')}\n\n{as_text(cls, prefix)}" for title, cls, prefix in chosen)
    names = {group.name: cls for _, cls, prefix in chosen for group in groups_of(cls, prefix) if group.name}
    if name not in names:
        hint = f"one of {', '.join(dict.fromkeys([*CONFIGS, *names]))}"
        raise UserError(field="GROUP", value=name, reason="is not a group of fields", hint=hint)
    group = names[name]
    for part in name.split("."):
        inner = field_types(group)[part]
        assert isinstance(inner, type)
        group = inner
    return as_text(group, f"{name}.")
