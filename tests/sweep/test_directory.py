"""A sweep's directory is one sweep's, also after its defaults have moved."""

import dataclasses
import json

from clip_jax.config import ModelConfig, RunConfig, TrackingConfig
from clip_jax.config.io import to_dict
from clip_jax.config.sweep import SweepConfig
from clip_jax.sweep.directory import lock_sweep

from ..user_errors import raises_user_error

SWEEP = SweepConfig(name="s", base=RunConfig(), rungs=(1.0,), budgets=(1e10,))


def test_lock_sweep_accepts_a_sweep_begun_with_the_former_default(tmp_path):
    values = to_dict(SWEEP)
    values["base"]["model"]["remat_policy"] = "nothing"
    (tmp_path / "sweep.json").write_text(json.dumps(values))
    lock_sweep(SWEEP, tmp_path).close()
    other = dataclasses.replace(SWEEP, base=RunConfig(model=ModelConfig(remat=True, remat_policy="dots")))
    with raises_user_error(field=tmp_path, reason="remat"):
        lock_sweep(other, tmp_path)


def test_lock_sweep_accepts_another_tracking_config(tmp_path):
    lock_sweep(SWEEP, tmp_path).close()
    tracking = TrackingConfig(wandb_project="p", wandb_tags=("a",), tensorboard=True)
    lock_sweep(dataclasses.replace(SWEEP, base=RunConfig(wandb="online", tracking=tracking)), tmp_path).close()
