"""What a sweep's config refuses."""

import pytest

from clip_jax.config.io import from_dict
from clip_jax.config.sweep import Resources, SweepConfig
from clip_jax.errors import ConfigError
from clip_jax.sweep.search.config import SearchConfig

from ..user_errors import raises_user_error

PODS = {"container_image": "i", "pvc_name": "c", "mount_path": "/m"}
TPU = PODS | {"accelerator": "tpu-v5p-slice", "devices_per_process": 4, "topology": "4x4x4"}


@pytest.mark.parametrize(
    ("engine", "resources", "attributes"),
    [
        ("sge", {}, {"field": "engine", "value": "sge"}),
        ("local", {"nodes": 2}, {"field": "resources.nodes", "reason": "would be ignored"}),
        ("local", {"partition": "gpu"}, {"field": "resources.partition", "reason": "would be ignored"}),
        ("slurm", {"topology": "2x4"}, {"field": "resources.topology", "reason": "would be ignored"}),
        (
            "slurm",
            {"grace_period_s": 60},
            {"field": "resources.grace_period_s", "reason": "ignored without resources.time_limit_min"},
        ),
        ("slurm", {"gres": "gpu:a100"}, {"field": "resources.gres", "reason": "would be ignored"}),
        ("slurm", {"sbatch": ["account=x"]}, {"field": "resources.sbatch", "value": "account=x"}),
        ("local", {"env": ["NCCL DEBUG=x"]}, {"field": "resources.env", "value": "NCCL DEBUG=x"}),
        ("slurm", {"env": ["A=b\nc"]}, {"field": "resources.env", "reason": "one line"}),
        ("slurm", {"share_process": False}, {"field": "resources.share_process", "reason": "ignored"}),
        ("slurm", {"setup_commands": ["a\nb"]}, {"field": "resources.setup_commands", "reason": "one line"}),
        ("slurm", {"python": "a\nb"}, {"field": "resources.python", "reason": "one line"}),
        ("local", {"python": "python3.12"}, {"field": "resources.python", "reason": "would be ignored"}),
        (
            "slurm",
            {"container_mounts": ["/a:/a"]},
            {"field": "resources.container_mounts", "reason": "container_image"},
        ),
        (
            "slurm",
            {"container_image": "i", "container_mounts": ["a:/a"]},
            {"field": "resources.container_mounts", "value": "a:/a"},
        ),
        ("slurm", {"max_attempts": 0}, {"field": "resources.max_attempts", "value": 0}),
        ("slurm", {"poll_s": 0.0}, {"field": "resources.poll_s", "value": 0.0}),
        (
            "local",
            {"runs_per_device": 2, "devices_per_process": 2},
            {"field": "resources.runs_per_device", "reason": "resources.devices_per_process"},
        ),
        ("jobset", {}, {"field": "resources.container_image", "reason": "jobset"}),
        (
            "jobset",
            {"container_image": "i", "pvc_name": "c"},
            {"field": "resources.mount_path", "reason": "resources.pvc_name"},
        ),
        (
            "jobset",
            {"container_image": "i", "mount_path": "/m"},
            {"field": "resources.pvc_name", "reason": "resources.mount_path"},
        ),
        ("jobset", PODS | {"mount_path": "m"}, {"field": "resources.mount_path", "value": "m"}),
        (
            "jobset",
            PODS | {"priority": "low"},
            {"field": "resources.priority", "reason": "ignored without resources.queue"},
        ),
        (
            "jobset",
            PODS | {"accelerator": "nvidia-l4"},
            {"field": "resources.devices_per_process", "reason": "must be set"},
        ),
        (
            "jobset",
            PODS | {"devices_per_process": 4},
            {"field": "resources.accelerator", "reason": "must be set"},
        ),
        ("jobset", TPU | {"topology": ""}, {"field": "resources.topology", "reason": "TPU"}),
        ("jobset", TPU | {"topology": "4by4"}, {"field": "resources.topology", "value": "4by4"}),
        (
            "jobset",
            TPU | {"accelerator": "nvidia-l4"},
            {"field": "resources.topology", "reason": "would be ignored"},
        ),
        ("jobset", TPU | {"nodes": 4}, {"field": "resources.nodes", "reason": "the hosts"}),
        ("jobset", TPU | {"topology": "1x1"}, {"field": "resources.devices_per_process", "value": 4}),
    ],
)
def test_sweep_resources_ignored_or_missing_are_refused(engine, resources, attributes):
    with raises_user_error(ConfigError, **attributes):
        from_dict(SweepConfig, {"name": "s", "engine": engine, "resources": resources})


@pytest.mark.parametrize(
    ("fields", "attributes"),
    [
        ({"vmap_runs": "on"}, {"field": "vmap_runs", "value": "on"}),
        ({"vmap_runs": "auto", "engine": "slurm"}, {"field": "vmap_runs", "reason": "would be ignored"}),
        ({"vmap_runs": "auto", "max_vmapped_runs": 1}, {"field": "max_vmapped_runs", "value": 1}),
        (
            {"vmap_runs": "auto", "resources": {"devices_per_process": 2}},
            {"field": "resources.devices_per_process", "value": 2},
        ),
        ({"max_vmapped_runs": 4}, {"field": "max_vmapped_runs", "reason": "would be ignored"}),
    ],
)
def test_sweep_vmap_settings_that_would_be_ignored_are_refused(fields, attributes):
    with raises_user_error(ConfigError, **attributes):
        from_dict(SweepConfig, {"name": "s"} | fields)


def test_resources_fields_name_the_engines_that_read_them():
    for engine, resources in (("jobset", TPU | {"slices": 2}), ("slurm", {"partition": "p"}), ("local", {})):
        assert SweepConfig("s", engine=engine, resources=from_dict(Resources, resources)).engine == engine


@pytest.mark.parametrize(
    ("fields", "attributes"),
    [
        (
            {"lr_multipliers": [0.5, 1.0]},
            {"field": "lr_multipliers", "value": (0.5, 1.0)},
        ),
        ({"weight_decay_multipliers": [-2.0]}, {"field": "weight_decay_multipliers", "value": (-2.0,)}),
        ({"weight_decay_multipliers": [2.0, 2.0]}, {"field": "weight_decay_multipliers", "value": (2.0, 2.0)}),
        (
            {"weight_decay_multipliers": [2.0], "base": {"optim": {"weight_decay": 0.0}}},
            {"field": "weight_decay_multipliers", "reason": "base.optim.weight_decay is"},
        ),
        ({"batch_multipliers": [3.0]}, {"field": "batch_multipliers", "value": (3.0,)}),
        (
            {"warmup_multipliers": [10.0]},
            {"field": "warmup_multipliers", "value": (10.0,)},
        ),
        ({"warmup_multipliers": [2.0], "warmup_fraction": 0.0}, {"field": "warmup_multipliers", "value": (2.0,)}),
    ],
)
def test_sweep_multipliers_out_of_range_are_refused(fields, attributes):
    with raises_user_error(ConfigError, **attributes):
        from_dict(SweepConfig, {"name": "s", **fields})


@pytest.mark.parametrize("kind", [SweepConfig, SearchConfig])
def test_epochs_of_a_base_are_refused(kind):
    folder = {"source": "folder", "paths": ["x"]}
    assert from_dict(kind, {"name": "a", "base": {"data": folder}}).base.epochs == 0
    with raises_user_error(field="base.epochs"):
        from_dict(kind, {"name": "a", "base": {"data": folder, "epochs": 2}})
