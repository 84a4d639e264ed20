"""What is exported here loads in open_clip and in transformers, and gives the same embeddings; what is written here of
their names, sizes and texts is theirs.

Needs the extra ``parity`` (torch, transformers, open_clip); skipped without.
"""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from clip_jax import flops
from clip_jax.config import DecoderConfig, ImageTowerConfig, ModelConfig, TextTowerConfig, UserError
from clip_jax.data.hf_tokenizer import clean_text
from clip_jax.data.preprocess import Preprocess
from clip_jax.models.clip import CLIP, init_params
from clip_jax.pretrained.files import read_tensors
from clip_jax.pretrained.load import Weights, save_weights
from clip_jax.pretrained.mapping import flatten, nest
from clip_jax.pretrained.names import table
from clip_jax.pretrained.open_clip import config_of as open_clip_config_of

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


SIGLIP = dataclasses.replace(
    BASE,
    image=dataclasses.replace(BASE.image, pool="map", class_token=False, norm_pre=False, patch_bias=True, norm_eps=1e-6,
                              width=24, projection=False),
    text=dataclasses.replace(BASE.text, causal=False, pool="last", projection_bias=True, norm_eps=1e-6),
    activation="gelu_erf", logit_bias=True, max_logit_scale=1e4,
)  # fmt: skip
# released versions know only the trunks that timm names
NAMED_SIGLIP = dataclasses.replace(
    SIGLIP, image=dataclasses.replace(SIGLIP.image, width=768, depth=12, heads=12, patch_size=16, image_size=224),
    embed_dim=768,
)  # fmt: skip
COCA = dataclasses.replace(
    BASE,
    image=dataclasses.replace(BASE.image, pool="attentional", pool_heads=4, pool_queries=5),
    text=dataclasses.replace(BASE.text, pool="cls"),
    decoder=DecoderConfig(depth=2, width=32, heads=4),
    embed_dim=32,
    activation="gelu_erf",
)
CONFIGS = {
    "tanh": BASE,
    "quick": dataclasses.replace(BASE, activation="quick_gelu"),
    "erf": dataclasses.replace(BASE, activation="gelu_erf"),
}


@pytest.mark.parametrize("name", [*CONFIGS, "siglip"])
def test_transformers_loads_it(tmp_path, name):
    transformers = pytest.importorskip("transformers")
    weights = made(SIGLIP if name == "siglip" else CONFIGS[name])
    save_weights(weights, tmp_path, "transformers")
    kind = transformers.SiglipModel if name == "siglip" else transformers.CLIPModel
    model, report = kind.from_pretrained(tmp_path, output_loading_info=True)
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


@pytest.mark.parametrize("name", [*CONFIGS, "resnet", "bidirectional", "siglip", "coca"])
def test_open_clip_loads_it(tmp_path, name):
    open_clip = pytest.importorskip("open_clip")
    config = (CONFIGS | {"siglip": NAMED_SIGLIP, "coca": COCA}).get(name, BASE)
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


def test_the_table_of_names_is_open_clips():
    pytest.importorskip("open_clip")
    from open_clip.pretrained import get_pretrained_cfg

    for name, repo in table()["open_clip"].items():
        assert get_pretrained_cfg(*name.split("/"))["hf_hub"].rstrip("/") == repo, name
    for name, repo in table()["openai"].items():
        theirs = name.removesuffix("px")
        assert get_pretrained_cfg(theirs, "openai")["hf_hub"].rstrip("/") == repo, name


def test_every_config_of_the_table_is_read_and_counts_the_same_parameters():
    open_clip = pytest.importorskip("open_clip")
    names = sorted({n.split("/")[0] for n in table()["open_clip"]})
    names += [n.removesuffix("px") for n in table()["openai"]]
    small = [n for n in dict.fromkeys(names) if not any(big in n for big in ("bigG", "giant", "RN50x"))]
    assert len(small) > 15
    for name in small:
        config = open_clip_config_of(open_clip.get_model_config(name), name)
        with torch.device("meta"):
            model = open_clip.create_model(name, pretrained=None, load_weights=False, device="meta")
        assert flops.params(config).total == sum(p.numel() for p in model.parameters()), name


def test_texts_are_cleaned_as_open_clip_does():
    pytest.importorskip("open_clip")
    from open_clip.tokenizer import _clean_canonicalize, _clean_lower

    cases = json.loads((Path(__file__).parents[1] / "parity" / "tokenizer.json").read_text())["cases"]
    for text in (c["text"] for c in cases):
        assert clean_text(text, "canonicalize") == _clean_canonicalize(text)
        assert clean_text(text, "lower") == _clean_lower(text)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated:FutureWarning")
@pytest.mark.parametrize("kind", ["plain", "checkpoint", "script"])
def test_the_command_that_a_pickle_is_refused_with_converts_it(tmp_path, kind):
    linear = torch.nn.Linear(3, 2)
    wanted, path = linear.state_dict(), tmp_path / "model.pt"
    if kind == "plain":
        torch.save(wanted, path)
    elif kind == "checkpoint":
        torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in wanted.items()}}, path)
    else:
        torch.jit.trace(linear, torch.zeros(1, 3)).save(str(path))
    with pytest.raises(UserError) as error:
        read_tensors(path)
    command = str(error.value).split("trust it: ")[1].replace("python ", f"{sys.executable} -W ignore ", 1)
    subprocess.run(command, shell=True, cwd=tmp_path, check=True)
    found = read_tensors(tmp_path / "model.safetensors")
    assert {k: v.tolist() for k, v in found.items()} == {k: v.tolist() for k, v in wanted.items()}
