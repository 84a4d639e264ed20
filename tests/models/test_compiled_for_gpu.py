"""The program of a training step as XLA compiles it for an H100 that is not there.

Needs the wheels ``jax-cuda13-plugin`` and ``jax-cuda13-pjrt`` of jax's own version (``pip install --no-deps``), no GPU.
"""

import dataclasses
import json
import os
import subprocess
import sys

import pytest

from clip_jax.config import ImageTowerConfig, ModelConfig, RunConfig, TextTowerConfig
from clip_jax.config.io import to_dict

pytestmark = pytest.mark.thorough

FIGURES = {
    "threads_per_block_limit": 1024, "threads_per_warp": 32, "shared_memory_per_block": 49152,
    "shared_memory_per_core": 233472, "threads_per_core_limit": 2048, "core_count": 132, "fpus_per_core": 128,
    "block_dim_limit_x": 2147483647, "block_dim_limit_y": 65535, "block_dim_limit_z": 65535,
    "memory_bandwidth": 3352320000000, "l2_cache_size": 52428800, "clock_rate_ghz": 1.98,
    "device_memory_size": 84942979072, "shared_memory_per_block_optin": 232448, "registers_per_core_limit": 65536,
    "registers_per_block_limit": 65536, "thread_dim_limit_x": 1024, "thread_dim_limit_y": 1024,
    "thread_dim_limit_z": 64,
}  # fmt: skip
H100 = "\n".join(
    [
        "gpu_device_info {",
        *(f"{name}: {value}" for name, value in FIGURES.items()),
        "cuda_compute_capability { major: 9 feature_extension: ACCELERATED_FEATURES }",
        *(f'{name}: "13.0.0"' for name in ("runtime_version", "driver_version", "compile_time_toolkit_version")),
        'dnn_version: "9.12.0"',
        "}",
        'platform_name: "CUDA"',
        "dnn_version_info { major: 9 minor: 12 }",
        "runtime_version { major: 13 }",
        'device_description_str: "NVIDIA H100 80GB HBM3"',
    ]
)
# its own process: a platform is chosen once, and the plugin is to be found only here
COMPILE = """
import json, sys
from jax._src.cudnn import fused_attention_stablehlo
from jax.experimental import topologies
from clip_jax.config import RunConfig
from clip_jax.config.io import from_dict
from clip_jax.distributed.mesh import make_mesh
from clip_jax.train.step import abstract_step

fused_attention_stablehlo.check_cudnn_version = lambda: 91200  # of the target; there is no library to ask
proto, shape, configs = json.load(sys.stdin)
devices = list(topologies.get_topology_desc(platform="cuda", target_config=proto, topology=shape).devices)
for config in configs:
    run = from_dict(RunConfig, config)
    step, *args = abstract_step(run, make_mesh(run.mesh, devices))
    compiled = step.lower(*args).compile(compiler_options={"xla_gpu_enable_triton_gemm": False})
    calls = [compiled.as_text().count(f'"__cudnn$fmhaSoftmax{way}"') for way in ("", "Backward")]
    print("FOUND", json.dumps([calls, compiled.memory_analysis().temp_size_in_bytes]))
"""


def compiled(configs, shape="1x1x1"):
    """Return [calls of the kernel forward and backward, bytes of temporaries] of each."""
    pytest.importorskip("jax_plugins.xla_cuda13", reason="needs jax-cuda13-plugin and jax-cuda13-pjrt")
    given = json.dumps([H100, shape, [to_dict(c) for c in configs]])
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE], input=given, env=environment, capture_output=True, text=True, check=False
    )
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
    assert [calls for calls, _ in compiled(runs)] == [[2, 2]] * 4  # each in the loop of a tower


def test_compiled_memory_falls_with_the_default_remat_policy():
    usual, all_kept, written = compiled(
        [run_of(112, 77), run_of(112, 77, remat_policy="nothing"), run_of(112, 77, attention="xla")]
    )
    assert usual[0] == all_kept[0] == [2, 2]
    assert written[0] == [0, 0]
    assert usual[1] < 0.7 * all_kept[1]
    assert usual[1] < written[1]


def test_compiled_fused_heads_are_split_over_the_tensor_axis():
    run = run_of(56, 77)
    run = dataclasses.replace(run, mesh=dataclasses.replace(run.mesh, data=2, fsdp=2, tensor=2))
    ((calls, _),) = compiled([run], "1x1x8")
    assert calls == [2, 2]
