"""Models ready to use, and runs that start from them."""

import dataclasses
import json
import re

import jax
import numpy as np
import pytest
from PIL import Image
from tokenizers import Tokenizer

import clip_jax
from clip_jax import flops
from clip_jax import inference as loading
from clip_jax.cli.main import main
from clip_jax.config import DataConfig, EvalConfig, InitConfig, OptimConfig
from clip_jax.data.images.train_transforms import decode, normalize
from clip_jax.data.tokenizers.clip_bpe import ClipTokenizer
from clip_jax.distributed.mesh import make_mesh
from clip_jax.errors import ConfigError
from clip_jax.evals.encode import Encoder
from clip_jax.models.clip import build, init_params, normalize_features
from clip_jax.models.positions import resize_image_positions
from clip_jax.pretrained.load import load_weights
from clip_jax.pretrained.mapping import flatten
from clip_jax.train.checkpoint import load_params
from clip_jax.train.loop import train
from clip_jax.train.pixels import with_pixels

from .user_errors import error_fields, raises_user_error

TEXTS = ["a photo of a cat", "Émile's  &amp; co!!"]
NO_EVALS = EvalConfig(zero_shot=(), val_pairs=16, val_partitions=1)


@pytest.fixture(scope="module")
def base(tiny_run, tmp_path_factory):
    """Train a small run; return its directory."""
    path = tmp_path_factory.mktemp("base") / "run"
    train(tiny_run, path, progress=False)
    return path


@pytest.fixture
def pictures(tmp_path):
    paths = []
    for name, color in (("red", "red"), ("blue", "blue")):
        Image.new("RGB", (40, 50), color).save(tmp_path / f"{name}.png")
        paths.append(tmp_path / f"{name}.png")
    return paths


def params_of(run_dir, config):
    built = build(config.model, make_mesh(config.mesh))
    return flatten(load_params(run_dir, built)[1])


@pytest.mark.thorough
def test_load_model_of_a_run_embeds_and_classifies(base, pictures, tiny_run):
    model = clip_jax.load_model(str(base))
    count, size = flops.params(tiny_run.model).total, tiny_run.model.image.image_size
    assert repr(model) == f"<LoadedModel {base}: {count:,} parameters, images of {size} pixels>"
    images, texts = model.embed_images(pictures), model.embed_texts(["a red thing", "a blue thing"])
    assert images.shape == texts.shape == (2, tiny_run.model.embed_dim)
    np.testing.assert_allclose(np.linalg.norm(images, axis=1), 1, atol=1e-5)
    pixels = normalize(model.preprocess.batch(pictures), model.preprocess.mean, model.preprocess.std)
    np.testing.assert_allclose(normalize_features(model.module.encode_image(pixels)), images, atol=1e-5)
    shares = model.classify(pictures, ["red", "blue", "green"], ["a {c}.", "the {c}."])
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-6)
    with raises_user_error(field="labels", value=["red"]):
        model.classify(pictures, ["red"])
    with raises_user_error(field="template", value="a photo."):
        model.classify(pictures, ["red", "blue"], ["a photo."])
    for field, call in (("images", model.embed_images), ("texts", model.embed_texts)):
        with raises_user_error(field=field, value=[], reason="must hold at least one"):
            call([])
        with raises_user_error(field=field, value="a dog", reason="must be a list"):
            call("a dog")
    with raises_user_error(field="labels", value="a dog", reason="must be a list"):
        model.classify(pictures, "a dog")


def test_the_exported_run_is_the_same_model(base, pictures, tmp_path):
    first = clip_jax.load_model(str(base))
    for layout in ("open_clip", "transformers"):
        command = ["export", str(base), str(tmp_path / layout), f"--layout={layout}"]
        assert main([*command, "--license=mit"]) == 0
        result, card = json.loads((base / "result.json").read_text()), (tmp_path / layout / "README.md").read_text()
        for row in result["evals"]:
            assert f"| {row['task']} | {row['metric']} | {row['value']:.4f} |" in card
        for fact in ("license: mit", f"{result['params']:,} parameters", f"| training FLOPs | {result['flops']:.3g} |"):
            assert fact in card
        assert main(command) == 0  # its own card is written again
        assert "license" not in (tmp_path / layout / "README.md").read_text()
        again = clip_jax.load_model(str(tmp_path / layout))
        assert again.digest == first.digest
        np.testing.assert_array_equal(again.embed_images(pictures), first.embed_images(pictures))
        np.testing.assert_array_equal(again.embed_texts(["a cat"]), first.embed_texts(["a cat"]))


