"""What a sweep will need, before it runs: memory, time."""

from clip_jax._moved import names_of

__getattr__ = names_of(__name__, "sweep.preflight.preflight")
