"""Hyperparameter search: search space, samplers, trials, figure."""

from clip_jax._moved import names_of

__getattr__ = names_of(__name__, "sweep.search_driver")
