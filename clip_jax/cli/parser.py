"""The argument parser of every command: its errors are one line, its help lists config fields."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import NoReturn

from clip_jax.cli.config import CONFIGS, config_text
from clip_jax.config.fields import RENAMED, field_types
from clip_jax.errors import UserError, closest, did_you_mean

MODEL = "openai/NAME, open_clip:MODEL/TAG, hf:OWNER/NAME, a weights file or folder, or a run directory"


class CommandParser(argparse.ArgumentParser):
    """A parser of a command."""

    configs: tuple[str, ...] = ()  # whose fields the command takes (`cli.config.CONFIGS`)

    def format_help(self) -> str:
        """Return the help, with the config fields that the command takes."""
        return "\n".join([super().format_help(), *(f"{config_text(name)}\n" for name in self.configs)])

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse as argparse does; raise UserError for an argument that is neither the command's nor a config field."""
        parsed, extra = super().parse_known_args(args, namespace)
        if self._subparsers is None:
            for item in extra:
                self._check_extra(item)
        return parsed, extra

    def _check_extra(self, item: str) -> None:
        """Raise UserError if the argument cannot be a field, or is spelled more like an option than like a field."""
        classes, option = [CONFIGS[key][1] for key in self.configs], item.partition("=")[0]
        fields = [f"--{name}" for cls in classes for name in (*field_types(cls), *RENAMED.get(cls.__name__, {}))]
        near = closest(option, [*fields, *self._option_string_actions]) if option.startswith("-") else []
        if not fields or ("." not in option and near and near[0] not in fields):
            hint = f"did you mean {near[0]}?" if near else f"see {self.prog} --help"
            raise UserError(field=item, reason="unknown argument", hint=hint)

    def _check_value(self, action: argparse.Action, value: object) -> None:
        if action.choices is not None and value not in action.choices:
            name = "/".join(action.option_strings) or action.metavar or action.dest
            hint = did_you_mean(value, action.choices) or f"see {self.prog} --help"
            reason = f"must be one of {', '.join(map(str, action.choices))}"
            raise UserError(field=str(name), value=value, reason=reason, hint=hint)

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """Leave the command after its help or version."""
        sys.stdout.flush()  # so that a closed pipe raises here, not when the interpreter exits
        super().exit(status, message)

    def error(self, message: str) -> NoReturn:
        """Raise UserError with the message."""
        raise UserError(reason=message, hint=f"see {self.prog} --help")


def parsers(parser: argparse.ArgumentParser, depth: int = 2) -> Iterator[tuple[CommandParser, int]]:
    """Yield the parser of every command below one, and its level, from ``depth``."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in dict.fromkeys(action.choices.values()):
                yield inner, depth
                yield from parsers(inner, depth + 1)
