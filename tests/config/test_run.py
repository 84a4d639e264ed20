"""Config: what is checked."""

import pytest

from clip_jax import config as c
from clip_jax import errors
from clip_jax.config.io import from_dict, load
from clip_jax.config.sweep import SweepConfig

PATHS = {"source": "webdataset", "paths": ["a", "b"]}


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"batchsize": 4}, "batchsize: unknown field"),
        ({"model": {"image": {"widht": 4}}}, "model.image.widht: unknown field"),
        ({"steps": "many"}, "steps='many'"),
        ({"steps": True}, "steps=True"),
        ({"model": 3}, "model=3"),
        ({"evals": {"zero_shot": "scenes"}}, "evals.zero_shot='scenes'"),
        ({"optim": {"peak_lr": 0.0}}, "optim.peak_lr=0.0"),
        ({"optim": {"peak_lr": float("nan")}}, "optim.peak_lr=nan"),
        ({"optim": {"lr_decay_fraction": 0.5}}, "optim.lr_decay_fraction: ignored"),
        ({"optim": {"warmup_steps": 100}}, "optim.warmup_steps=100"),
        ({"data": {"paths": ["x"]}}, "data.paths"),
        ({"data": {"source": "webdataset"}}, "data.paths"),
        (
            {"data": {"source": "folder", "paths": ["x"], "scenes": {"zipf": 2.0}}},
            "data.scenes: would be ignored",
        ),
        ({"data": {"image_key": "picture"}}, "data.image_key"),
        ({"data": {"source": "folder", "paths": ["gs://b"]}}, "data.paths: only data.source='webdataset'"),
        ({"data": {"val_paths": ["x"]}}, "data.val_paths: the scenes source"),
        ({"data": {"val_fraction": 0.1}}, "data.val_fraction: the scenes source"),
        ({"data": {"source": "folder", "paths": ["x"], "val_fraction": 1.0}}, "must lie between 0.0 and 0.9"),
        ({"data": {"source": "folder", "paths": ["x"], "val_fraction": float("nan")}}, "must be a finite number"),
        (
            {"data": {"source": "folder", "paths": ["x"], "val_fraction": 0.1, "val_paths": ["y"]}},
            "data.val_paths, data.val_split: ignored with data.val_fraction",
        ),
        (
            {"data": {"source": "folder", "paths": ["x"], "val_fraction": 0.1, "val_split": "dev"}},
            "data.val_paths, data.val_split: ignored with data.val_fraction",
        ),
        (
            {"data": {"source": "webdataset", "paths": ["x"], "caption_column": "title"}},
            "data.filename_column, data.caption_column: ignored with data.source='webdataset'",
        ),
        ({"data": {"jpeg_decoder": "simplejpeg"}}, "data.jpeg_decoder: the scenes source"),
        ({"data": {**PATHS, "jpeg_decoder": "cv2"}}, "data.jpeg_decoder='cv2'"),
        ({"data": {**PATHS, "num_workers": -1}}, "data.num_workers=-1"),
        ({"data": {**PATHS, "num_workers": 1, "cache_decoded": True}}, "data.cache_decoded: each of data.num_workers"),
        ({"data": {**PATHS, "weights": [1.0]}}, "data.weights: 1 for 2 data.paths"),
        ({"data": {**PATHS, "weights": [1.0, 0.0]}}, "data.weights=(1.0, 0.0): must be positive"),
        ({"data": {**PATHS, "weights": [1.0, 1e-6]}}, "each at least 1e-5 of their sum"),
        ({"data": {**PATHS, "weights": [1.0, float("nan")]}}, "data.weights=nan"),
        ({"data": {**PATHS, "weights": [1.0, float("inf")]}}, "data.weights=inf"),
        ({"data": {**PATHS, "weights": [0.0, 0.0]}}, "data.weights=(0.0, 0.0)"),
        ({"data": {**PATHS, "weights": [1.0, 1.0], "unique_samples": 5}}, "data.unique_samples: not with data.weights"),
        ({"data": {"source": "folder", "paths": ["x"], "weights": [1.0]}}, "data.weights: 1 for 1 data.paths"),
        ({"model": {"image": {"heads": 3}}}, "model.image.heads=3"),
        ({"model": {"image": {"patch_size": 7}}}, "model.image.image_size=32"),
        ({"mesh": {"data": 0}}, "mesh.data=0"),
        ({"mesh": {"data": -1, "fsdp": -1}}, "only one may be -1"),
        ({"evals": {"at_fractions": [1.0]}}, "evals.at_fractions=1.0"),
        ({"wandb": "yes"}, "wandb='yes'"),
        ({"anomalies": {"on_nan": "ignore"}}, "anomalies.on_nan='ignore'"),
        ({"anomalies": {"on_spike": "stop", "spike_factor": 1.0}}, "anomalies.spike_factor=1.0: must be above 1"),
        ({"anomalies": {"spike_factor": 3.0}}, "ignored with anomalies.on_spike='ignore'"),
        ({"anomalies": {"max_rollbacks": 9}}, "anomalies.max_rollbacks: ignored unless"),
        ({"anomalies": {"on_nan": "rollback", "max_rollbacks": 0}}, "anomalies.max_rollbacks=0"),
    ],
)
def test_a_wrong_setting_is_named_in_one_line(values, named):
    with pytest.raises(errors.ConfigError) as raised:
        from_dict(c.RunConfig, values)
    assert named in str(raised.value)
    assert "\n" not in str(raised.value)


def test_sweep_needs_a_name_and_distinct_seeds():
    with pytest.raises(errors.ConfigError, match="name"):
        from_dict(SweepConfig, {})
    with pytest.raises(errors.ConfigError, match="extra_seeds_at_optimum"):
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
def test_an_override_that_no_machine_can_hold_is_refused_by_field(tmp_path, field, text):
    config = tmp_path / "c.json"
    config.write_text("{}")
    with pytest.raises(errors.ConfigError) as caught:
        load(c.RunConfig, config, {field: text})
    assert caught.value.field == field
    assert len(str(caught.value)) < 400
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("import numpy as np\n    return ConfigDict({'steps': np.int64(100), 'seed': np.uint8(3)})", None),
        ("return ConfigDict({'steps': object()})", "object"),
        ("return ConfigDict({'steps': 1 / 0})", "ZeroDivisionError"),
        ("return 3", "ConfigDict"),
    ],
)
def test_a_python_config_that_holds_something_else_is_one_line(tmp_path, body, said):
    config = tmp_path / "c.py"
    config.write_text(f"from ml_collections import ConfigDict\ndef get_config():\n    {body}\n")
    if said is None:
        found = load(c.RunConfig, config)
        assert (found.steps, found.seed) == (100, 3)
        return
    with pytest.raises(errors.UserError, match=said) as caught:
        load(c.RunConfig, config)
    assert "\n" not in str(caught.value)
