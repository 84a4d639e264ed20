"""Bootstraps, clusters of rows, diagnostics of a fit."""

from clip_jax._moved import names_of

__getattr__ = names_of(__name__, "scaling.uncertainty.bootstrap")
