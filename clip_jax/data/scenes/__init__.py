"""The procedural world: scenes, their captions and their zero-shot tasks."""

from clip_jax._moved import names_of

__getattr__ = names_of(__name__, "data.scenes.scenes")
