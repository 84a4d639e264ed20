"""The command line."""

from clip_jax._moved import names_of

__getattr__ = names_of(__name__, "cli.main")
