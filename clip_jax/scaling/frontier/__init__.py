"""Select the runs that a law is fitted to, and find the compute-optimal size and samples."""

from clip_jax._moved import names_of

__getattr__ = names_of(__name__, "scaling.frontier.frontier")
