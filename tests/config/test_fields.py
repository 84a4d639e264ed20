"""Types, choices and former names of config fields."""

import dataclasses
import json
import logging
import re

import pytest

from clip_jax import config as c
from clip_jax.config import fields, io
from clip_jax.config.hyperparameter_rules import BudgetRules
from clip_jax.config.sweep import Resources, SweepConfig
from clip_jax.errors import ConfigError
from clip_jax.sweep.search.config import SearchConfig, apply

from ..user_errors import raises_user_error

CLASSES = {
    cls.__name__: cls
    for cls in (
        c.RunConfig, c.ModelConfig, c.DataConfig, c.OptimConfig, c.LossConfig, c.EvalConfig, c.InitConfig, SweepConfig,
        BudgetRules, SearchConfig, Resources,
    )
}  # fmt: skip


def test_renamed_fields_map_former_names_to_existing_fields():
    assert set(fields.RENAMED) <= set(CLASSES)
    for name, renamed in fields.RENAMED.items():
        known = fields.field_types(CLASSES[name])
        assert set(renamed.values()) <= known.keys()
        assert not set(renamed) & known.keys()
        assert len(set(renamed.values())) == len(renamed)


def test_former_names_are_the_inverse_of_current_names():
    for config in (c.RunConfig(), SweepConfig("s"), SearchConfig("s")):
        values = io.to_dict(config)
        former = fields.former_names(type(config), values)
        assert fields.current_names(type(config), former) == values
        assert "faults" in (former if isinstance(config, c.RunConfig) else former["base"])


@pytest.fixture
def warnings_of(tmp_path, caplog):
    """Return a function (values, overrides, name of the file) -> the config, and the texts that were logged."""
    fields_warned = io.warn_renamed
    fields_warned.cache_clear()

    def read(values, overrides=None, name="mine.json"):
        caplog.clear()
        (tmp_path / name).write_text(json.dumps(values))
        with caplog.at_level(logging.WARNING):
            return io.load(c.RunConfig, tmp_path / name, overrides), [r.getMessage() for r in caplog.records]

    yield read
    fields_warned.cache_clear()


def test_load_reads_former_names_in_a_file_and_in_overrides_and_warns_once(warnings_of):
    values = {"data": {"threads": 3}, "faults": {"on_nan": "rollback"}}
    config, texts = warnings_of(values, {"loss.method": "ring", "faults.max_rollbacks": "5"})
    assert (config.data.num_threads, config.loss.implementation) == (3, "ring")
    assert config.anomalies == c.AnomalyConfig(on_nan="rollback", max_rollbacks=5)
    names = ("data.threads", "faults", "loss.method", "faults.max_rollbacks")
    assert len(texts) == 4
    assert all(any(f"field {name} is " in text for text in texts) for name in names)
    again, texts = warnings_of(values, {"loss.method": "ring", "faults.max_rollbacks": "5"})
    assert (again, texts) == (config, [])


def test_load_of_a_record_warns_of_overrides_only(warnings_of):
    config, texts = warnings_of({"data": {"threads": 3}}, {"data.workers": "2"}, "config.json")
    assert (config.data.num_threads, config.data.num_workers) == (3, 2)
    assert len(texts) == 1
    assert "data.workers is data.num_workers now" in texts[0]


def test_load_an_override_by_either_name_replaces_the_value_of_the_file(warnings_of):
    for field in ("threads", "num_threads"):
        for name in ("data.threads", "data.num_threads"):
            assert warnings_of({"data": {field: 3}}, {name: "4"})[0].data.num_threads == 4


def test_from_dict_field_under_both_names_is_refused():
    with raises_user_error(ConfigError, field="data.threads", reason="num_threads"):
        io.from_dict(c.RunConfig, {"data": {"threads": 1, "num_threads": 2}})


def test_from_dict_former_value_is_read_as_the_new_one():
    assert io.from_dict(SweepConfig, {"name": "s", "families": "measured"}).vmap_runs == "auto"
    assert io.from_dict(SweepConfig, {"name": "s", "vmap_runs": "measured"}).vmap_runs == "auto"


def test_search_space_accepts_former_field_names():
    setting = {"loss.method": "ring", "loss.chunk": 64}
    assert apply(c.RunConfig(), setting).loss == c.LossConfig(implementation="ring", chunk_size=64)


def test_run_id_uses_the_former_names():
    renamed = c.RunConfig(data=c.DataConfig(max_corrupt_records=3), loss=c.LossConfig(implementation="dense"))
    former = io.from_dict(c.RunConfig, {"data": {"max_broken": 3}, "loss": {"method": "dense"}})
    assert renamed == former
    assert io.run_id(renamed) == "1cc06a3fbaf3"


@pytest.mark.parametrize("cls", CLASSES.values())
def test_literal_fields_reject_other_values_in_files_and_in_python(cls):
    required = {"name": "s"} if cls in (SweepConfig, SearchConfig) else {}
    for name, hint in fields.field_types(cls).items():
        if choices := fields.choices_of(hint):
            for make in (lambda values: io.from_dict(cls, values), lambda values: cls(**values)):
                choice = f"must be one of {', '.join(choices)}"
                with raises_user_error(ConfigError, field=re.compile(rf"(^|\.){name}$"), reason=choice):
                    make(required | {name: "nonsense"})


def test_no_field_lists_its_choices_in_a_comment():
    # Of the fields that are texts, those with choices are literals.
    texts = {
        f"{name}.{field}"
        for name, cls in CLASSES.items()
        for field, hint in fields.field_types(cls).items()
        if hint is str
    }
    free = {f"{c.__name__}.{f.name}" for c in (Resources,) for f in dataclasses.fields(c)} | {
        "DataConfig.train_split", "DataConfig.val_split", "DataConfig.filename_column", "DataConfig.caption_column",
        "DataConfig.image_key", "DataConfig.caption_key", "InitConfig.source", "SweepConfig.name", "SweepConfig.metric",
        "SearchConfig.name",
    }  # fmt: skip
    assert texts <= free
