"""The optimizer, and how weights of half precision are rounded."""

from clip_jax._moved import names_of

__getattr__ = names_of(__name__, "optim.optimizer")
