"""Bad points are refused, each with its reason."""

import numpy as np
import pytest

from clip_jax.config import UserError
from clip_jax.scaling.fit import fit_law
from clip_jax.scaling.laws import Chinchilla, PowerLaw, PowerLawFromChance, SaturatingPowerLaw
from clip_jax.scaling.loss import Loss
from clip_jax.scaling.points import check_points, columns_of, copies, noise_floor

C = np.geomspace(1e10, 1e13, 8)
Y = 0.7 * (C / C[0]) ** -0.1


def changed(values, row, value):
    values = values.copy()
    values[row] = value
    return values


@pytest.mark.parametrize(
    ("columns", "y", "said"),
    [
        (C[:1], Y[:1], "needs at least 2 points, there are 1|is 1e.10 in all 1 rows"),
        (np.full(8, 1e10), Y, "flops is 1e.10 in all 8 rows; power law needs rows that differ"),
        (C, changed(Y, 3, 0.0), "row 3: y=0 must be above 0 and finite"),
        (C, changed(Y, 3, -0.1), "row 3: y=-0.1 must be above 0"),
        (C, changed(Y, 5, np.nan), "row 5: y=nan must be above 0 and finite"),
        (C, changed(Y, 5, np.inf), "row 5: y=inf must be"),
        (changed(C, 2, np.nan), Y, "row 2: flops=nan must be"),
        (changed(C, 2, 0), Y, "row 2: flops=0 must be"),
        (np.append(C[:4] / 1e9, C[4:]), Y, "flops jumps from .* two units in one column"),
        (C, np.append(Y[:4], 100 * Y[4:]), "y jumps from .* two units"),
        (C, Y[:5], "flops has shape"),
    ],
)
def test_each_bad_table_is_named(columns, y, said):
    with pytest.raises(UserError, match=said):
        fit_law(PowerLaw(), columns, y)


def test_one_budget_cannot_tell_size_from_samples():
    size = np.geomspace(1e6, 1e9, 9)
    one = {"params": size, "samples_seen": 1e18 / size}
    with pytest.raises(UserError, match="vary together along one line .a single budget"):
        fit_law(Chinchilla(), one, 3 + 0.1 * np.log(size))


def test_an_error_above_chance_is_refused_where_chance_is_known():
    for law in (PowerLawFromChance(ceiling=0.9), SaturatingPowerLaw(ceiling=0.9)):
        with pytest.raises(UserError, match="row 0: y=0.95 lies above the error of guessing, 0.9"):
            fit_law(law, C, changed(Y, 0, 0.95))


def test_a_loss_in_linear_space_may_be_zero_or_less():
    assert len(check_points(PowerLaw(), C, changed(Y, 3, 0.0), positive=False)) == 8
    assert np.isfinite(fit_law(PowerLaw(), C, changed(Y, 3, 0.0), loss=Loss("huber", "linear")).objective)


def test_columns_come_from_dicts_tables_and_arrays():
    import pandas as pd

    table = pd.DataFrame({"params": [1e6, 1e7], "samples_seen": [1e8, 1e9], "other": [1, 2]})
    assert set(columns_of(Chinchilla(), table)) == {"params", "samples_seen"}
    assert columns_of(Chinchilla(), {"params": 1e6, "samples_seen": [1.0, 2.0]})["params"].tolist() == [1e6, 1e6]
    with pytest.raises(UserError, match="lacks the column samples_seen"):
        columns_of(Chinchilla(), {"params": C})
    with pytest.raises(UserError, match="needs the columns params, samples_seen, not one array"):
        columns_of(Chinchilla(), C)


def test_copies_are_counted():
    assert copies(check_points(PowerLaw(), np.append(C, C[:2]), np.append(Y, Y[:2]))) == 2
    assert copies(check_points(PowerLaw(), np.append(C, C[:2]), np.append(Y, Y[:2] * 1.01))) == 0


def test_the_floor_is_the_binomial_scatter():
    rng = np.random.default_rng(0)
    drawn = np.log(rng.binomial(2000, 0.3, 20000) / 2000)
    assert noise_floor(0.3, 2000) == pytest.approx(drawn.std(), rel=0.03)
    with pytest.raises(UserError, match="errors must lie in"):
        noise_floor(1.2, 100)
