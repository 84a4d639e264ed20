"""Strict numerics for every test: eight virtual CPU devices, no silent rank promotion, one compile cache."""

import os
import tempfile
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("CLIP_JAX_CACHE", str(Path(tempfile.gettempdir()) / "clip_jax_test_cache"))

import jax
from hypothesis import settings

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_compilation_cache_dir", os.environ["CLIP_JAX_CACHE"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

settings.register_profile("tests", deadline=None, max_examples=25)
settings.load_profile("tests")
