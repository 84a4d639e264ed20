"""What a sweep's config refuses."""

import pytest

from clip_jax.config.io import from_dict
from clip_jax.config.sweep import Resources, SweepConfig
from clip_jax.errors import ConfigError

PODS = {"container_image": "i", "pvc_name": "c", "mount_path": "/m"}
TPU = PODS | {"accelerator": "tpu-v5p-slice", "devices_per_process": 4, "topology": "4x4x4"}


@pytest.mark.parametrize(
    ("engine", "resources", "named"),
    [
        ("sge", {}, "engine='sge': must be one of local, slurm, jobset"),
        ("local", {"nodes": 2}, "resources.nodes: would be ignored with engine='local'; read by slurm and jobset"),
        ("local", {"partition": "gpu"}, "resources.partition: would be ignored with engine='local'; read by slurm"),
        ("slurm", {"topology": "2x4"}, "resources.topology: would be ignored with engine='slurm'; read by jobset"),
        (
            "slurm",
            {"grace_period_s": 60},
            "resources.grace_period_s: would be ignored without resources.time_limit_min",
        ),
        ("slurm", {"gres": "gpu:a100"}, "resources.gres: would be ignored with resources.devices_per_process=0"),
        ("slurm", {"sbatch": ["account=x"]}, "resources.sbatch='account=x': must be an option"),
        ("slurm", {"setup_commands": ["a\nb"]}, "resources.setup_commands: one line each"),
        ("slurm", {"max_attempts": 0}, "resources.max_attempts=0"),
        ("slurm", {"poll_s": 0.0}, "resources.poll_s=0.0"),
        (
            "local",
            {"runs_per_device": 2, "devices_per_process": 2},
            "resources.runs_per_device: with resources.devices_per_process above 1",
        ),
        ("jobset", {}, "resources.container_image: engine='jobset' needs it"),
        ("jobset", {"container_image": "i", "pvc_name": "c"}, "resources.mount_path: resources.pvc_name needs it"),
        ("jobset", {"container_image": "i", "mount_path": "/m"}, "resources.pvc_name: resources.mount_path needs it"),
        ("jobset", PODS | {"mount_path": "m"}, "resources.mount_path='m': must be an absolute path"),
        ("jobset", PODS | {"priority": "low"}, "resources.priority: would be ignored without resources.queue"),
        (
            "jobset",
            PODS | {"accelerator": "nvidia-l4"},
            "resources.devices_per_process: must be set",
        ),
        (
            "jobset",
            PODS | {"devices_per_process": 4},
            "resources.accelerator: must be set",
        ),
        ("jobset", TPU | {"topology": ""}, "resources.topology: TPU slices need it"),
        ("jobset", TPU | {"topology": "4by4"}, "resources.topology='4by4'"),
        (
            "jobset",
            TPU | {"accelerator": "nvidia-l4"},
            "resources.topology: would be ignored with resources.accelerator",
        ),
        ("jobset", TPU | {"nodes": 4}, "resources.nodes: would be ignored, the hosts of a slice follow"),
        ("jobset", TPU | {"topology": "1x1"}, "resources.devices_per_process=4: must divide the 1 chips"),
    ],
)
def test_what_would_be_ignored_or_is_missing_is_refused(engine, resources, named):
    with pytest.raises(ConfigError) as error:
        from_dict(SweepConfig, {"name": "s", "engine": engine, "resources": resources})
    assert named in str(error.value)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"vmap_runs": "on"}, "vmap_runs='on': must be one of off, auto"),
        ({"vmap_runs": "auto", "engine": "slurm"}, "vmap_runs: would be ignored with engine='slurm'"),
        ({"vmap_runs": "auto", "max_vmapped_runs": 1}, "max_vmapped_runs=1"),
        ({"vmap_runs": "auto", "resources": {"devices_per_process": 2}}, "a family trains on one device"),
        ({"max_vmapped_runs": 4}, "max_vmapped_runs: would be ignored with vmap_runs='off'"),
    ],
)
def test_families_that_would_be_ignored_are_refused(fields, named):
    with pytest.raises(ConfigError) as error:
        from_dict(SweepConfig, {"name": "s"} | fields)
    assert named in str(error.value)


def test_every_field_that_is_not_for_all_engines_says_for_which():
    for engine, resources in (("jobset", TPU | {"slices": 2}), ("slurm", {"partition": "p"}), ("local", {})):
        assert SweepConfig("s", engine=engine, resources=from_dict(Resources, resources)).engine == engine


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        (
            {"lr_multipliers": [0.5, 1.0]},
            "lr_multipliers=(0.5, 1.0): multiples must be above 0 and finite, and 1 is the run itself",
        ),
        ({"weight_decay_multipliers": [-2.0]}, "weight_decay_multipliers=(-2.0,): multiples must be above 0"),
        ({"weight_decay_multipliers": [2.0, 2.0]}, "weight_decay_multipliers=(2.0, 2.0): no repeats"),
        (
            {"weight_decay_multipliers": [2.0], "base": {"optim": {"weight_decay": 0.0}}},
            "base.optim.weight_decay is 0, and so is",
        ),
        ({"batch_multipliers": [3.0]}, "batch_multipliers=(3.0,): must be powers of two"),
        (
            {"warmup_multipliers": [10.0]},
            "warmup_multipliers=(10.0,): multiples of warmup_fraction=0.1 must lie above 0 and reach",
        ),
        ({"warmup_multipliers": [2.0], "warmup_fraction": 0.0}, "multiples of warmup_fraction=0 must lie above 0"),
    ],
)
def test_multiples_that_cannot_be_tried_are_refused(fields, named):
    with pytest.raises(ConfigError) as error:
        from_dict(SweepConfig, {"name": "s", **fields})
    assert named in str(error.value)
