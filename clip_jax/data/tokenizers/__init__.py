"""Tokenizers: learned byte pairs, CLIP's own, and those of other libraries' files."""

from clip_jax._moved import names_of

__getattr__ = names_of(__name__, "data.tokenizers.learned_bpe")
