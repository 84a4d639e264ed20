"""Bad points are refused, each with its reason."""

import numpy as np
import pytest

from clip_jax.scaling.data.observations import check_points, columns_of, count_duplicates, noise_floor
from clip_jax.scaling.fit.loss import Loss
from clip_jax.scaling.fit_law import fit_law
from clip_jax.scaling.laws import Chinchilla, PowerLaw, PowerLawFromChance, SaturatingPowerLaw

from ...user_errors import raises_user_error

C = np.geomspace(1e10, 1e13, 8)
Y = 0.7 * (C / C[0]) ** -0.1


def changed(values, row, value):
    values = values.copy()
    values[row] = value
    return values


@pytest.mark.parametrize(
    ("columns", "y", "field", "value"),
    [
        (C[:1], Y[:1], "flops", 1e10),
        (np.full(8, 1e10), Y, "flops", 1e10),
        (C, changed(Y, 3, 0.0), "y", 0.0),
        (C, changed(Y, 3, -0.1), "y", -0.1),
        (C, changed(Y, 5, np.nan), "y", np.nan),
        (C, changed(Y, 5, np.inf), "y", np.inf),
        (changed(C, 2, np.nan), Y, "flops", np.nan),
        (changed(C, 2, 0), Y, "flops", 0.0),
        (np.append(C[:4] / 1e9, C[4:]), Y, "flops", C[4]),
        (C, np.append(Y[:4], 100 * Y[4:]), "y", 100 * Y[7]),
        (C, Y[:5], "flops", None),
    ],
)
def test_fit_law_bad_points_name_the_column_and_the_value(columns, y, field, value):
    with raises_user_error(field=field) as caught:
        fit_law(PowerLaw(), columns, y)
    assert caught.value.value == pytest.approx(value, nan_ok=True)
    assert caught.value.reason


def test_fit_law_one_budget_cannot_separate_size_from_samples():
    size = np.geomspace(1e6, 1e9, 9)
    one = {"params": size, "samples_seen": 1e18 / size}
    with raises_user_error(field="params, samples_seen"):
        fit_law(Chinchilla(), one, 3 + 0.1 * np.log(size))


@pytest.mark.parametrize("law", [PowerLawFromChance(ceiling=0.9), SaturatingPowerLaw(ceiling=0.9)])
def test_check_points_above_the_ceiling_are_kept(law):
    assert len(check_points(law, C, changed(Y, 0, 0.95))) == 8


def test_check_points_in_linear_space_allows_values_of_zero_or_less():
    assert len(check_points(PowerLaw(), C, changed(Y, 3, 0.0), positive=False)) == 8
    assert np.isfinite(fit_law(PowerLaw(), C, changed(Y, 3, 0.0), loss=Loss("huber", "linear")).objective)


def test_columns_of_accepts_dicts_tables_and_arrays():
    import pandas as pd

    table = pd.DataFrame({"params": [1e6, 1e7], "samples_seen": [1e8, 1e9], "other": [1, 2]})
    assert set(columns_of(Chinchilla(), table)) == {"params", "samples_seen"}
    assert columns_of(Chinchilla(), {"params": 1e6, "samples_seen": [1.0, 2.0]})["params"].tolist() == [1e6, 1e6]
    for columns, field in (({"params": C}, "samples_seen"), (C, "columns")):
        with raises_user_error(field=field):
            columns_of(Chinchilla(), columns)


def test_count_duplicates_counts_repeated_points():
    assert count_duplicates(check_points(PowerLaw(), np.append(C, C[:2]), np.append(Y, Y[:2]))) == 2
    assert count_duplicates(check_points(PowerLaw(), np.append(C, C[:2]), np.append(Y, Y[:2] * 1.01))) == 0


def test_noise_floor_equals_the_binomial_scatter():
    rng = np.random.default_rng(0)
    drawn = np.log(rng.binomial(2000, 0.3, 20000) / 2000)
    assert noise_floor(0.3, 2000) == pytest.approx(drawn.std(), rel=0.03)
    with raises_user_error(field="errors, examples"):
        noise_floor(1.2, 100)
