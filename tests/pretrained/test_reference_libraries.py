"""What is exported here loads in open_clip and in transformers, and gives the same embeddings; what is written here of
their names, sizes and texts is theirs.

Needs the extra ``parity`` (torch, transformers, open_clip); skipped without.
"""

import dataclasses
import json
import os
import random
import subprocess
import sys
import unicodedata
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from clip_jax import flops
from clip_jax.config import DecoderConfig, ImageTowerConfig, ModelConfig, TextTowerConfig
from clip_jax.data.images.eval_preprocess import Preprocess
from clip_jax.data.tokenizers.clip_bpe import END, VOCAB_SIZE, ClipTokenizer, clean, published_tokenizer
from clip_jax.data.tokenizers.huggingface import HFTokenizer, clean_text
from clip_jax.data.tokenizers.learned_bpe import train_tokenizer
from clip_jax.errors import UserError
from clip_jax.models.clip import CLIP, init_params
from clip_jax.pretrained.files import read_tensors
from clip_jax.pretrained.load import Weights, load_weights, save_weights
from clip_jax.pretrained.mapping import flatten, nest
from clip_jax.pretrained.model_card import model_card
from clip_jax.pretrained.names import table
from clip_jax.pretrained.open_clip import config_of as open_clip_config_of
from clip_jax.pretrained.open_clip import trunk_activation
from clip_jax.pretrained.preprocessor import SIGLIP_MEAN_STD

from ..hub import TOKEN, StandIn

torch = pytest.importorskip("torch", reason="needs the extra parity: pip install clip-jax-scaling[parity]")
pytestmark = pytest.mark.thorough
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


def outputs_of(weights, images, tokens):
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
    image, text = outputs_of(weights, images, tokens)
    np.testing.assert_allclose(image, out.image_embeds.numpy(), atol=2e-5)
    np.testing.assert_allclose(text, out.text_embeds.numpy(), atol=2e-5)


def agrees_with_open_clip(weights, folder):
    """Assert that open_clip, loading the folder, gives the embeddings that ours gives."""
    model = pytest.importorskip("open_clip").create_model(f"local-dir:{folder}").eval()
    images, tokens = inputs(weights.config)
    with torch.no_grad():
        reference = (
            model.encode_image(torch.tensor(images.transpose(0, 3, 1, 2)), normalize=True).numpy(),
            model.encode_text(torch.tensor(tokens).long(), normalize=True).numpy(),
        )
    for actual, other in zip(outputs_of(weights, images, tokens), reference, strict=True):
        np.testing.assert_allclose(actual, other, atol=2e-5)


@pytest.mark.parametrize("name", [*CONFIGS, "resnet", "bidirectional", "siglip", "coca"])
def test_open_clip_loads_it(tmp_path, name):
    pytest.importorskip("open_clip")
    config = (CONFIGS | {"siglip": NAMED_SIGLIP, "coca": COCA}).get(name, BASE)
    if name == "resnet":
        config = dataclasses.replace(BASE, image=RESNET)
    if name == "bidirectional":
        text = dataclasses.replace(BASE.text, causal=False, pool="last", layer_scale=0.1)
        image = dataclasses.replace(BASE.image, pool="avg", norm_after_pool=True, norm_pre=False, layer_scale=0.1)
        config = dataclasses.replace(BASE, text=text, image=image)
    weights = made(config)
    save_weights(weights, tmp_path, "open_clip")
    agrees_with_open_clip(weights, tmp_path)


def test_the_table_of_names_is_open_clips():
    pytest.importorskip("open_clip")
    from open_clip.pretrained import get_pretrained_cfg

    for name, repo in table()["open_clip"].items():
        assert get_pretrained_cfg(*name.split("/"))["hf_hub"].rstrip("/") == repo, name
    for name, repo in table()["openai"].items():
        architecture = name.removesuffix("px")
        assert get_pretrained_cfg(architecture, "openai")["hf_hub"].rstrip("/") == repo, name


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


