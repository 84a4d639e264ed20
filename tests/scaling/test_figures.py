"""Figures for tables that are hard to draw."""

import pytest

from clip_jax.scaling.report import write_report


@pytest.mark.parametrize("options", [{"budgets": 1}, {"sizes": 1, "seeds": 1}, {"budgets": 3, "sizes": 2, "seeds": 1}])
def test_poor_tables_can_be_drawn(runs, curves, tmp_path, options):
    write_report(runs(curves["sigmoid in log C"], **options), tmp_path)
    assert len(list(tmp_path.glob("*.png"))) == 4


def test_a_loss_above_one_is_inside_the_axes(runs, tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    drawn = {}
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **_: drawn.setdefault(path.name, self))
    df = runs(lambda c: 6.5 * (c / 1e10) ** -0.05)
    write_report(df, tmp_path)
    low, high = drawn["error_vs_flops.png"].axes[0].get_ylim()
    assert low < df["error_mean"].min()
    assert df["error_mean"].max() < high
