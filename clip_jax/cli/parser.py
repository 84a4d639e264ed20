"""The argument parser of every command: its errors are one line, its help lists config fields."""

from __future__ import annotations

import argparse
import sys
from typing import Any, NoReturn

from clip_jax.cli.config import config_text
from clip_jax.errors import UserError, did_you_mean


class CommandParser(argparse.ArgumentParser):
    """A parser of a command."""

    configs: tuple[str, ...] = ()  # whose fields the command takes (`cli.config.CONFIGS`)

    def format_help(self) -> str:
        """Return the help, with the config fields that the command takes."""
        return "\n".join([super().format_help(), *(f"{config_text(name)}\n" for name in self.configs)])

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse as argparse does; raise UserError for an argument that a command without fields does not take."""
        parsed, extra = super().parse_known_args(args, namespace)
        if extra and not self.configs and self._subparsers is None:
            option = extra[0].partition("=")[0]
            near = did_you_mean(option, self._option_string_actions) if option.startswith("-") else None
            raise UserError(field=extra[0], reason="unknown argument", hint=near or f"see {self.prog} --help")
        return parsed, extra

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