def test_clip_tokenizer_random_texts_have_open_clips_ids():
    pytest.importorskip("open_clip")
    from open_clip.tokenizer import SimpleTokenizer

    reference, draw = SimpleTokenizer(), random.Random(0)
    often = [*"'sStTrReEvVmMlLdDſ 1²½!<>_-\t\n&;#aé東\u0345ª", "&amp;", "&lt;", "&#39;"]
    others = [chr(n) for n in range(0x110000) if unicodedata.ucd_3_2_0.category(chr(n)) not in ("Cn", "Cs")]
    for _ in range(20_000):
        text = "".join(draw.choice(often if draw.random() < 0.8 else others) for _ in range(draw.randint(1, 12)))
        assert published_tokenizer().encode(clean(text)).ids == reference.encode(text), text


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
    command = str(error.value).split("convert it: ")[1].replace("python ", f"{sys.executable} -W ignore ", 1)
    subprocess.run(command, shell=True, cwd=tmp_path, check=True)
    tensors = read_tensors(tmp_path / "model.safetensors")
    assert {k: v.tolist() for k, v in tensors.items()} == {k: v.tolist() for k, v in wanted.items()}


def write_tokenizer(folder, kind, **settings):
    """Write a tiny ``tokenizer.json`` of that class of transformers, and its ``tokenizer_config.json``."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.,!'_-"
    if kind == "BertTokenizer":
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters), "photo"]
        library = Tokenizer(models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
        library.normalizer = normalizers.BertNormalizer(lowercase=True)
        library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        library.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
        config = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]",
                  "mask_token": "[MASK]", "do_lower_case": True}  # fmt: skip
    else:
        words = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{i:02X}>" for i in range(256)), "▁", *letters]
        vocab = {w: i for i, w in enumerate(words)} | {"▁a": len(words), "ph": len(words) + 1}
        library = Tokenizer(models.BPE(vocab, [("▁", "a"), ("p", "h")], fuse_unk=True, unk_token="<unk>",
                                       byte_fallback=True))  # fmt: skip
        library.normalizer = normalizers.Replace(" ", "▁")
        library.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
        single = "<bos> $A <eos>" if settings.get("add_bos_token") else "$A <eos>"
        library.post_processor = processors.TemplateProcessing(
            single=single, pair=f"{single} $B <eos>", special_tokens=[("<eos>", 1), ("<bos>", 2)]
        )
        library.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
        config = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>",
                  "mask_token": "<mask>", "add_eos_token": True, "add_bos_token": False}  # fmt: skip
    specials = [v for k, v in config.items() if k.endswith("_token") and isinstance(v, str)]
    library.add_special_tokens(specials)
    library.save(str(folder / "tokenizer.json"))
    config |= {"tokenizer_class": kind, "model_max_length": 64, **settings}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


TEXTS = ["A photo of a Dog!", "a  cat_and &amp; two", "", "photo " * 30]


@pytest.mark.parametrize(
    ("kind", "settings"),
    [("GemmaTokenizer", {"padding_side": "right"}), ("GemmaTokenizer", {}),
     ("GemmaTokenizer", {"padding_side": "right", "add_bos_token": True}),
     ("Siglip2Tokenizer", {"padding_side": "right"}), ("BertTokenizer", {}),
     ("BertTokenizer", {"do_lower_case": False})],
)  # fmt: skip
def test_tokens_are_those_of_transformers(tmp_path, kind, settings):
    transformers = pytest.importorskip("transformers")
    config = dataclasses.replace(SIGLIP, text=dataclasses.replace(SIGLIP.text, vocab_size=400))
    save_weights(made(config), tmp_path, "transformers")
    write_tokenizer(tmp_path, kind, **settings)
    library_tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert type(library_tokenizer).__name__.removesuffix("Fast") == kind
    want = library_tokenizer(TEXTS, padding="max_length", truncation=True, max_length=16, return_tensors="np")[
        "input_ids"
    ]
    np.testing.assert_array_equal(load_weights(str(tmp_path)).tokenizer.encode(TEXTS), want)


def test_what_the_library_writes_itself_is_read(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = dataclasses.replace(SIGLIP, text=dataclasses.replace(SIGLIP.text, vocab_size=400))
    save_weights(made(config), tmp_path, "transformers")
    (tmp_path / "first").mkdir()
    write_tokenizer(tmp_path / "first", "GemmaTokenizer", padding_side="right", do_lower_case=True)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "first")
    pictures = transformers.SiglipImageProcessor(size={"height": SIZE, "width": SIZE}, resample=2)
    transformers.SiglipProcessor(pictures, tokenizer).save_pretrained(tmp_path)
    weights = load_weights(str(tmp_path))
    assert weights.preprocess == Preprocess(SIZE, "squash", "bilinear", SIGLIP_MEAN_STD, SIGLIP_MEAN_STD)
    # as SigLIP 2 was trained and as its file says; the library passes over do_lower_case
    want = tokenizer([t.lower() for t in TEXTS], padding="max_length", truncation=True, max_length=16)["input_ids"]
    np.testing.assert_array_equal(weights.tokenizer.encode(TEXTS), want)


@pytest.mark.parametrize(
    ("kind", "kwargs"),
    [("GemmaTokenizer", {"clean": "canonicalize"}), ("Siglip2Tokenizer", {"clean": "canonicalize"}),
     ("GemmaTokenizer", {}), ("BertTokenizer", {"strip_sep_token": True}), ("BertTokenizer", {"clean": "lower"})],
)  # fmt: skip
def test_tokens_are_those_of_open_clip(tmp_path, kind, kwargs):
    # SigLIP 2's and CLIPA's.
    open_clip = pytest.importorskip("open_clip")
    config = dataclasses.replace(SIGLIP, text=dataclasses.replace(SIGLIP.text, vocab_size=400))
    save_weights(made(config), tmp_path, "open_clip")
    write_tokenizer(tmp_path, kind, padding_side="right")
    file = tmp_path / "open_clip_config.json"
    values = json.loads(file.read_text())
    values["model_cfg"]["text_cfg"] |= {"hf_tokenizer_name": "theirs", "tokenizer_kwargs": kwargs}
    file.write_text(json.dumps(values))
    want = open_clip.get_tokenizer(f"local-dir:{tmp_path}")(TEXTS).numpy()
    np.testing.assert_array_equal(load_weights(str(tmp_path)).tokenizer.encode(TEXTS), want)


def test_every_siglip_trunk_of_timm_has_the_activation_that_is_taken_for_it():
    timm = pytest.importorskip("timm")
    names = [n for n in timm.list_models("vit_*_siglip_*") if "gap" not in n]
    assert len(names) > 10
    for name in names:
        with torch.device("meta"):
            trunk = timm.create_model(name, num_classes=0)
        for act in (trunk.blocks[0].mlp.act, trunk.attn_pool.mlp.act):
            tanh = "Tanh" in type(act).__name__ or getattr(act, "approximate", "none") == "tanh"
            assert trunk_activation(name) == ("gelu" if tanh else "gelu_erf"), name


# SigLIP 2: the text tower has the tanh form, the trunk what timm builds by its name
SIGLIP2 = {
    "base16": dataclasses.replace(NAMED_SIGLIP, text_activation="gelu"),
    "base32": dataclasses.replace(
        NAMED_SIGLIP, activation="gelu",
        image=dataclasses.replace(NAMED_SIGLIP.image, patch_size=32, image_size=256),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SIGLIP2)
def test_siglip_2_is_open_clips(tmp_path, name):
    pytest.importorskip("open_clip")
    weights = made(SIGLIP2[name])
    save_weights(weights, tmp_path, "open_clip")
    assert load_weights(str(tmp_path)).digest == weights.digest
    agrees_with_open_clip(weights, tmp_path)


@pytest.mark.parametrize(("image", "text"), [("gelu_erf", "gelu"), ("gelu", "")])
def test_siglip_2_is_transformers(tmp_path, image, text):
    transformers = pytest.importorskip("transformers")
    weights = made(dataclasses.replace(SIGLIP, activation=image, text_activation=text))
    save_weights(weights, tmp_path, "transformers")
    model = transformers.SiglipModel.from_pretrained(tmp_path).eval()
    images, tokens = inputs(weights.config)
    with torch.no_grad():
        out = model(pixel_values=torch.tensor(images.transpose(0, 3, 1, 2)), input_ids=torch.tensor(tokens).long())
    actual = outputs_of(load_weights(str(tmp_path)), images, tokens)
    np.testing.assert_allclose(actual[0], out.image_embeds.numpy(), atol=2e-5)
    np.testing.assert_allclose(actual[1], out.text_embeds.numpy(), atol=2e-5)


def exported_tokenizers():
    """Return a tokenizer of each class by name, with the vocabulary size of its model."""
    learned = train_tokenizer(["a photo of a dog's ball", "two cats, 3 birds"] * 3, 300, 16)
    library = published_tokenizer()
    siglip = HFTokenizer(library.to_str(), 16, pad_id=1, clean="no_punctuation")
    return {
        "published": (ClipTokenizer(16), VOCAB_SIZE),
        "published, padded by its end": (ClipTokenizer(16, END), VOCAB_SIZE),
        "learned": (learned, 300),
        "from a file": (siglip, VOCAB_SIZE),
    }


@pytest.mark.parametrize("name", ["published", "published, padded by its end", "learned", "from a file"])
@pytest.mark.parametrize("layout", ["transformers", "open_clip"])
def test_save_weights_any_tokenizer_has_the_same_ids_in_the_library(tmp_path, name, layout):
    library = pytest.importorskip(layout)
    tokenizer, vocab_size = exported_tokenizers()[name]
    config = dataclasses.replace(BASE, text=dataclasses.replace(BASE.text, vocab_size=vocab_size))
    save_weights(dataclasses.replace(made(config), tokenizer=tokenizer), tmp_path, layout)
    texts = ["A photo of a Dog's ball!", "a  cat_and\ttwo 12 birds", "", "photo " * 30, "東京 é"]
    if layout == "transformers":
        library_tokenizer = library.AutoTokenizer.from_pretrained(tmp_path)
        ids = library_tokenizer(texts, padding="max_length", truncation=True, return_tensors="np")["input_ids"]
    else:
        ids = library.get_tokenizer(f"local-dir:{tmp_path}")(texts).numpy()
    by_end = name == "published" and layout == "transformers"  # no file can say that "!" pads
    np.testing.assert_array_equal(ids, (ClipTokenizer(16, END) if by_end else tokenizer).encode(texts))
    again = load_weights(str(tmp_path)).tokenizer
    np.testing.assert_array_equal(again.encode(texts), tokenizer.encode(texts))


SHOW_IDS = {
    "open_clip": "tokenizer(texts).tolist()",
    "transformers": 'tokenizer(texts, padding="max_length", truncation=True)["input_ids"]',
}


@pytest.mark.parametrize("layout", ["open_clip", "transformers"])
def test_the_code_of_a_pushed_card_loads_it_from_the_hub(tmp_path, layout):
    pytest.importorskip(layout)
    texts, folder = ["A photo of a Dog", "two 12 birds"], tmp_path / "own"
    tokenizer = train_tokenizer(["a photo of a dog"], BASE.text.vocab_size, BASE.text.context_length)
    save_weights(dataclasses.replace(made(BASE), tokenizer=tokenizer), folder, layout)
    (folder / "README.md").write_text(model_card("own", BASE, layout, source="made"))
    with StandIn() as hub:
        home = {"HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
        up = "import sys; from clip_jax.cli.main import main; sys.exit(main(['push', sys.argv[1], 'me/own']))"
        subprocess.run([sys.executable, "-c", up, str(folder)], check=True, env={**os.environ, **home})
        code = hub.files["me/own"]["README.md"].decode().split("```python\n")[1].split("```")[0]
        code += f"import json\ntexts = {texts!r}\nprint(json.dumps({SHOW_IDS[layout]}))\n"
        command = [sys.executable, "-c", code + "print(sum(p.numel() for p in model.parameters()))"]
        done = subprocess.run(command, env={**os.environ, **home}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ids, count = done.stdout.splitlines()[-2:]
    np.testing.assert_array_equal(json.loads(ids), tokenizer.encode(texts))
    assert int(count) == flops.params(BASE).total
