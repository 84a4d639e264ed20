"""What is exported here loads in open_clip and in transformers, and gives the same embeddings.

Needs the extra ``parity`` (torch, transformers, open_clip); skipped without.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from clip_jax.config import ImageTowerConfig, ModelConfig, TextTowerConfig
from clip_jax.data.preprocess import Preprocess
from clip_jax.models.clip import CLIP, init_params
from clip_jax.pretrained.load import Weights, save_weights
from clip_jax.pretrained.mapping import flatten, nest

torch = pytest.importorskip("torch", reason="needs the extra parity: pip install clip-jax-scaling[parity]")
SIZE = 32
BASE = ModelConfig(
    image=ImageTowerConfig(width=32, depth=2, heads=4, image_size=SIZE, patch_size=8),
    text=TextTowerConfig(width=32, depth=2, heads=4, context_length=16, vocab_size=300),
    embed_dim=24,
)
RESNET = ImageTowerConfig(width=8, depth=5, heads=4, patch_size=32, image_size=64, stages=(1, 2, 1, 1))


def made(config):
    params = init_params(config, 3)
    flat = {k: np.asarray(v) for k, v in flatten(params).items()}
    rng = np.random.default_rng(0)
    flat = {
        k: v + 0.05 * rng.standard_normal(v.shape).astype(v.dtype) if "var" not in k else v for k, v in flat.items()
    }
    return Weights("made", config, nest(flat), Preprocess(config.image.image_size), None)


def ours(weights, images, tokens):
    graphdef = nnx.split(nnx.eval_shape(lambda: CLIP(weights.config, rngs=nnx.Rngs(0))))[0]
    out = nnx.merge(graphdef, jax.tree.map(jnp.asarray, weights.params))(jnp.asarray(images), jnp.asarray(tokens))
    return np.asarray(out.image), np.asarray(out.text)


def inputs(config):
    rng = np.random.default_rng(1)
    size, text = config.image.image_size, config.text
    images = rng.standard_normal((3, size, size, 3)).astype(np.float32)
    tokens = rng.integers(1, text.vocab_size - 2, (3, text.context_length)).astype(np.int32)
    tokens[:, 0], tokens[:, 9], tokens[:, 10:] = text.vocab_size - 2, text.vocab_size - 1, 0
    return images, tokens


CONFIGS = {
    "tanh": BASE,
    "quick": dataclasses.replace(BASE, activation="quick_gelu"),
    "erf": dataclasses.replace(BASE, activation="gelu_erf"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_transformers_loads_it(tmp_path, name):
    transformers = pytest.importorskip("transformers")
    weights = made(CONFIGS[name])
    save_weights(weights, tmp_path, "transformers")
    model, report = transformers.CLIPModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    images, tokens = inputs(weights.config)
    with torch.no_grad():
        out = model.eval()(
            pixel_values=torch.tensor(images.transpose(0, 3, 1, 2)), input_ids=torch.tensor(tokens).long()
        )
    image, text = ours(weights, images, tokens)
    np.testing.assert_allclose(image, out.image_embeds.numpy(), atol=2e-5)
    np.testing.assert_allclose(text, out.text_embeds.numpy(), atol=2e-5)


@pytest.mark.parametrize("name", [*CONFIGS, "resnet", "bidirectional"])
def test_open_clip_loads_it(tmp_path, name):
    open_clip = pytest.importorskip("open_clip")
    config = CONFIGS.get(name, BASE)
    if name == "resnet":
        config = dataclasses.replace(BASE, image=RESNET)
    if name == "bidirectional":
        text = dataclasses.replace(BASE.text, causal=False, pool="last", layer_scale=0.1)
        image = dataclasses.replace(BASE.image, pool="avg", norm_after_pool=True, norm_pre=False, layer_scale=0.1)
        config = dataclasses.replace(BASE, text=text, image=image)
    weights = made(config)
    save_weights(weights, tmp_path, "open_clip")
    model = open_clip.create_model(f"local-dir:{tmp_path}").eval()
    images, tokens = inputs(config)
    with torch.no_grad():
        theirs = (
            model.encode_image(torch.tensor(images.transpose(0, 3, 1, 2)), normalize=True).numpy(),
            model.encode_text(torch.tensor(tokens).long(), normalize=True).numpy(),
        )
    for mine, other in zip(ours(weights, images, tokens), theirs, strict=True):
        np.testing.assert_allclose(mine, other, atol=2e-5)
