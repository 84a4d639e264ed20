"""What the exit code of `clip-jax` tells an engine: whether the same command is worth repeating.

Anything else is a bug (1, with a traceback) or a signal that could not be answered (128 + its number, or negative).
"""

FINISHED = 0
MISTAKE = 2  # a setting, the data, a full disk, a diverged loss: repeated unchanged, it fails again
STOPPED = 75  # EX_TEMPFAIL: preempted, asked to stop, or another process has the run; later the same command goes on
INTERRUPTED = 130  # from the keyboard, with a checkpoint; the same command goes on, but nobody repeats it unasked
ABORTED = 134  # SIGABRT, from JAX itself: another process never came, or fell silent; the same command goes on
UNREAD = 141  # 128 + SIGPIPE: what read our output stopped reading (`| head`)
