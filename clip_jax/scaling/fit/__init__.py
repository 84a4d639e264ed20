"""The parts of a fit: losses, the solver, the result."""

from clip_jax._moved import names_of

__getattr__ = names_of(__name__, "scaling.fit_law", "scaling.fit.result")
