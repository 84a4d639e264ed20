"""Arms against the first: the planted gain is found, and drawn."""

import numpy as np
import pandas as pd

from clip_jax.scaling.planning.compare import compare_arms
from clip_jax.scaling.report.figures.ablations import draw_arms

from ....user_errors import raises_user_error


def arm(factor, noise=0.003, top=1e12):
    """Return a power law whose compute counts ``factor`` times."""
    rng = np.random.default_rng(int(10 * factor))
    c = np.repeat([1e10, 1e11, top], 2)
    return pd.DataFrame({
        "run_id": [f"{factor}-{i}" for i in range(6)], "flops": c, "params": 1e4, "samples_seen": 1e5,
        "seed": [0, 1] * 3, "error_mean": 0.9 * (c * factor / 1e10) ** -0.1 * np.exp(noise * rng.standard_normal(6)),
    })  # fmt: skip


def test_compare_arms_intervals_hold_the_planted_gains(tmp_path):
    arms = {"first": arm(1.0), "thrifty": arm(3.0), "dear": arm(0.5, top=5e11)}
    first, thrifty, dear = compared = compare_arms(arms, replicas=300)
    assert first["gain"] is None
    assert first["at"] == 5e11
    assert thrifty["gain_low"] < 3.0 < thrifty["gain_high"]
    assert thrifty["gain_high"] / thrifty["gain_low"] < 2
    assert dear["gain_low"] < 0.5 < dear["gain_high"]
    assert dear["ratio_low"] < 2**0.1 < dear["ratio_high"]
    assert "less compute" in thrifty["text"]
    assert "more compute" in dear["text"]
    figure = draw_arms(arms, compared, title="Arms")
    left, right = figure.axes
    assert [t.get_text() for t in left.get_legend().get_texts()] == list(arms)
    assert [t.get_text() for t in right.get_yticklabels()] == ["dear", "thrifty"]
    figure.savefig(tmp_path / "arms.png")
    assert (tmp_path / "arms.png").stat().st_size > 10_000


def test_compare_arms_of_no_arm_is_refused():
    with raises_user_error(field="arms"):
        compare_arms({})
