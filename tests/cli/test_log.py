"""The log of the library on the terminal of a command."""

import logging

from clip_jax.cli.log import terminal_log

logger = logging.getLogger("clip_jax.train.somewhere")


def test_terminal_log_writes_lines_to_stderr_while_a_command_runs(capsys):
    with terminal_log():
        logger.info("a notice of %d", 1)
        with terminal_log():  # as a driver in whose process a run is trained
            logger.warning("a warning")
        logger.debug("a detail")
    written = capsys.readouterr()
    assert written.err == "clip-jax: a notice of 1\nclip-jax: a warning\n"
    assert written.out == ""


def test_terminal_log_leaves_the_logger_as_it_was(caplog):
    package = logging.getLogger("clip_jax")
    before = package.handlers.copy(), package.level, package.propagate
    with terminal_log():
        pass
    assert (package.handlers, package.level, package.propagate) == before
    logger.warning("heard by whoever listens")
    assert caplog.messages == ["heard by whoever listens"]
