"""Intervals by a bootstrap of groups: coverage, their shape, and what is refused."""

import runpy
from pathlib import Path

import numpy as np
import pytest

from clip_jax.scaling.fit.loss import Loss
from clip_jax.scaling.fit_law import fit_law
from clip_jax.scaling.laws import PowerLaw, SaturatingPowerLaw
from clip_jax.scaling.uncertainty.clusters import cluster_intervals

from ...user_errors import raises_user_error

SQUARES = Loss("squares")


@pytest.fixture(scope="module")
def coverage():
    return runpy.run_path(str(Path(__file__).parents[3] / "benchmarks" / "table_options_coverage.py"))


@pytest.mark.thorough
def test_cluster_intervals_of_two_hundred_tables_cover(coverage):  # thorough
    clustered, without = coverage["grouped"](10, 3, True, tables=200, replicas=300)
    assert (clustered >= 0.9).all()
    assert without[0] < 0.88  # intervals that know no groups do not


@pytest.mark.thorough
def test_weighted_intervals_of_two_hundred_tables_cover(coverage):  # thorough
    right, _, narrower = coverage["weighted"](20, tables=200)
    assert (right >= 0.9).all()
    assert narrower < 0.6


def test_cluster_intervals_hold_the_truth_in_a_few_tables(coverage):
    clustered, without = coverage["grouped"](10, 3, True, tables=20, replicas=200)
    assert (clustered >= 0.8).all()
    assert without[0] < clustered[0]


def test_weighted_intervals_hold_the_truth_in_a_few_tables(coverage):
    right, _, narrower = coverage["weighted"](20, tables=20)
    assert (right >= 0.8).all()
    assert narrower < 0.6


def grouped_fit(groups, law=PowerLaw(), each=3, **options):  # noqa: B008
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(groups), each)
    x = np.geomspace(1e10, 1e13, groups)[labels]
    y = 0.7 * (x / 1e10) ** -0.1 * np.exp(0.03 * rng.standard_normal(groups)[labels])
    return fit_law(law, x, y, loss=SQUARES, profile=False, **options), labels


@pytest.mark.parametrize("groups", [2, 4])
def test_cluster_intervals_too_few_groups_are_refused(groups):
    fit, labels = grouped_fit(groups)
    with raises_user_error(field="--group", reason=f"{groups} groups"):
        cluster_intervals(fit, labels)


def test_cluster_intervals_need_more_groups_than_parameters():
    fit, labels = grouped_fit(5, SaturatingPowerLaw(), fixed={})
    fit3 = cluster_intervals(fit, labels, replicas=50)  # three parameters, five groups: just enough
    assert fit3.groups == 5
    assert fit3.parameter("E").open_low  # the bound
    assert not fit3.parameter("b").open_high


def test_cluster_intervals_of_a_run_hold_those_of_the_curve():
    fit, labels = grouped_fit(12)
    curve, run = cluster_intervals(fit, labels, replicas=400).forecast(1e14)
    assert run.low < curve.low < curve.value < curve.high < run.high
    again = cluster_intervals(fit, labels, replicas=400).forecast(1e14)
    assert (curve, run) == again  # the same seed
