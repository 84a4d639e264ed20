"""Configs in and out of JSON and files."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_jax import config as c
from clip_jax import errors
from clip_jax.config import io
from clip_jax.config.presets import preset
from clip_jax.config.sweep import SweepConfig

from ..user_errors import raises_user_error


@given(
    steps=st.integers(30, 10_000),
    lr=st.floats(1e-6, 1.0),
    depth=st.integers(1, 8),
    fractions=st.lists(st.floats(0.01, 0.99), max_size=3),
)
def test_to_dict_round_trip_keeps_config_and_run_id(steps, lr, depth, fractions):
    run = c.RunConfig(
        steps=steps,
        optim=c.OptimConfig(peak_lr=lr),
        model=c.ModelConfig(image=c.ImageTowerConfig(depth=depth)),
        evals=c.EvalConfig(at_fractions=tuple(fractions)),
    )
    again = io.from_dict(c.RunConfig, json.loads(json.dumps(io.to_dict(run))))
    assert again == run
    assert io.run_id(again) == io.run_id(run)


def test_run_id_ignores_tracking_and_no_other_field():
    run = c.RunConfig()
    assert io.run_id(dataclasses.replace(run, wandb="disabled")) == io.run_id(run)
    assert io.run_id(dataclasses.replace(run, seed=1)) != io.run_id(run)


def test_load_reads_python_and_json_and_overrides_fields(tmp_path):
    python = tmp_path / "c.py"
    python.write_text("from ml_collections import ConfigDict\ndef get_config():\n  return ConfigDict({'steps': 50})\n")
    run = io.load(c.RunConfig, python, {"optim.peak_lr": "0.25", "data.augment": "flip", "evals.zero_shot": "[]"})
    assert (run.steps, run.optim.peak_lr, run.data.augment, run.evals.zero_shot) == (50, 0.25, "flip", ())
    as_json = tmp_path / "c.json"
    as_json.write_text(json.dumps(io.to_dict(run)))
    assert io.load(c.RunConfig, as_json) == run
    python.write_text("def get_config():\n  return {'steps': 50}\n")
    assert io.load(c.RunConfig, python).steps == 50


@pytest.mark.parametrize("name", ["c.yaml", "c.yml"])
def test_load_reads_yaml_numbers_and_booleans(tmp_path, name):
    file = tmp_path / name
    file.write_text(
        "# a comment\nsteps: 1e3\noptim: {peak_lr: 1e-3, eps: .5}\nmodel:\n  scan_layers: false\n"
        "data:\n  source: folder\n  paths:\n    - 2020-01-01\n    - on\n    - 1:30\n    - 012\n"
        "  val_fraction: 1E-1\n"
    )
    run = io.load(c.RunConfig, file, {"seed": "3"})
    assert (run.steps, run.optim.peak_lr, run.optim.eps, run.seed) == (1000, 1e-3, 0.5, 3)
    assert not run.model.scan_layers
    assert run.data.paths == ("2020-01-01", "on", "1:30", "012")
    sweep = tmp_path / "s.yaml"
    sweep.write_text("name: s\nvmap_runs: off\nbudgets: [1e10, 1E+11]\n")
    assert io.load(SweepConfig, sweep) == SweepConfig("s", budgets=(1e10, 1e11))


def test_load_config_of_another_command_names_the_command(tmp_path):
    commands = {"train": c.RunConfig, "sweep run": SweepConfig}
    run, sweep, typing_error = (tmp_path / name for name in ("run.json", "sweep.json", "typo.json"))
    run.write_text('{"steps": 50, "faults": {}}')
    sweep.write_text('{"name": "s", "base": {}, "slots": 2}')
    typing_error.write_text('{"stesp": 50}')
    for cls, file, command in ((SweepConfig, run, "train"), (c.RunConfig, sweep, "sweep run")):
        with raises_user_error(field=file, reason=f"{command} --config={file}"):
            io.load(cls, file, commands=commands)
    assert io.load(c.RunConfig, run, commands=commands).steps == 50
    for cls in commands.values():
        with raises_user_error(errors.ConfigError, field="stesp", reason="unknown"):
            io.load(cls, typing_error, commands=commands)


@pytest.mark.parametrize(
    ("name", "text", "part"),
    [
        ("a.py", "x = 1", "defines no get_config"),
        ("b.py", "def get_config(:", "not Python"),
        ("c.py", "def get_config():\n  return []", "a dict, or a ConfigDict"),
        ("g.yaml", "steps: [", "line 1"),
        ("h.yml", "[1]", "must hold a mapping"),
        ("i.yaml", "steps: !!python/object/apply:os.getpid []", "not YAML"),
        ("j.yaml", "model: &a\n  image: *a", "not YAML"),
        ("k.yaml", "steps: \0", "not YAML"),
        ("l.yaml", "? [1]\n: 2", "not YAML"),
        ("m.yaml", "steps: " + "[" * 5000, "not YAML"),
        ("d.json", "{", "not JSON"),
        ("e.json", "[]", "must hold a JSON object"),
        ("f.py", None, "no such config file"),
    ],
)
def test_load_file_that_is_no_config_names_it(tmp_path, name, text, part):
    if text is not None:
        (tmp_path / name).write_text(text)
    with raises_user_error(field=tmp_path / name, reason=part):
        io.load(c.RunConfig, tmp_path / name)


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("data.paths", "/x", ("/x",)),
        ("data.paths", "/a, /b,", ("/a", "/b")),
        ("data.paths", "a-{0,1}.tar,b", ("a-{0,1}.tar", "b")),
        ("data.paths", '"a,b"', ("a,b",)),
        ("data.paths", '["a,b"]', ("a,b",)),
        ("data.paths", "7", ("7",)),
        ("evals.at_fractions", "0.5", (0.5,)),
        ("evals.at_fractions", ".25,5e-1", (0.25, 0.5)),
        ("evals.zero_shot", "", ()),
        ("init_from.source", "123", "123"),
    ],
)
def test_load_overrides_are_parsed_by_field_type(tmp_path, field, text, value):
    file = tmp_path / "c.json"
    file.write_text('{"data": {"source": "folder", "paths": ["p"]}}')
    run = io.load(c.RunConfig, file, {field: text})
    group, name = field.split(".")
    assert getattr(getattr(run, group), name) == value


@pytest.mark.parametrize(
    ("model", "overrides"),
    [
        ("ViT-B/32", {"model.image.patch_dropout": "0.5", "model.scan_layers": "false"}),
        ({"preset": "ViT-B/32", "image": {"patch_dropout": 0.5}, "scan_layers": False}, {}),
        (
            {"scan_layers": False},
            {"model.scan_layers": "false", "model.image.patch_dropout": "0.5", "model": "ViT-B/32"},
        ),
        ("from source", {"model.image.patch_dropout": "0.5", "model.scan_layers": "false"}),
    ],
)
def test_load_named_model_with_overridden_fields(tmp_path, model, overrides):
    named = preset("ViT-B/32")
    image = dataclasses.replace(named.image, patch_dropout=0.5)
    init_from = c.InitConfig(source="openai/ViT-B-32")
    written_out = c.RunConfig(model=dataclasses.replace(named, image=image, scan_layers=False), init_from=init_from)
    file = tmp_path / "c.json"
    values = {"model": model, "init_from": {"source": "openai/ViT-B-32"}}
    file.write_text(json.dumps(values))
    run = io.load(c.RunConfig, file, overrides, model_of={"openai/ViT-B-32": named}.__getitem__)
    assert run == written_out
    assert io.run_id(run) == io.run_id(written_out)
    file.write_text(json.dumps({"name": "s", "base": values}))
    sweep = io.load(SweepConfig, file, {f"base.{k}": v for k, v in overrides.items()}, model_of=lambda _: named)
    assert sweep.base == written_out


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("ViT-B-32", "must be one of RN50"),
        ({"preset": 3}, "must be the name of a preset"),
        ({"preset": "debug", "widht": 3}, "unknown field"),
        (3, "must be a group of fields"),
        ("from source", "there is no source model"),
    ],
)
def test_load_unknown_model_is_refused(tmp_path, model, reason):
    file = tmp_path / "c.json"
    file.write_text(json.dumps({"model": model}))
    with raises_user_error(errors.ConfigError, reason=reason):
        io.load(c.RunConfig, file, model_of=lambda _: preset("debug"))


def test_load_the_default_steps_beside_epochs_are_refused_but_in_records(tmp_path):
    fields = {"data": {"source": "folder", "paths": ["a"]}, "steps": c.RunConfig.steps, "epochs": 2}
    for name in ("run.yaml", "request.json"):
        (tmp_path / name).write_text(json.dumps(fields))
    assert io.load(c.RunConfig, tmp_path / "request.json").epochs == 2
    with raises_user_error(field="epochs, steps"):
        io.load(c.RunConfig, tmp_path / "run.yaml")


def test_load_override_below_a_value_is_refused(tmp_path):
    file = tmp_path / "c.json"
    file.write_text('{"steps": 50}')
    with raises_user_error(errors.ConfigError, field="steps.more", reason="steps"):
        io.load(c.RunConfig, file, {"steps.more": "1"})


@pytest.mark.parametrize(
    ("fields", "overrides", "steps", "epochs"),
    [
        ({"steps": 1000}, {"epochs": "2"}, c.RunConfig.steps, 2.0),
        ({"steps": 1000}, {"epochs": "0"}, 1000, 0.0),
        ({"epochs": 2.0}, {"steps": "50"}, 50, 0.0),
        ({"epochs": 2.0}, {"epochs": "0", "steps": "50"}, 50, 0.0),
    ],
)
def test_load_epochs_replace_the_steps_of_the_file_and_the_reverse(tmp_path, fields, overrides, steps, epochs):
    file = tmp_path / "run.json"
    file.write_text(json.dumps({"data": {"source": "folder", "paths": ["a"]}, **fields}))
    run = io.load(c.RunConfig, file, overrides)
    assert (run.steps, run.epochs) == (steps, epochs)


@pytest.mark.parametrize(
    ("fields", "overrides"),
    [
        ({"steps": 50, "epochs": 2}, {}),
        ({"steps": 50, "epochs": 2}, {"seed": "1"}),
        ({}, {"steps": "50", "epochs": "2"}),
        ({"steps": 1000}, {"steps": str(c.RunConfig.steps), "epochs": "2"}),
    ],
)
def test_load_epochs_and_steps_of_one_origin_are_refused(tmp_path, fields, overrides):
    file = tmp_path / "run.json"
    file.write_text(json.dumps({"data": {"source": "folder", "paths": ["a"]}, **fields}))
    with raises_user_error(field="epochs, steps"):
        io.load(c.RunConfig, file, overrides)


def test_run_id_ignores_later_fields_at_their_default():
    # the names that 0.1.0 gave: a directory made then is still found
    assert io.run_id(c.RunConfig()) == "14d70023c314"
    assert io.run_id(c.RunConfig(steps=500, model=c.ModelConfig(embed_dim=32))) == "d370dad44709"
    assert io.run_id(c.RunConfig(mesh=c.MeshConfig(tensor=2))) != "14d70023c314"
    assert io.run_id(c.RunConfig(data=c.DataConfig(num_workers=4))) == "14d70023c314"  # changes no batch
    pairs = c.DataConfig(source="webdataset", paths=("a", "b"))
    later = (
        {},
        {"weights": (1.0, 2.0)},
        {"weights": (2.0, 1.0)},
        {"val_paths": ("c",)},
        {"jpeg_decoder": "simplejpeg"},
    )
    assert len({io.run_id(c.RunConfig(data=dataclasses.replace(pairs, **fields))) for fields in later}) == 5
    assert io.run_id(c.RunConfig(anomalies=c.AnomalyConfig(on_nan="rollback"))) != "14d70023c314"
    folder = c.DataConfig(source="folder", paths=("a",))
    later = ({}, {"val_fraction": 0.1}, {"filename_column": "image"}, {"caption_column": "title"})
    ids = [io.run_id(c.RunConfig(data=dataclasses.replace(folder, **fields))) for fields in later]
    assert ids[0] == "4ba7535fe1b1"
    assert len(set(ids)) == 4


def with_model(**fields):
    return c.RunConfig(model=c.ModelConfig(**fields))


def test_run_id_of_auto_fields_equals_the_former_default():
    old = "14d70023c314"
    assert io.run_id(with_model(remat_policy="auto", attention="auto")) == old
    assert io.run_id(with_model(remat_policy="nothing")) == old  # as written by those that began before
    assert io.run_id(with_model(remat=True)) == io.run_id(with_model(remat=True, remat_policy="nothing")) != old
    half = {"compute_dtype": "bfloat16"}
    names = [{}, {"attention": "xla"}, {"attention": "cudnn"}, {"remat": True, "remat_policy": "dense"}]
    assert len({io.run_id(with_model(**half, **fields)) for fields in names}) == 4
    ids = [io.run_id(c.RunConfig(evals=c.EvalConfig(val_pairs=pairs))) for pairs in (0, 1024, 512)]
    assert ids[0] == ids[1] == old != ids[2]
    ids = [io.run_id(c.RunConfig(optim=c.OptimConfig(warmup_steps=steps))) for steps in (-1, 20, 19)]
    assert ids[0] == ids[1] == old != ids[2]


def test_as_begun_keeps_the_former_default_of_auto_fields():
    now, then = with_model(), with_model(remat_policy="nothing")
    assert io.as_begun(now, then) == then
    assert io.as_begun(now, now) == now
    other = with_model(remat=True, remat_policy="dots")
    assert io.as_begun(now, other) == now  # another run's, and found to be so
    assert io.as_begun(other, then) == other
    begun = dataclasses.replace(then, evals=c.EvalConfig(val_pairs=1024), optim=c.OptimConfig(warmup_steps=20))
    assert io.as_begun(now, begun) == begun
