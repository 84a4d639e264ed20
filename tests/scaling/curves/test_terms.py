"""The few terms of the sum over changes of the rate, against the sum over every step."""

import jax.numpy as jnp
import numpy as np
import pytest

from clip_jax.scaling.curves.laws import Annealing, MultiPower
from clip_jax.scaling.curves.schedule import cosine, schedule_of, stable_then_decay
from clip_jax.scaling.curves.terms import sum_nodes, terms_of
from clip_jax.scaling.fit.solver import exactly

PUBLISHED = {"C": 2.06561, "beta": 0.58279, "gamma": 0.64142}  # of Luo et al., 25M
MEMORY = {"memory": 300.0}
PEAK = 3e-4
SCHEDULES = {
    "cosine to 0": cosine(6000, PEAK, warmup_steps=500, knots=45),
    "cosine to a tenth": cosine(6000, PEAK, warmup_steps=500, floor=0.1 * PEAK, knots=45),
    "constant": stable_then_decay(6000, PEAK, decay_steps=0, warmup_steps=500),
    "linear decay to 0": stable_then_decay(6000, PEAK, decay_steps=1200, warmup_steps=500),
    "a jump": stable_then_decay(6000, PEAK, decay_steps=1, warmup_steps=500, floor=0.1 * PEAK),
    "two rates": schedule_of(
        np.array([1, 1000, 2000, 3000, 4000, 5000]), PEAK * np.array([1, 1, 1, 0.3, 0.3, 0.3]), warmup_steps=0
    ),
}


def direct(law, p, schedule, steps, warmup):
    """Sum over every step k up to each of ``steps``."""
    k = np.arange(1, steps[-1] + 1)
    rate, before = schedule.rate(k), schedule.rate(k - 1)
    area = np.concatenate([[0.0], np.cumsum(rate)])
    out = []
    for t in steps:
        use = (k <= t) & (warmup | (k > schedule.warmup_steps))
        tiny = 1e-12 * PEAK
        logs = np.log(np.maximum(rate[use], tiny)), np.log(np.maximum(area[t] - area[k[use] - 1], tiny))
        out.append(((before - rate)[use] * law.kernel(p, *logs, t - k[use], np)).sum())
    return np.array(out)


@pytest.mark.parametrize("warmup", [True, False])
@pytest.mark.parametrize("name", SCHEDULES)
def test_terms_give_the_sum_over_every_step(name, warmup):
    schedule = SCHEDULES[name]
    steps = np.array([700, 1300, 2999, 3000, 4801, 4815, 4900, 5500, 5999, 6000][: 7 if name == "two rates" else None])
    terms = terms_of([(schedule, steps)], warmup=warmup)
    for law, p in ((MultiPower(), PUBLISHED), (Annealing(), MEMORY)):
        exact = direct(law, p, schedule, steps, warmup)
        total = terms.total(lambda *c, law=law, p=p: law.kernel(p, *c, np), (), np)
        largest = PEAK * law.kernel(p, np.log(PEAK), np.log(6000 * PEAK), 6000.0, np)
        np.testing.assert_allclose(total, exact, rtol=0, atol=2e-6 * largest)


def test_a_log_of_every_step_needs_few_terms():
    k = np.arange(1, 6001)
    every = schedule_of(k, cosine(6000, PEAK, warmup_steps=500, knots=5501).rate(k), warmup_steps=500, peak=PEAK)
    steps = np.array([700, 3000, 6000])
    terms = terms_of([(every, steps)], warmup=True)
    assert terms.drop.size < 10_000 < 6000 * len(steps)
    exact = direct(MultiPower(), PUBLISHED, every, steps, True)
    total = terms.total(lambda *c: MultiPower().kernel(PUBLISHED, *c, np), (), np)
    np.testing.assert_allclose(total, exact, rtol=0, atol=3e-6 * PEAK)
    np.testing.assert_allclose(every.with_knots(steps).rate(k), every.rate(k), rtol=0, atol=1e-6 * PEAK)


def test_area_is_the_sum_of_the_rates():
    for schedule in SCHEDULES.values():
        every = np.cumsum(schedule.rate(np.arange(1, 5001)))
        np.testing.assert_allclose(schedule.area(np.arange(1, 5001)), every, rtol=1e-10)
    jump = SCHEDULES["a jump"]  # the last rate holds after the last knot
    np.testing.assert_allclose(jump.area(np.array([6100])) - jump.area(np.array([6000])), [100 * 0.1 * PEAK])


def test_numpy_in_parts_and_jax_agree(monkeypatch):
    schedule = SCHEDULES["cosine to 0"]
    terms = terms_of([(schedule, np.array([900, 3000, 6000])), (schedule, np.array([5000]))], warmup=True)
    p = {k: np.array([v, 1.1 * v])[:, None, None] for k, v in PUBLISHED.items()}
    kernel = MultiPower().kernel
    whole = terms.total(lambda *c: kernel(p, *c, np), (2,), np)
    monkeypatch.setattr("clip_jax.scaling.curves.terms.AT_ONCE", 100)
    np.testing.assert_allclose(terms.total(lambda *c: kernel(p, *c, np), (2,), np), whole, rtol=1e-12)
    with exactly():
        one = terms.total(lambda *c: kernel(PUBLISHED, *c, jnp), (), jnp)
    np.testing.assert_allclose(one, whole[0], rtol=1e-12)


def test_nodes_sum_polynomials_exactly():
    at, weight = sum_nodes(128, 3)
    assert len(at) == 3
    k = np.arange(128)
    for power in range(6):
        np.testing.assert_allclose((weight * at**power).sum(), (k.astype(float) ** power).sum(), rtol=1e-11)
    assert abs((weight * at**6).sum() / (k.astype(float) ** 6).sum() - 1) > 1e-8
    np.testing.assert_array_equal(sum_nodes(2, 3)[0], [0, 1])
