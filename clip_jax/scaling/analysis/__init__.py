"""From a table of runs to laws and forecasts with intervals."""

from clip_jax._moved import names_of

__getattr__ = names_of(__name__, "scaling.analysis.analyze")
