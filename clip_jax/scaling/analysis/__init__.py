"""Laws and forecasts with intervals, from a table of runs."""

from clip_jax._moved import names_of

__getattr__ = names_of(__name__, "scaling.analysis.analyze")