@pytest.mark.thorough
def test_a_run_with_clips_vocabulary_exports_it(tiny_run, tmp_path):
    model = dataclasses.replace(
        tiny_run.model, text=dataclasses.replace(tiny_run.model.text, context_length=77, vocab_size=49_408)
    )
    config = dataclasses.replace(
        tiny_run, model=model, data=DataConfig(tokenizer="clip", num_threads=1), evals=NO_EVALS, steps=4
    )
    train(config, tmp_path / "run", progress=False)
    folders = {"run": tmp_path / "run"}
    for layout in ("open_clip", "transformers"):
        folders[layout] = tmp_path / layout
        assert main(["export", str(tmp_path / "run"), str(folders[layout]), f"--layout={layout}"]) == 0
    published = ClipTokenizer().encode(TEXTS)
    for folder in folders.values():
        np.testing.assert_array_equal(loading.read_weights(str(folder)).tokenizer.encode(TEXTS), published)
    text_cfg = json.loads((folders["open_clip"] / "open_clip_config.json").read_text())["model_cfg"]["text_cfg"]
    assert (text_cfg["vocab_size"], text_cfg["context_length"]) == (49_408, 77)
    assert "hf_tokenizer_name" not in text_cfg  # the published vocabulary is open_clip's own
    written = Tokenizer.from_file(str(folders["transformers"] / "tokenizer.json")).encode(TEXTS[0]).ids
    assert written == published[0, : len(written)].tolist()


def test_export_leaves_a_readme_of_someone_alone(golden, tmp_path):
    (tmp_path / "README.md").write_text("# My project")
    with raises_user_error(field=tmp_path / "README.md", reason="exists and is not from an export"):
        loading.export(str(golden / "openclip_vit_gelu"), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["README.md"]


def test_classify_from_the_command_line(base, pictures, capsys):
    command = ["classify", *map(str, pictures), "--labels", "a dog", "a cat", f"--model={base}"]
    assert main(command) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert len(lines) == 2
    assert "a dog" in lines[0]
    assert "%" in lines[0]
    assert main(["classify", "nothing.jpg", "--labels", "a", "b", f"--model={base}"]) == 2
    start = [f"reading the last checkpoint of {base}", "devices", "parameters"]
    assert error_fields(capsys.readouterr().err) == [*start, "nothing.jpg"]
    assert main(["classify", str(pictures[0]), "--labels", "a", "b", "--model=nowhere"]) == 2


def test_load_model_without_a_tokenizer_embeds_images(golden, pictures):
    model = clip_jax.load_model(str(golden / "hf_clip"))
    assert model.embed_images(pictures).shape == (2, 24)
    with raises_user_error(field=model.name, reason="tokenizer"):
        model.embed_texts(["a"])


@pytest.mark.thorough
@pytest.mark.parametrize("tower", ["image", "text"])
def test_train_with_a_frozen_tower_updates_the_other_only(base, tiny_run, tmp_path, tower):
    config = dataclasses.replace(tiny_run, init_from=InitConfig(str(base), towers=tower, freeze_tower=tower), seed=5)
    result = train(config, tmp_path / "run", start_from=loading.start_from, progress=False)
    before, after = params_of(base, tiny_run), params_of(tmp_path / "run", config)
    other = {"image": "text", "text": "image"}[tower]
    for name in before:
        same = np.array_equal(before[name], after[name])
        if name.startswith(tower):
            assert same, name
        elif name.startswith(other) and name.endswith("kernel"):
            assert not same, name
    free = dataclasses.replace(config, init_from=InitConfig())
    assert result["flops"] < loading_flops(free)


def loading_flops(config):
    from clip_jax.train.loop import training_flops

    return training_flops(config, config.samples_seen).total


def test_start_from_another_resolution_and_context_resizes_positions(base, tiny_run):
    model = tiny_run.model
    image = dataclasses.replace(model.image, image_size=2 * model.image.image_size)
    text = dataclasses.replace(model.text, context_length=model.text.context_length + 6)
    config = dataclasses.replace(
        tiny_run, model=dataclasses.replace(model, image=image, text=text), init_from=InitConfig(str(base))
    )
    start = loading.start_from(config)
    fresh = jax.jit(lambda: init_params(config.model, 0))()
    params, source = flatten(start.params(fresh)), params_of(base, tiny_run)
    assert params["image/position"].shape[0] == 4 * (source["image/position"].shape[0] - 1) + 1
    np.testing.assert_array_equal(params["image/position"][0], source["image/position"][0])
    assert params["text/position"].shape[0] == text.context_length
    np.testing.assert_array_equal(params["image/projection"], source["image/projection"])
    assert start.tokenizer.context_length == text.context_length


@pytest.mark.thorough
def test_train_resumes_without_its_source(base, tiny_run, tmp_path):
    config = dataclasses.replace(tiny_run, init_from=InitConfig(str(base), freeze_tower="image"))
    train(config, tmp_path / "run", start_from=loading.start_from, stop_after=3, progress=False)

    def gone(_):
        raise AssertionError("the source is read only at the start")

    train(config, tmp_path / "run", start_from=gone, progress=False)
    train(config, tmp_path / "whole", start_from=loading.start_from, progress=False)
    a, b = params_of(tmp_path / "run", config), params_of(tmp_path / "whole", config)
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])


