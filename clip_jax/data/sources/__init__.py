"""Sources of image-caption records: folder, TFDS, WebDataset."""

from clip_jax._moved import names_of

__getattr__ = names_of(__name__, "data.sources.base", "data.open")
