"""Ctrl-C in a command's first moments, in processes of their own."""

import signal
import subprocess
import sys
import time

import pytest

from clip_jax.exit_codes import INTERRUPTED
from clip_jax.interrupts import LINE

# each waits for the signal at the place of its name; a module that swallows the exception, as extension modules do
WAIT = "import time\ntry: print('up', flush=True), time.sleep(60)\n"
PROGRAMS = {"import": "import slow", "elsewhere": f"{WAIT}except KeyboardInterrupt: print(was_asked())"}
SLOW = f"{WAIT}except BaseException: raise ImportError('numpy') from None"


@pytest.mark.parametrize("where", PROGRAMS)
def test_sigint_ends_an_import_at_once_and_is_keyboard_interrupt_elsewhere(tmp_path, where):
    (tmp_path / "slow.py").write_text(SLOW)
    program = f"from clip_jax.interrupts import listen, was_asked\nlisten()\n{PROGRAMS[where]}"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    begin = f"import sys; sys.path.append({str(tmp_path)!r})\n"
    with subprocess.Popen([sys.executable, "-c", begin + program], **pipes) as process:
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    if where == "import":
        assert (process.returncode, err) == (INTERRUPTED, f"{LINE}\n")
    else:
        assert (process.returncode, out, err) == (0, "True\n", "")


# `python -m clip_jax.cli` as it is, but for a line that says when SIGINT is listened to
CLI = """
import sys
from clip_jax.interrupts import listen
listen()
print("up", flush=True)
from clip_jax.cli.main import main
sys.exit(main())
"""


@pytest.mark.parametrize("seconds", [0, 0.3, 1.0])
def test_command_interrupted_early_ends_with_one_line_and_no_traceback(tmp_path, seconds):
    config = tmp_path / "c.json"
    config.write_text("{}")
    command = [sys.executable, "-c", CLI, "train", f"--config={config}", f"--dir={tmp_path / 'run'}"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:
        assert process.stdout.readline() == "up\n"
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    lines = err.splitlines()
    assert (process.returncode, lines[-1:]) == (INTERRUPTED, [LINE])
    # a fast machine has begun the run by then, and has said so
    assert all(line.startswith("clip-jax: ") for line in lines), err
    assert lines.count(LINE) == 1
