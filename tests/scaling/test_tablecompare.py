"""Families compared and runs designed from tables, in text."""

import re

import numpy as np
import pandas as pd
import pytest

from clip_jax.config import UserError
from clip_jax.scaling.tablecompare import compare_tables, design_from_table
from clip_jax.scaling.tablefit import TableFit

POWER = TableFit(laws=("power",))


def table(path, a, b, seed=0, repeats=1):
    rng = np.random.default_rng(seed)
    x = np.repeat(np.geomspace(1e10, 1e14, 12), repeats)
    y = a * x**-b * np.exp(0.01 * rng.standard_normal(len(x)))
    pd.DataFrame({"flops": x, "error": y, "cell": [f"{v:.3g}" for v in x]}).to_csv(path, index=False)
    return path


@pytest.fixture
def families(tmp_path):
    """The second needs half the compute: its curve is the first's at twice the FLOPs."""
    return table(tmp_path / "a.csv", 10.0, 0.12), table(tmp_path / "b.csv", 10.0 * 2**-0.12, 0.12, seed=1)


def test_the_planted_gain_is_found(families):
    said = compare_tables(*families, POWER)
    gain, low, high = map(float, re.search(r"needs ([\d.]+)× \(([\d.]+) to ([\d.]+)\) less compute", said).groups())
    assert low < 2 < high
    assert 1.7 < gain < 2.3
    assert said.count("surely lower") == 5
    assert "no crossing" in said


def test_rows_are_drawn_by_groups(tmp_path):
    a, b = (table(tmp_path / f"{i}.csv", 10.0, 0.12, seed=i, repeats=3) for i in range(2))
    grouped = compare_tables(a, b, POWER, group="cell")
    assert grouped != compare_tables(a, b, POWER)
    with pytest.raises(UserError, match="--group=budget: .*0.csv lacks this column"):
        compare_tables(a, b, POWER, group="budget")


def test_families_need_something_in_common(tmp_path, families):
    far = pd.read_csv(families[1])
    far["flops"] *= 1e6
    far.to_csv(tmp_path / "far.csv", index=False)
    with pytest.raises(UserError, match="no flops in common: 1e.10 to 1e.14 and 1e.16 to 1e.20"):
        compare_tables(families[0], tmp_path / "far.csv", POWER)


def test_a_budget_is_spent_where_it_sharpens_the_forecast(families):
    what = TableFit(laws=("power",), at=("1e16",))
    said = design_from_table(families[0], what, ["1e10", "1e12", "1e15"], budget=2.5e15)
    before, after = (float(v) for v in re.findall(r"±([\d.]+)%", said))
    assert after < before
    assert "run 2 × flops=1e+15" in said
    precise = design_from_table(families[0], what, ["1e12", "1e15"], precision=after / 100)
    assert float(re.findall(r"±([\d.]+)%", precise)[1]) <= after + 0.005


@pytest.mark.parametrize(
    ("what", "candidates", "options", "message"),
    [
        (TableFit(laws=("power",), at=("1e16",)), ["1e12"], {}, "--budget=FLOPS or --precision=SHARE"),
        (POWER, ["1e12"], {"budget": 1e13}, "needs one --at"),
        (TableFit(laws=("power",), at=("1e16",)), [], {"budget": 1e13}, "needs --candidate=VALUE"),
        (TableFit(laws=("power",), at=("1e16",)), ["x"], {"budget": 1e13}, "--at: .*'x'|--at=x"),
    ],
)
def test_what_a_design_needs(families, what, candidates, options, message):
    with pytest.raises(UserError, match=message):
        design_from_table(families[0], what, candidates, **options)
