"""Exit codes of `clip-jax`, by which an engine decides whether to run the same command again.

Any other code means a bug (1, with a traceback) or an unhandled signal (128 + its number, or negative).
"""

FINISHED = 0
MISTAKE = 2  # a setting, the data, a full disk, a diverged loss: the same command would fail again
STOPPED = 75  # EX_TEMPFAIL: preempted, asked to stop, or the run is locked by another process; retry later
INTERRUPTED = 130  # Ctrl-C, after a checkpoint; the same command resumes, but no engine retries it by itself
ABORTED = 134  # SIGABRT from JAX: another process never connected or stopped responding; retry
UNREAD = 141  # 128 + SIGPIPE: the reader of our output closed the pipe (`| head`)
