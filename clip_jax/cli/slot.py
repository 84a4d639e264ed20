"""The process of a slot: it runs, one after another, the commands that come from `launch.slot_process`."""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import sys
import traceback
from pathlib import Path

from clip_jax import exit_codes, reuse
from clip_jax.cli.main import main
from clip_jax.storage.lock import INHERITED
from clip_jax.sweep.launch.slot_process import Order, answer, receive

GROWTH_BYTES = 2**30  # beyond its size after the first job, at which the process ends


def run_job(order: Order) -> int:
    """Run one command as a process of its own would, with its output in its log; return the exit code."""
    for target in (1, 2):
        os.dup2(order.log, target)
    os.close(order.log)
    os.environ |= order.environment | {INHERITED: ",".join(map(str, order.locks))}
    try:
        return main(order.arguments)
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else exit_codes.MISTAKE
    except BaseException:  # noqa: BLE001  # the interpreter would print it and exit
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for left in filter(None, os.environ.pop(INHERITED, "").split(",")):
            with contextlib.suppress(OSError):
                os.close(int(left))


def resident_bytes() -> int:
    """Return the memory that this process holds; 0 where that is not known."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def serve(connection: socket.socket) -> None:
    """Run jobs until the driver closes the connection, one fails, or the process has grown by `GROWTH_BYTES`."""
    most = 0
    reuse.keep()
    while (order := receive(connection)) is not None:
        code = run_job(order)
        gc.collect()  # models and states hold cycles
        size = resident_bytes()
        if not most:
            most = size + GROWTH_BYTES
            gc.freeze()  # modules and programs, some half a million objects, which each later collection would look at
        # without another job: after a failure nobody knows what is left in the process
        last = code != exit_codes.FINISHED or size > most
        if last:
            connection.shutdown(socket.SHUT_RD)
        with contextlib.suppress(OSError):  # the driver has gone
            answer(connection, code)
        if last:
            return


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
