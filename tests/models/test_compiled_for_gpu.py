"""The program of a training step as XLA compiles it for an H100 that is not there.

Needs the wheels ``jax-cuda13-plugin`` and ``jax-cuda13-pjrt`` of jax's own version (``pip install --no-deps``), no GPU.
"""

import dataclasses
import json
import os
import subprocess
import sys

import jax
import pytest

from clip_jax.config import ImageTowerConfig, MeshConfig, ModelConfig, RunConfig, TextTowerConfig
from clip_jax.config.io import to_dict
from clip_jax.distributed.mesh import make_mesh
from clip_jax.train.step import abstract_step

pytestmark = pytest.mark.thorough

# its own process: a platform is chosen once, and the plugin is to be found only here
COMPILE = """
import json, sys, tempfile
from pathlib import Path
from clip_jax import flops
from clip_jax.config import RunConfig
from clip_jax.config.io import from_dict
from clip_jax.sweep.preflight.preflight import compile_step
from clip_jax.sweep.preflight.targets import find_target

name, configs = json.load(sys.stdin)
target, file = find_target(name), Path(tempfile.mkdtemp()) / "step.hlo"
for config in configs:
    run = from_dict(RunConfig, config)
    step = compile_step(run, target, file)
    assert not step.reason, step.reason
    text, best = file.read_text(), step.best
    print("FOUND", json.dumps({
        "calls": [text.count(f'"__cudnn$fmhaSoftmax{way}"') for way in ("", "Backward")],
        "state": step.state, "needed": step.needed, "aliases": text.split("\\n", 1)[0].count("-alias)"),
        "sync": [text.count(f'"is_sync":{word}') for word in ("true", "false")],
        "sent": best.by_kind().get("collectives", [0] * 4)[2],
        "seconds": best.seconds, "flops": best.flops, "kinds": list(best.by_kind()),
        "work": flops.training_flops(run.model, run.batch_size, run.batch_size).total / len(target.devices),
    }))
"""


def compiled(configs, target="h100:1"):
    """Return what is found in the optimized program of each step."""
    pytest.importorskip("jax_plugins.xla_cuda13", reason="needs jax-cuda13-plugin and jax-cuda13-pjrt")
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE], input=json.dumps([target, [to_dict(c) for c in configs]]), env=environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line[6:]) for line in done.stdout.splitlines() if line.startswith("FOUND ")]


def run_of(image_size, context, **fields):
    shape = {"width": 128, "depth": 2, "heads": 2}
    model = ModelConfig(
        image=ImageTowerConfig(image_size=image_size, patch_size=8, **shape), embed_dim=64,
        text=TextTowerConfig(context_length=context, **shape), compute_dtype="bfloat16", **fields,
    )  # fmt: skip
    return RunConfig(model=model, batch_size=64)


def test_compiled_attention_is_fused_at_every_length():
    runs = [run_of(56, 77), run_of(112, 76), run_of(128, 77), run_of(192, 77)]
    assert [r.model.image.tokens for r in runs] == [50, 197, 257, 577]
    for memory in compiled(runs):
        assert memory["calls"] == [2, 2]  # each in the loop of a tower
        assert memory["flops"] > 0.99 * memory["work"]
        assert "unpriced" not in memory["kinds"]


def test_compiled_memory_falls_with_the_default_remat_policy():
    usual, all_kept, written = compiled(
        [run_of(112, 77), run_of(112, 77, remat_policy="nothing"), run_of(112, 77, attention="xla")]
    )
    assert usual["calls"] == all_kept["calls"] == [2, 2]
    assert written["calls"] == [0, 0]
    used = [memory["needed"] - memory["state"] for memory in (usual, all_kept, written)]
    assert used[0] < 0.7 * used[1]
    assert used[0] < used[2]
    assert usual["seconds"] < all_kept["seconds"]


def test_compiled_step_on_eight_gpus_splits_heads_donates_its_state_and_hides_collectives():
    runs = [run_of(56, 77)] * 2
    meshes = [{"data": 2, "fsdp": 2, "tensor": 2}, {"data": 2, "fsdp": 4}]
    runs = [dataclasses.replace(r, mesh=dataclasses.replace(r.mesh, **m)) for r, m in zip(runs, meshes, strict=True)]
    unrolled = dataclasses.replace(runs[1], model=dataclasses.replace(runs[1].model, scan_layers=False))
    heads, gathered, plain = compiled([*runs, unrolled], "h100:8")
    assert heads["calls"] == gathered["calls"] == [2, 2]
    assert plain["calls"] == [4, 4]
    assert plain["sent"] < 1.2 * gathered["sent"]  # no activations
    for memory in (heads, gathered):
        assert memory["aliases"] == leaves(runs[0])
        assert "collectives" in memory["kinds"]
    waiting, beside = gathered["sync"]
    assert beside > 2 * waiting


def leaves(run):
    """Return the number of arrays of the state, all of which a step may overwrite."""
    _, state, _ = abstract_step(run, make_mesh(MeshConfig(), jax.devices()[:1]))
    return len(jax.tree.leaves(state))


@pytest.mark.parametrize(("card", "fused"), [("h200", 2), ("b200", 2), ("a100", 0)])
def test_step_compiles_for_each_card(card, fused):
    (memory,) = compiled([run_of(56, 77)], f"{card}:1")
    assert memory["calls"] == [fused, fused]
    assert memory["seconds"] > 0


def test_gpu_target_of_several_hosts_counts_its_devices(tmp_path):
    (memory,) = compiled([dataclasses.replace(run_of(56, 77), batch_size=128)], "h100:2x8")
    assert "collectives" in memory["kinds"]
