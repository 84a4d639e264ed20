"""One hash for one table, whatever its order."""

import hashlib

import numpy as np
import pandas as pd

from clip_jax.scaling.data.provenance import rows_hash, versions


def test_rows_hash_is_independent_of_order():
    df = pd.DataFrame({"run_id": ["a", "b"], "flops": [1e10, 2e10], "seed": [0, 1]})
    assert rows_hash(df) == rows_hash(df.iloc[::-1, ::-1]) == rows_hash(df.astype({"seed": float}))


def test_rows_hash_changes_with_one_digit():
    df = pd.DataFrame({"run_id": ["a", "b"], "error": [0.5, 0.25]})
    assert rows_hash(df) != rows_hash(df.assign(error=[0.5, np.nextafter(0.25, 1)]))
    assert rows_hash(df) != rows_hash(df.assign(error=[0.25, 0.5]))


def test_rows_hash_uses_the_documented_form():
    df = pd.DataFrame({"b": [1, 2], "a": ["y", None]})
    assert rows_hash(df) == hashlib.sha256(b"a=\tb=2.0\na=y\tb=1.0").hexdigest()


def test_versions_name_the_numeric_packages():
    assert {"clip_jax", "jax", "numpy", "scipy"} <= versions().keys()
