"""The argument parser of every command: its errors are one line, its help lists config fields."""

from __future__ import annotations

import argparse
from typing import NoReturn

from clip_jax.cli.config import config_text
from clip_jax.errors import UserError


class CommandParser(argparse.ArgumentParser):
    """A parser of a command."""

    configs: tuple[str, ...] = ()  # whose fields the command takes (`cli.config.CONFIGS`)

    def format_help(self) -> str:
        """Return the help, with the config fields that the command takes."""
        return "\n".join([super().format_help(), *(f"{config_text(name)}\n" for name in self.configs)])

    def error(self, message: str) -> NoReturn:
        """Raise UserError with the message."""
        raise UserError(field=self.prog, reason=message, hint=f"see {self.prog} --help")
