"""Encoding in batches equals encoding at once."""

import jax
import numpy as np
from flax import nnx

from clip_jax.config import MeshConfig
from clip_jax.data.transforms import normalise
from clip_jax.evals.encode import Encoder
from clip_jax.models.clip import build, init_params, normalise_features
from clip_jax.parallel import make_mesh
from clip_jax.presets import preset


def test_batches_and_padding_change_nothing():
    config, mesh = preset("debug"), make_mesh(MeshConfig(fsdp=2))
    built = build(config, mesh)
    params = jax.jit(lambda: init_params(config, 0), out_shardings=built.shardings)()
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (21, 32, 32, 3), np.uint8)
    tokens = rng.integers(1, 500, (21, 24)).astype(np.int32)
    encoder = Encoder(built, mesh, batch_size=13)
    assert encoder.batch_size == 16
    model = nnx.merge(built.graphdef, params)
    np.testing.assert_allclose(
        encoder.images(params, images), normalise_features(model.encode_image(normalise(images))), atol=1e-5
    )
    np.testing.assert_allclose(encoder.texts(params, tokens), normalise_features(model.encode_text(tokens)), atol=1e-5)
    assert encoder._image._cache_size() == 1
