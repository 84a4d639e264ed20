"""Write the report of an analysis: summary, checklist, figures, page."""

from clip_jax._moved import names_of

__getattr__ = names_of(__name__, "scaling.report.write")
