"""Config: what is checked."""

import pytest

from clip_jax import config as c
from clip_jax import errors
from clip_jax.config.io import from_dict, load
from clip_jax.config.sweep import SweepConfig

from ..user_errors import raises_user_error

MUP = {"kind": "mup", "base_image_width": 16, "base_text_width": 16}
FREE = {"optimizer": "schedule_free", "schedule": "wsd", "lr_decay_fraction": 0.0}
PATHS = {"source": "webdataset", "paths": ["a", "b"]}


@pytest.mark.parametrize(
    ("values", "attributes"),
    [
        ({"batchsize": 4}, {"field": "batchsize", "reason": "unknown field"}),
        ({"model": {"image": {"widht": 4}}}, {"field": "model.image.widht", "reason": "unknown field"}),
        ({"steps": "many"}, {"field": "steps", "value": "many"}),
        ({"steps": True}, {"field": "steps", "value": True}),
        ({"model": 3}, {"field": "model", "value": 3}),
        ({"evals": {"zero_shot": "scenes"}}, {"field": "evals.zero_shot", "value": "scenes"}),
        ({"optim": {"peak_lr": 0.0}}, {"field": "optim.peak_lr", "value": 0.0}),
        ({"optim": {"peak_lr": float("nan")}}, {"field": "optim.peak_lr", "reason": "finite"}),
        ({"optim": {"lr_decay_fraction": 0.5}}, {"field": "optim.lr_decay_fraction", "reason": "ignored"}),
        ({"optim": {"warmup_steps": 100}}, {"field": "optim.warmup_steps", "value": 100}),
        ({"steps": 20, "optim": {"warmup_steps": 20}}, {"field": "optim.warmup_steps", "value": 20}),
        ({"optim": {"warmup_steps": -2}}, {"field": "optim.warmup_steps", "value": -2}),
        ({"optim": {"optimizer": "sgd"}}, {"field": "optim.optimizer", "value": "sgd"}),
        ({"optim": {"muon_momentum": 0.9}}, {"field": "optim.muon_momentum", "reason": "ignored with"}),
        (
            {"optim": {"optimizer": "lion", "muon_scale": "spectral"}},
            {"field": "optim.muon_scale", "value": "spectral"},
        ),
        ({"optim": {"muon_adam_lr": 2.0}}, {"field": "optim.muon_adam_lr", "value": 2.0}),
        ({"optim": {"optimizer": "muon", "muon_adam_lr": 0.0}}, {"field": "optim.muon_adam_lr", "reason": "above 0"}),
        ({"optim": {"optimizer": "lion", "eps": 1e-8}}, {"field": "optim.eps", "reason": "ignored with"}),
        ({"optim": {"optimizer": "adafactor", "eps": 1e-8}}, {"field": "optim.eps", "value": 1e-8}),
        ({"optim": {"ema_decay": 1.0}}, {"field": "optim.ema_decay", "value": 1.0}),
        ({"optim": {"optimizer": "schedule_free"}}, {"field": "optim.schedule", "value": "cosine"}),
        ({"optim": {"optimizer": "schedule_free", "schedule": "wsd"}}, {"field": "optim.schedule", "value": "wsd"}),
        ({"optim": {**FREE, "b1": 0.0}}, {"field": "optim.b1", "value": 0.0}),
        ({"optim": {**FREE, "state_dtype": "bfloat16"}}, {"field": "optim.state_dtype", "value": "bfloat16"}),
        ({"optim": {**FREE, "ema_decay": 0.9}}, {"field": "optim.ema_decay", "value": 0.9}),
        ({"optim": FREE, "model": {"text_param_dtype": "bfloat16"}}, {"field": "model.text_param_dtype"}),
        ({"optim": FREE, "model": "RN50"}, {"field": "model.image.stages"}),
        ({"optim": FREE, "init_from": {"source": "openai/ViT-B-32"}}, {"field": "init_from.source"}),
        ({"optim": {"optimizer": "muon"}, "model": "RN50"}, {"field": "optim.optimizer", "value": "muon"}),
        (
            {"optim": {"optimizer": "adafactor"}, "model": {"parametrization": MUP}},
            {"field": "model.parametrization.kind", "value": "mup"},
        ),
        (
            {"optim": FREE, "model": {"parametrization": MUP}},
            {"field": "model.parametrization.kind", "reason": "schedule_free"},
        ),
        ({"epochs": 2.0, "steps": 50}, {"field": "epochs, steps", "reason": "epochs=2 and steps=50"}),
        ({"epochs": -1.0}, {"field": "epochs", "value": -1.0}),
        ({"epochs": 2.0}, {"field": "epochs", "value": 2.0, "reason": "without end"}),
        ({"data": {"paths": ["x"]}}, {"field": "data.paths", "reason": "reads no files"}),
        ({"data": {"source": "webdataset"}}, {"field": "data.paths", "reason": "webdataset"}),
        (
            {"data": {"source": "folder", "paths": ["x"], "scenes": {"zipf": 2.0}}},
            {"field": "data.scenes", "reason": "would be ignored"},
        ),
        ({"data": {"image_key": "picture"}}, {"field": "data.image_key, data.caption_key", "reason": "ignored with"}),
        ({"data": {"source": "folder", "paths": ["gs://b"]}}, {"field": "data.paths", "reason": "webdataset"}),
        ({"data": {"tokenizer": "clip"}}, {"field": "model.text.vocab_size", "value": 1024, "reason": "must be 49408"}),
        ({"data": {"tokenizer": "spm"}}, {"field": "data.tokenizer", "value": "spm"}),
        (
            {"data": {"tokenizer": "clip", "tokenizer_train_captions": 9}},
            {"field": "data.tokenizer_train_captions", "reason": "ignored with data.tokenizer='clip'"},
        ),
        (
            {"data": {"tokenizer": "clip"}, "init_from": {"source": "openai/ViT-B-32"}},
            {"field": "data.tokenizer", "value": "clip", "reason": "ignored, the text tower of init_from.source"},
        ),
        ({"data": {"val_paths": ["x"]}}, {"field": "data.val_paths", "reason": "reads no files"}),
        ({"data": {"val_fraction": 0.1}}, {"field": "data.val_fraction", "reason": "ignored"}),
        (
            {"data": {"source": "folder", "paths": ["x"], "val_fraction": 1.0}},
            {"field": "data.val_fraction", "value": 1.0},
        ),
        (
            {"data": {"source": "folder", "paths": ["x"], "val_fraction": float("nan")}},
            {"field": "data.val_fraction", "reason": "finite"},
        ),
        (
            {"data": {"source": "folder", "paths": ["x"], "val_fraction": 0.1, "val_paths": ["y"]}},
            {"field": "data.val_paths, data.val_split", "reason": "ignored with data.val_fraction"},
        ),
        (
            {"data": {"source": "folder", "paths": ["x"], "val_fraction": 0.1, "val_split": "dev"}},
            {"field": "data.val_paths, data.val_split", "reason": "ignored with data.val_fraction"},
        ),
        (
            {"data": {"source": "webdataset", "paths": ["x"], "caption_column": "title"}},
            {"field": "data.filename_column, data.caption_column", "reason": "ignored with"},
        ),
        ({"data": {"jpeg_decoder": "simplejpeg"}}, {"field": "data.jpeg_decoder", "reason": "ignored"}),
        ({"data": {**PATHS, "jpeg_decoder": "cv2"}}, {"field": "data.jpeg_decoder", "value": "cv2"}),
        ({"data": {**PATHS, "num_workers": -1}}, {"field": "data.num_workers", "value": -1}),
        (
            {"data": {**PATHS, "num_workers": 1, "cache_decoded": True}},
            {"field": "data.cache_decoded", "reason": "data.num_workers"},
        ),
        ({"data": {**PATHS, "weights": [1.0]}}, {"field": "data.weights", "value": (1.0,)}),
        ({"data": {**PATHS, "weights": [1.0, 0.0]}}, {"field": "data.weights", "value": (1.0, 0.0)}),
        ({"data": {**PATHS, "weights": [1.0, 1e-6]}}, {"field": "data.weights", "value": (1.0, 1e-06)}),
        ({"data": {**PATHS, "weights": [1.0, float("nan")]}}, {"field": "data.weights", "reason": "finite"}),
        ({"data": {**PATHS, "weights": [1.0, float("inf")]}}, {"field": "data.weights", "reason": "finite"}),
        ({"data": {**PATHS, "weights": [0.0, 0.0]}}, {"field": "data.weights", "value": (0.0, 0.0)}),
        (
            {"data": {**PATHS, "weights": [1.0, 1.0], "unique_samples": 5}},
            {"field": "data.unique_samples", "reason": "data.weights"},
        ),
        ({"data": {"source": "folder", "paths": ["x"], "weights": [1.0]}}, {"field": "data.weights", "value": (1.0,)}),
        ({"model": {"image": {"heads": 3}}}, {"field": "model.image.heads", "value": 3}),
        ({"model": {"image": {"patch_size": 7}}}, {"field": "model.image.image_size", "value": 32}),
        ({"mesh": {"data": 0}}, {"field": "mesh.data", "value": 0}),
        ({"mesh": {"data": -1, "fsdp": -1}}, {"field": "mesh.data, mesh.fsdp, mesh.tensor", "reason": "one"}),
        ({"evals": {"at_fractions": [1.0]}}, {"field": "evals.at_fractions", "value": 1.0}),
        ({"wandb": "yes"}, {"field": "wandb", "value": "yes"}),
        ({"anomalies": {"on_nan": "ignore"}}, {"field": "anomalies.on_nan", "value": "ignore"}),
        ({"anomalies": {"on_spike": "stop", "spike_factor": 1.0}}, {"field": "anomalies.spike_factor", "value": 1.0}),
        (
            {"anomalies": {"spike_factor": 3.0}},
            {"field": "anomalies.spike_factor, anomalies.spike_window", "reason": "ignored with"},
        ),
        ({"anomalies": {"max_rollbacks": 9}}, {"field": "anomalies.max_rollbacks", "reason": "ignored unless"}),
        ({"anomalies": {"on_nan": "rollback", "max_rollbacks": 0}}, {"field": "anomalies.max_rollbacks", "value": 0}),
    ],
)
def test_run_config_wrong_setting_names_the_field(values, attributes):
    with raises_user_error(errors.ConfigError, **attributes):
        from_dict(c.RunConfig, values)


