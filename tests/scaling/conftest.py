"""Simulated tables of runs."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest


def simulate(curve, budgets=7, sizes=5, seeds=2, noise=0.003, seed=0):
    """Return IsoFLOP runs around an optimum N* = C^0.5 / 300, whose lowest error is ``curve(C)``."""
    rng = np.random.default_rng(seed)
    rows = []
    for c in np.geomspace(1e10, 1e13, budgets):
        for k in range(sizes):
            params = c**0.5 / 3 * 2.0 ** (k - sizes // 2)
            for s in range(seeds):
                away = np.log(params / (c**0.5 / 3))
                error = curve(c) * np.exp(0.05 * away**2 + noise * rng.standard_normal())
                rows.append({
                    "run_id": f"r{len(rows)}", "flops": c, "budget": c, "params": round(params),
                    "samples_seen": c / params / 6,
                    "seed": s, "batch_size": 64, "final": True, "kind": "cell", "error_mean": error, "peak_lr": 1e-3,
                })  # fmt: skip
    return pd.DataFrame(rows)


CURVES = {
    "power law": lambda c: 0.7 * (c / 1e10) ** -0.1,
    "saturating power law": lambda c: 0.2 + 0.5 * (c / 1e10) ** -0.35,
    "sigmoid in log C": lambda c: 0.9 / (1 + (c / 4e11) ** 0.6),
}


@pytest.fixture(scope="session")
def runs():
    """Return the function that simulates a table."""
    return simulate


@pytest.fixture(scope="session")
def curves():
    """Return a true curve of each form."""
    return CURVES


@pytest.fixture(scope="session")
def tables():
    """Return the folder of published tables, which are not ours to commit: CLIP_JAX_TABLES, or beside the checkout."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "scaling_tables"
    folder = Path(os.environ.get("CLIP_JAX_TABLES", beside))
    if not folder.is_dir():
        pytest.skip(f"no published tables at {folder}; CLIP_JAX_TABLES names their folder")
    return folder