@pytest.mark.filterwarnings("ignore:.*no config beside it, so read as a released model")
def test_start_from_a_source_that_does_not_fit_is_refused(base, tiny_run, golden, tmp_path):
    model = dataclasses.replace(tiny_run.model, embed_dim=tiny_run.model.embed_dim * 2)
    config = dataclasses.replace(tiny_run, model=model, init_from=InitConfig(str(base)))
    with raises_user_error(field="model.embed_dim", value=config.model.embed_dim):
        loading.start_from(config)
    with raises_user_error(field=re.compile(r"^model\.image\.")):
        loading.start_from(dataclasses.replace(tiny_run, init_from=InitConfig(str(golden / "openai_rn"))))
    with raises_user_error(field="init_from.source", reason="start_from="):
        train(dataclasses.replace(tiny_run, init_from=InitConfig(str(base))), tmp_path / "x", progress=False)
    for bad in ({"towers": "image"}, {"source": "x", "towers": "image", "freeze_tower": "text"}):
        with raises_user_error(ConfigError, field=re.compile("init_from.freeze_tower")):
            InitConfig(**bad)


class Rows:
    """A tokenizer that knows one batch."""

    def __init__(self, tokens):
        self.tokens = tokens

    def encode(self, texts):
        return self.tokens[: len(texts)]


def test_text_states_equal_the_reference(golden, monkeypatch):
    model = clip_jax.load_model(str(golden / "hf_clip"))
    inputs, want = np.load(golden / "hf_clip" / "inputs.npz"), np.load(golden / "hf_clip" / "outputs.npz")
    monkeypatch.setattr(type(model), "tokenizer", Rows(inputs["text"]))
    texts = [""] * len(inputs["text"])
    for name, states in (
        ("text_last_hidden", model.text_states(texts)),
        ("text_penultimate", model.text_states(texts, -2, final_norm=False)),
        ("text_penultimate_ln", model.text_states(texts, -2)),
    ):
        np.testing.assert_allclose(states, want[name], atol=5e-5 * max(1, np.abs(want[name]).max()), err_msg=name)
    with pytest.raises(ValueError, match="layer=-9"):
        model.text_states(texts, -9)


def test_load_model_compute_dtype_is_applied_and_recorded(golden, monkeypatch):
    path = str(golden / "hf_clip")
    full, half = clip_jax.load_model(path), clip_jax.load_model(path, compute_dtype="bfloat16")
    assert (full.precision, half.precision) == ("float32", "bfloat16")
    assert full.digest == half.digest
    precisions, precision_of = [], jax.default_matmul_precision
    monkeypatch.setattr(jax, "default_matmul_precision", lambda value: precisions.append(value) or precision_of(value))
    pixels = np.random.default_rng(0).integers(0, 255, (8, 32, 32, 3), np.uint8)
    a, b = full.embed_pixels(pixels), half.embed_pixels(pixels)
    assert 1e-4 < np.abs(a - b).max() < 0.1
    assert precisions == ["highest", None]  # float32 on accelerators too; a CPU knows no other
    with raises_user_error(ConfigError, field="model.compute_dtype", value="int8"):
        clip_jax.load_model(path, compute_dtype="int8")


