"""The optimizer, and rounding of half-precision weights and statistics."""

from clip_jax._moved import names_of

__getattr__ = names_of(__name__, "optim.optimizer")
