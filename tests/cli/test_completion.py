"""Completion as the shells that are on this machine do it."""

import shutil
import subprocess

import pytest

from clip_jax.cli.completion import SHELLS, completion
from clip_jax.cli.main import make_parser

TYPED = {  # words so far -> completions of the last one
    ("s",): ["sweep"],
    ("sweep", "sta"): ["status"],
    ("sweep", "status", "--wa"): ["--watch"],
    ("sweep", "run", "--config=a.py", "--max_conc"): ["--max_concurrent_runs"],
    ("train", "--optim.p"): ["--optim.peak_lr"],
    ("init", "p"): ["photos", "pod"],
    ("data", "overlap", "--mod"): ["--model"],
}
PROGRAMS = {
    "bash": 'compopt() { :; }; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _clip_jax; printf "%s\\n" "${COMPREPLY[@]}"',
    "zsh": (
        '_describe() { local -a a; a=("${(@P)2}"); print -l -- "${(@M)a:#${words[CURRENT]}*}"; }; '
        'words=("$@"); CURRENT=$#; _clip_jax'
    ),
    "fish": "complete -C (string join -- ' ' $argv)",
}


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_completes_verbs_options_and_fields(shell, tmp_path):
    if (program := shutil.which(shell)) is None:
        pytest.skip(f"there is no {shell} on this machine")
    script = completion(make_parser(), shell)
    before = {"zsh": "compdef() { :; }\n"}.get(shell, "")
    for words, expected in TYPED.items():
        file = tmp_path / "script"
        file.write_text(f"{before}{script}\n{PROGRAMS[shell]}\n")
        done = subprocess.run(
            [program, str(file), "clip-jax", *words], capture_output=True, text=True, check=True, env={"HOME": "/none"}
        )
        proposed = [line.split("\t")[0].split(":")[0].rstrip("=") for line in done.stdout.split("\n") if line]
        assert sorted(proposed) == expected, words
