"""Profile likelihood: intervals of parameters and predictions."""

from clip_jax._moved import names_of

__getattr__ = names_of(__name__, "scaling.profile.profile_likelihood")
