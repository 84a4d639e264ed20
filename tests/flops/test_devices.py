"""Devices are found by the names that JAX gives them."""

import pytest

from clip_jax.flops.devices import device_of, peak_flops


def test_device_of_an_unknown_kind_is_none():
    assert device_of("cpu") is None
    assert peak_flops("cpu", "float32") is None
    assert peak_flops("TPU v4", "float32") is None


@pytest.mark.parametrize(
    ("kind", "name", "half"),
    [
        ("NVIDIA H100 80GB HBM3", "h100", 989e12),
        ("TPU v4", "v4", 275e12),
        ("TPU v5 lite", "v5e", 197e12),
        ("TPU v5", "v5p", 459e12),  # JAX leaves out the letter
        ("TPU v5p", "v5p", 459e12),
        ("TPU v6 lite", "v6e", 918e12),
        ("TPU7x", "tpu7x", 1155e12),
    ],
)
def test_device_of_a_jax_kind_gives_name_and_peak(kind, name, half):
    assert device_of(kind).name == name
    assert peak_flops(kind, "bfloat16") == half
