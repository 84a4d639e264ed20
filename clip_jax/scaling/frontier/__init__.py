"""Which runs a law is fitted to, and what to train at a compute."""

from clip_jax._moved import names_of

__getattr__ = names_of(__name__, "scaling.frontier.frontier")