def test_sweep_config_without_name_or_with_repeated_seeds_is_refused():
    with raises_user_error(errors.ConfigError, field="SweepConfig", reason="name"):
        from_dict(SweepConfig, {})
    with raises_user_error(errors.ConfigError, field="extra_seeds_at_optimum", reason="seeds"):
        SweepConfig(name="x", seeds=(0, 1), extra_seeds_at_optimum=(1,))


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("steps", "1e300"), ("seed", "4294967296"), ("seed", "9" * 23), ("optim.peak_lr", "9" * 400),
        ("optim.peak_lr", "9" * 5000), ("model.image.width", "1e9"), ("model.text.vocab_size", "1e15"),
        ("evals.max_examples", "1e18"), ("evals.batch_size", "1e18"), ("evals.batch_size", "1e6"),
        ("model.image.image_size", "1e9"), ("model.image.mlp_ratio", "Infinity"), ("optim.eps", "NaN"),
        ("optim.weight_decay", "1e999"), ("data.scenes.world_seed", "-5"), ("model.remat", "[" * 100_000),
        ("data.weights", "[1, 1e400]"), ("model.image.depth", "1e6"), ("wandb", "[" * 100_000),
        ("init_from.source", "https://user:SECRET@host/x"),
    ],
)  # fmt: skip
def test_load_override_out_of_range_names_the_field(tmp_path, field, text):
    config = tmp_path / "c.json"
    config.write_text("{}")
    with raises_user_error(errors.ConfigError, field=field) as caught:
        load(c.RunConfig, config, {field: text})
    assert len(str(caught.value)) < 400
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ("import numpy as np\n    return ConfigDict({'steps': np.int64(100), 'seed': np.uint8(3)})", None),
        ("return ConfigDict({'steps': object()})", "object"),
        ("return ConfigDict({'steps': 1 / 0})", "ZeroDivisionError"),
        ("return 3", "ConfigDict"),
    ],
)
def test_load_python_config_of_other_content_is_one_line(tmp_path, body, part):
    config = tmp_path / "c.py"
    config.write_text(f"from ml_collections import ConfigDict\ndef get_config():\n    {body}\n")
    if part is None:
        loaded = load(c.RunConfig, config)
        assert (loaded.steps, loaded.seed) == (100, 3)
        return
    with raises_user_error(field=config, reason=part):
        load(c.RunConfig, config)
