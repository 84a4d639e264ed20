"""Figures for tables that are hard to draw."""

import pytest

from clip_jax.scaling.report import write_report


@pytest.mark.parametrize("options", [{"budgets": 1}, {"sizes": 1, "seeds": 1}, {"budgets": 3, "sizes": 2, "seeds": 1}])
def test_poor_tables_can_be_drawn(runs, curves, tmp_path, options):
    write_report(runs(curves["sigmoid in log C"], **options), tmp_path)
    assert len(list(tmp_path.glob("*.png"))) == 4
