"""The coordinate check itself: mup passes it, and the standard parametrization does not."""

import functools

import numpy as np
import pytest

from clip_jax.config import ImageTowerConfig, ModelConfig, OptimConfig, ParametrizationConfig, TextTowerConfig
from clip_jax.train.coord_check import coordinate_changes, fit_powers

WIDTHS = (32, 64, 128, 256)
# of a power of the width: over 8 times the width a stream may change by a factor of 1.23 more or less, and an
# embedding, whose projection is far from wide beside it, by 1.68
MARGINS = {"stream": 0.1, "embedding": 0.25, "logits": 0.25}


@functools.cache
def powers_of(kind, optimizer="adamw", lr=2**-9, **fields):
    rng = np.random.default_rng(0)
    batch = {
        "images": rng.normal(size=(12, 32, 32, 3)).astype(np.float32),
        "tokens": rng.integers(1, 260, (12, 6)).astype(np.int32),
    }
    optim = OptimConfig(optimizer=optimizer, **fields)
    base = ParametrizationConfig("mup", WIDTHS[0], WIDTHS[0]) if kind == "mup" else ParametrizationConfig()
    rows = []
    for width in WIDTHS:
        shape = {"width": width, "depth": 1, "heads": width // 16}
        model = ModelConfig(
            image=ImageTowerConfig(**shape, image_size=32, patch_size=16),
            text=TextTowerConfig(**shape, context_length=6, vocab_size=260),
            embed_dim=16,
            scan_layers=False,
            parametrization=base,
        )
        rows.append(coordinate_changes(model, lr, batch, steps=4, optim=optim))
    return fit_powers(WIDTHS, rows)


@pytest.mark.thorough
def test_coordinate_changes_under_mup_are_independent_of_width():
    for module, (first, change) in powers_of("mup").items():
        margin = next(m for part, m in MARGINS.items() if part in module)
        assert abs(first) < 0.15, (module, first)
        assert abs(change) < margin, (module, change)


MATRICES_ONLY = {"optimizer": "muon", "lr": 2**-5, "muon_adam_lr": 2**-5}


@pytest.mark.thorough
@pytest.mark.parametrize("fields", [{"optimizer": "lion"}, MATRICES_ONLY], ids=["lion", "muon"])
def test_coordinate_changes_of_lion_and_muon_are_independent_of_width(fields):
    margins = MARGINS | {"embedding": 0.35}  # Lion's first updates turn the projection most
    for module, (_, change) in powers_of("mup", **fields).items():
        margin = next(m for part, m in margins.items() if part in module)
        assert abs(change) < margin, (module, change)


@pytest.mark.thorough
def test_coordinate_changes_of_muon_under_standard_parametrization_grow_with_width():
    assert powers_of("standard", **MATRICES_ONLY)["text stream 1"][1] > 2 * MARGINS["stream"]


@pytest.mark.thorough
def test_coordinate_changes_under_standard_parametrization_grow_with_width():
    changes = {module: change for module, (_, change) in powers_of("standard").items()}
    assert changes["image stream 1"] > 2 * MARGINS["stream"]
    assert changes["text stream 1"] > 3 * MARGINS["stream"]


def test_fit_powers_recovers_planted_powers():
    rows = [{"a": (w**0.5, w**-1.0), "b": (1.0, 3.0), **({"c": (1, 1)} if w > 2 else {})} for w in (2.0, 4.0, 8.0)]
    got = fit_powers((2, 4, 8), rows)
    assert got == {"a": (pytest.approx(0.5), pytest.approx(-1)), "b": (pytest.approx(0), pytest.approx(0))}
