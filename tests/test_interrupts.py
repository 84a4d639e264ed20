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


@pytest.mark.parametrize("seconds", [0.4, 0.7, 1.1])
def test_a_command_that_is_interrupted_early_says_so_in_one_line(tmp_path, seconds):
    config = tmp_path / "c.json"
    config.write_text("{}")
    command = [sys.executable, "-m", "clip_jax.cli", "train", f"--config={config}", f"--dir={tmp_path / 'run'}"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        time.sleep(seconds)  # by now the interpreter itself is up
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (INTERRUPTED, f"{LINE}\n")
