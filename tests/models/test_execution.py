"""What a model becomes on given devices."""

import dataclasses
from types import SimpleNamespace

import jax
import pytest

from clip_jax.config import MeshConfig, ModelConfig
from clip_jax.config.presets import preset
from clip_jax.distributed.mesh import make_mesh
from clip_jax.errors import ConfigError
from clip_jax.models.clip import build
from clip_jax.models.execution import resolve

from ..user_errors import raises_user_error

HALF = ModelConfig(compute_dtype="bfloat16")


def device(platform="gpu", kind="NVIDIA H100 80GB HBM3", **more):
    return SimpleNamespace(platform=platform, device_kind=kind, **more)


def heads(config, size):
    return dataclasses.replace(config, image=dataclasses.replace(config.image, width=size, heads=1))


@pytest.mark.parametrize(
    ("config", "where", "attention"),
    [
        (HALF, device(), "cudnn"),
        (HALF, device(compute_capability="9.0"), "cudnn"),
        (dataclasses.replace(HALF, compute_dtype="float16"), device(kind="NVIDIA B200"), "cudnn"),
        (HALF, device(kind="a part of next year", compute_capability="11.0"), "cudnn"),
        (HALF, device(kind="a part of next year"), "xla"),
        (HALF, device(kind="NVIDIA A100-SXM4-80GB", compute_capability="8.0"), "xla"),
        (HALF, device(kind="AMD Instinct MI300X", compute_capability="gfx942"), "xla"),
        (HALF, device("tpu", "TPU v5 lite"), "xla"),
        (dataclasses.replace(HALF, compute_dtype="float32"), device(), "xla"),
        (dataclasses.replace(HALF, compute_dtype="float64"), device(), "auto"),
        (heads(HALF, 12), device(), "xla"),
        (heads(HALF, 256), device(), "xla"),
        (preset("ViT-bigG/14"), device(), "xla"),  # float32
        (dataclasses.replace(preset("ViT-bigG/14"), compute_dtype="bfloat16"), device(), "cudnn"),
        (dataclasses.replace(HALF, attention="xla"), device(), "xla"),
        (HALF, device("cpu", "cpu"), "auto"),
    ],
)
def test_resolve_chooses_attention_by_device_dtype_and_heads(config, where, attention):
    assert resolve(config, where).attention == attention


@pytest.mark.parametrize(
    ("remat", "policy", "cpu", "accelerator"),
    [
        (False, "auto", (False, "nothing"), (True, "dense")),
        (False, "nothing", (False, "nothing"), (False, "nothing")),
        (True, "auto", (True, "nothing"), (True, "nothing")),
        (True, "dots", (True, "dots"), (True, "dots")),
    ],
)
def test_resolve_chooses_the_remat_policy_by_device(remat, policy, cpu, accelerator):
    config = dataclasses.replace(HALF, remat=remat, remat_policy=policy)
    for where, wanted in ((device("cpu", "cpu"), cpu), (device(), accelerator), (device("tpu", "TPU v4"), accelerator)):
        resolved = resolve(config, where)
        assert (resolved.remat, resolved.remat_policy) == wanted
        assert resolve(resolved, where) == resolved


def test_resolve_of_a_resnet_uses_no_remat():
    resnet = dataclasses.replace(preset("RN50"), compute_dtype="bfloat16")
    assert not resolve(resnet, device()).remat
    with raises_user_error(ConfigError, field="model.remat_policy", value="dense"):
        dataclasses.replace(resnet, remat=True, remat_policy="dense")


def test_resolve_fused_attention_without_support_is_refused():
    fused = dataclasses.replace(HALF, attention="cudnn")
    for config, where in (
        (fused, device("cpu", "cpu")),
        (fused, device(kind="NVIDIA A100-SXM4-80GB")),
        (heads(fused, 12), device()),
    ):
        with raises_user_error(ConfigError, field="model.attention", value="cudnn"):
            resolve(config, where)
    with raises_user_error(ConfigError, field="model.attention"):
        build(fused, make_mesh(MeshConfig(), jax.devices()[:1]))


@pytest.mark.parametrize(("attention", "dtype"), [("cudnn", "float32"), ("xla", "float64"), ("flash", "bfloat16")])
def test_model_config_attention_of_an_unsupported_dtype_is_refused(attention, dtype):
    with raises_user_error(ConfigError, field="model.attention"):
        ModelConfig(attention=attention, compute_dtype=dtype)