@pytest.mark.thorough
def test_train_with_a_frozen_published_tower_at_another_resolution(golden, tiny_run, tmp_path):
    source = load_weights(str(golden / "openai_vit"))
    image = dataclasses.replace(source.config.image, image_size=2 * source.config.image.image_size)
    model = dataclasses.replace(
        tiny_run.model, image=image, embed_dim=source.config.embed_dim, activation=source.config.activation
    )
    config = dataclasses.replace(
        tiny_run,
        model=model,
        steps=3,
        init_from=InitConfig(str(golden / "openai_vit"), towers="image", freeze_tower="image"),
    )
    train(config, tmp_path / "run", start_from=loading.start_from, progress=False)
    after, before = params_of(tmp_path / "run", config), flatten(source.params)
    sides = (image.image_size // image.patch_size,) * 2
    for name in (n for n in before if n.startswith("image")):
        want = resize_image_positions(before[name], sides, 1) if name == "image/position" else before[name]
        np.testing.assert_array_equal(after[name], want, err_msg=name)


def test_load_model_of_an_unreachable_name_is_refused(monkeypatch, tmp_path):
    def fetch(repo, file):
        raise FileNotFoundError(file)

    with raises_user_error(field=re.compile("^hf:"), reason="config.json"):
        loading.load_model("openai/ViT-B-32", fetch=fetch)
    assert json.dumps(ClipTokenizer(8).encode(["a"]).tolist())


@pytest.fixture(scope="module")
def captioner(run_of, tmp_path_factory):
    """Train a run of the caption objective for one step."""
    path = tmp_path_factory.mktemp("captioner") / "run"
    run = dataclasses.replace(run_of("caption"), optim=OptimConfig(warmup_steps=0), steps=1)
    train(run, path, progress=False)
    return run, path


@pytest.mark.thorough
def test_load_model_of_a_predictive_run_has_image_embeddings_only(captioner, pictures, tmp_path):
    model = clip_jax.load_model(str(captioner[1]))
    assert model.embed_images(pictures).shape == (2, 16)
    assert model.embed_and_features(np.zeros((2, 32, 32, 3), np.uint8))[1].shape == (2, 16)
    for ask in (lambda: model.embed_texts(["a"]), lambda: model.classify(pictures, ["a", "b"])):
        with raises_user_error(field=model.name, reason="model.objective='caption'"):
            ask()
    with raises_user_error(field=captioner[1], reason="model.objective='caption'"):
        loading.export(str(captioner[1]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.thorough
def test_start_from_moves_towers_between_objectives(captioner, run_of, base):
    run, path = captioner
    for config, source in ((run_of("contrastive"), path), (run, base)):
        config = dataclasses.replace(
            config, init_from=InitConfig(source=str(source), towers="image", freeze_tower="image")
        )
        fresh = jax.jit(lambda model=config.model: init_params(model, 5))()
        begun = flatten(loading.start_from(config).params(fresh))
        reference = flatten(loading.read_weights(str(source)).params)
        for name, value in flatten(fresh).items():
            np.testing.assert_array_equal(begun[name], reference[name] if name.startswith("image/") else value)
    whole = dataclasses.replace(run, init_from=InitConfig(source=str(path)))
    begun = flatten(loading.start_from(whole).params(jax.jit(lambda: init_params(run.model, 5))()))
    jax.tree.map(np.testing.assert_array_equal, begun, flatten(loading.read_weights(str(path)).params))
    other = dataclasses.replace(run, init_from=InitConfig(source=str(base)))
    with raises_user_error(field="model.objective", value="caption", hint="towers='image'"):
        loading.start_from(other)


def cosine(a, b):
    return float((a * b).sum(axis=1).min())


@pytest.mark.thorough
def test_train_with_a_frozen_siglip_tower_keeps_its_pixels(golden, tiny_run, pairs_dir, tmp_path, caplog):
    # Trained as `train_run` does, it keeps the source's pixel normalization and resizing.
    source = str(golden / "openclip_siglip")
    reference = clip_jax.load_model(source)
    model = dataclasses.replace(
        tiny_run.model, image=reference.config.image, embed_dim=reference.config.embed_dim,
        activation=reference.config.activation,
    )  # fmt: skip
    config = dataclasses.replace(
        tiny_run, model=model, steps=3, init_from=InitConfig(source, towers="image", freeze_tower="image"),
        data=dataclasses.replace(tiny_run.data, source="webdataset", paths=(str(pairs_dir),)),
        evals=dataclasses.replace(tiny_run.evals, zero_shot=(), val_pairs=8),
    )  # fmt: skip
    rng = np.random.default_rng(0)
    shots = [np.asarray(Image.fromarray(rng.integers(0, 255, (5, 7, 3), np.uint8)).resize((90, 50))) for _ in range(6)]
    want = reference.embed_images(shots)
    train(config, tmp_path / "run", start_from=loading.start_from, progress=False)
    assert json.loads((tmp_path / "run" / "preprocess.json").read_text())["resize_mode"] == "squash"
    assert cosine(clip_jax.load_model(str(tmp_path / "run")).embed_images(shots), want) > 0.9999
    assert not [r for r in caplog.records if r.name.startswith("clip_jax")]

    settled = with_pixels(config, tmp_path / "run")  # what training and its evaluations see
    built = build(config.model, make_mesh(config.mesh))
    params = load_params(tmp_path / "run", built)[1]
    encoder = Encoder(built, make_mesh(config.mesh), 8, mean=settled.pixels.mean, std=settled.pixels.std)
    size = config.model.image.image_size
    seen = np.stack([decode(shot, size, pixels=settled.pixels) for shot in shots])
    assert cosine(encoder.images(params, seen), want) > 0.9999

    (tmp_path / "run" / "preprocess.json").unlink()  # as a run of before
    assert clip_jax.load_model(str(tmp_path / "run")).preprocess.resize_mode == "shortest"
    assert "init_from" in caplog.text
