"""`clip-jax completion SHELL`: a script by which bash, zsh or fish complete verbs, options and config fields."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from clip_jax.cli.config import CONFIGS
from clip_jax.cli.parser import CommandParser, parsers
from clip_jax.config.reference import groups_of

SHELLS = ("bash", "zsh", "fish")
LONGEST = 70  # characters of a description


@dataclass(frozen=True)
class Command:
    """Possible next words of a command: (text, description) of words and of options."""

    path: tuple[str, ...]
    words: tuple[tuple[str, str], ...]
    options: tuple[tuple[str, str], ...]  # with = where a value follows


def completion(parser: CommandParser, shell: str) -> str:
    """Return the script for one of `SHELLS`, of every command of the parser."""
    commands = [_command((), parser), *(_command(tuple(p.prog.split()[1:]), p) for p, _ in parsers(parser))]
    return "\n".join({"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](commands))


def _command(path: tuple[str, ...], parser: argparse.ArgumentParser) -> Command:
    words: list[tuple[str, str]] = []
    options: list[tuple[str, str]] = []
    for action in parser._actions:
        if action.help == argparse.SUPPRESS:
            continue
        if isinstance(action, argparse._SubParsersAction):
            words += [(choice.dest, _short(choice.help)) for choice in action._choices_actions]
        elif action.option_strings:
            equals = "" if action.nargs == 0 else "="
            options.append((action.option_strings[-1] + equals, _short(action.help)))
        else:
            words += [(str(choice), "") for choice in action.choices or ()]
    for key in getattr(parser, "configs", ()):
        _, cls, prefix = CONFIGS[key]
        entries = [entry for group in groups_of(cls, prefix) for entry in group.entries if entry.values]
        options += [(f"--{entry.name}=", _short(entry.meaning)) for entry in entries]
    return Command(path, tuple(words), tuple(options))


def _short(text: str | None) -> str:
    text = " ".join((text or "").replace("`", "").replace("%%", "%").split())
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _walk(commands: Sequence[Command]) -> list[str]:
    """Return the ``case`` of bash and zsh that follows the words typed so far down to the innermost command."""
    known = "|".join(shlex.quote(" ".join(c.path)) for c in commands if c.path)
    return ['    case "${at:+$at }$word" in', f'      {known}) at="${{at:+$at }}$word";;', "    esac"]


def _bash(commands: Sequence[Command]) -> Iterator[str]:
    yield '# eval "$(clip-jax completion bash)"'
    yield "_clip_jax() {"
    yield '  local word at="" words="" options="" current="${COMP_WORDS[COMP_CWORD]}"'
    yield '  for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do'
    yield from _walk(commands)
    yield "  done"
    yield '  case "$at" in'
    for command in commands:
        words, options = (shlex.quote(" ".join(text for text, _ in part)) for part in (command.words, command.options))
        yield f"    {shlex.quote(' '.join(command.path))}) words={words} options={options};;"
    yield "  esac"
    yield '  [[ $current == -* ]] && words="$options"'
    yield '  COMPREPLY=($(compgen -W "$words" -- "$current"))'
    yield "  [[ ${COMPREPLY[0]-} == *= ]] && compopt -o nospace"
    yield "}"
    yield "complete -o default -F _clip_jax clip-jax"


def _zsh(commands: Sequence[Command]) -> Iterator[str]:
    yield "#compdef clip-jax"
    yield '# eval "$(clip-jax completion zsh)", after compinit'
    yield "_clip_jax() {"
    yield '  local word at=""'
    yield "  local -a items options"
    yield '  for word in "${(@)words[2,CURRENT-1]}"; do'
    yield from _walk(commands)
    yield "  done"
    yield '  case "$at" in'
    for command in commands:
        items, options = (
            " ".join(shlex.quote(f"{text}:{about}") for text, about in part)
            for part in (command.words, command.options)
        )
        yield f"    {shlex.quote(' '.join(command.path))}) items=({items}) options=({options});;"
    yield "  esac"
    yield "  if [[ ${words[CURRENT]} == -*=* ]]; then compset -P '*='; _files"
    yield "  elif [[ ${words[CURRENT]} == -* ]]; then _describe option options -S ''"
    yield "  elif (( ${#items} )); then _describe command items"
    yield "  else _files; fi"
    yield "}"
    yield "compdef _clip_jax clip-jax"


def _fish(commands: Sequence[Command]) -> Iterator[str]:
    yield "# clip-jax completion fish | source"
    for command in commands:
        seen = [f"__fish_seen_subcommand_from {word}" for word in command.path]
        words = " ".join(text for text, _ in command.words)
        fresh = f"not __fish_seen_subcommand_from {words}" if command.words else ""
        for text, about in command.words:
            when = shlex.quote("; and ".join([*seen, fresh]))
            yield f"complete -c clip-jax -f -n {when} -a {shlex.quote(text)} -d {_fish_quoted(about)}"
        for text, about in command.options:
            when = shlex.quote("; and ".join(seen) if seen else fresh)
            name = text.rstrip("=")
            option = f"-l {shlex.quote(name[2:])}" if name.startswith("--") else f"-s {name[1:]}"
            takes = " -r -F" if text.endswith("=") else ""
            yield f"complete -c clip-jax -n {when} {option}{takes} -d {_fish_quoted(about)}"


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
