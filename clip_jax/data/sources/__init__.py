"""Where pairs come from: one module for each kind of source."""

from clip_jax._moved import names_of

__getattr__ = names_of(__name__, "data.sources.base", "data.open")
