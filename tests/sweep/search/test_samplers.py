"""Proposals are a function of what is known; TPE finds a planted optimum; halving keeps the best."""

import math
import sys

import pytest

from clip_jax.sweep.search.samplers import RANDOM_STARTS, propose, survivors
from clip_jax.sweep.search.space import grid, parse_space, sample_random

from ...user_errors import raises_user_error

SPACE = parse_space(["lr = log(1e-4, 1, 5)", "kind = choice(a, b)", "x = uniform(0, 1, 3) if kind = b"])


def loss(setting):
    """Return a loss that is least at lr = 0.01, kind b, x = 0.3."""
    off = (math.log10(setting["lr"]) + 2) ** 2
    return off + (1.0 if setting["kind"] == "a" else 4 * (setting["x"] - 0.3) ** 2)


def search(method, trials, together, seed=0, fail=lambda s: False):
    observations = []
    while batch := propose(SPACE, method, trials, seed, together, observations):
        observations += [(s, None if fail(s) else loss(s)) for s in batch]
    return observations


def test_propose_of_grid_and_random_ignores_results():
    assert [s for s, _ in search("grid", 0, 1)] == grid(SPACE)
    assert [s for s, _ in search("random", 7, 3)] == sample_random(SPACE, 7, 0)


def test_tpe_depends_on_results_alone_and_beats_random():
    pytest.importorskip("optuna", reason="extra `search` not installed")
    best = [min(v for _, v in search("tpe", 40, 4, seed)) for seed in range(3)]
    chance = [min(loss(s) for s in sample_random(SPACE, 40, seed)) for seed in range(3)]
    assert sum(best) < sum(chance)
    observations = search("tpe", 20, 4)
    assert len(observations) == 20
    for cut in (RANDOM_STARTS, RANDOM_STARTS + 4):  # a driver that starts again proposes the same
        assert propose(SPACE, "tpe", 20, 0, 4, observations[:cut]) == [s for s, _ in observations[cut : cut + 4]]


def test_tpe_learns_from_failures():
    pytest.importorskip("optuna", reason="extra `search` not installed")
    observations = search("tpe", 40, 4, fail=lambda s: s["lr"] > 0.05)
    late = [s["lr"] for s, _ in observations[RANDOM_STARTS:]]
    assert sum(rate > 0.05 for rate in late) < 0.25 * len(late)  # a third of the range


def test_tpe_needs_optuna(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with raises_user_error(field="method", value="tpe"):
        propose(SPACE, "tpe", 20, 0, 1, [(s, 1.0) for s in sample_random(SPACE, RANDOM_STARTS, 0)])


def test_survivors_keep_the_best_share():
    assert survivors([0.5, 0.1, 0.3, 0.2], 0.5) == [1, 3]
    assert survivors([0.5, None, 0.3, math.nan], 0.25) == [2]
    assert survivors([0.2, 0.2, 0.2], 0.5) == [0, 1]
    assert survivors([None, None], 0.5) == []
