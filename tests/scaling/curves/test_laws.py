"""The laws against their formulas, written as plain sums over every step."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clip_jax.scaling.curves.laws import CURVE_LAWS, Annealing, MultiPower
from clip_jax.scaling.curves.schedule import schedule_of
from clip_jax.scaling.curves.terms import terms_of
from clip_jax.scaling.fit.solver import exactly

PEAK, T = 1e-2, 60
# logged at every step, so that little is approximated
RATES = np.concatenate([PEAK * np.arange(1, 11) / 10, PEAK * (1 + np.cos(np.pi * np.arange(50) / 60)) / 2])
SCHEDULE = schedule_of(np.arange(1, T + 1), RATES, warmup_steps=10, peak=PEAK)
AT = np.array([12, 30, 60])
ANNEALING = {"L0": 2.9, "A": 0.55, "alpha": 0.5, "C": 0.8, "memory": 20.0}
MULTI_POWER = {"L0": 2.9, "A": 0.55, "alpha": 0.5, "B": 15.0, "C": 1.5, "beta": 0.5, "gamma": 0.6}
SIZE = {"B_N": 40.0, "beta_N": 0.3}


def rate(k):
    return 0.0 if k == 0 else RATES[k - 1]


def annealing(t, first):
    p, momentum = ANNEALING, 1 - 1 / ANNEALING["memory"]
    s1 = sum(rate(i) for i in range(1, t + 1))
    s2 = sum((rate(k - 1) - rate(k)) * momentum ** (i - k) for i in range(first, t + 1) for k in range(first, i + 1))
    return p["L0"] + p["A"] * s1 ** -p["alpha"] - p["C"] * s2


def multi_power(t, first):
    p = MULTI_POWER
    s1 = sum(rate(i) for i in range(1, t + 1))
    total = 0.0
    for k in range(first, t + 1):
        x = rate(k) ** -p["gamma"] * sum(rate(i) for i in range(k, t + 1))
        total += (rate(k - 1) - rate(k)) * (1 - (p["C"] * x + 1) ** -p["beta"])
    return p["L0"] + p["A"] * s1 ** -p["alpha"] - p["B"] * total


def columns():
    return {"row": np.log(np.arange(1.0, len(AT) + 1)), "area": np.log(SCHEDULE.area(AT))}


@pytest.mark.parametrize("warmup", [True, False])
@pytest.mark.parametrize(
    ("kind", "p", "plain"), [(Annealing, ANNEALING, annealing), (MultiPower, MULTI_POWER, multi_power)]
)
def test_a_law_is_its_formula(kind, p, plain, warmup):
    law = kind(terms_of([(SCHEDULE, AT)], warmup=warmup))
    expected = [plain(t, 1 if warmup else 11) for t in AT]
    predicted = law.predict(law.theta(p, {"area": 1.0, "row": 1.0}), columns())
    np.testing.assert_allclose(predicted, expected, rtol=1e-8)


def test_rows_are_chosen_by_their_number_and_sizes_add_their_term():
    law = CURVE_LAWS["annealing"][1](terms_of([(SCHEDULE, AT)], warmup=True))
    x = {**{k: v[[2, 0]] for k, v in columns().items()}, "params": np.log([1e6, 2e6])}
    predicted = law.predict(law.theta({**ANNEALING, **SIZE}, dict.fromkeys(law.columns, 1.0)), x)
    sizes = SIZE["B_N"] * np.array([1e6, 2e6]) ** -SIZE["beta_N"]
    np.testing.assert_allclose(predicted - sizes, [annealing(60, 1), annealing(12, 1)], rtol=1e-8)


@pytest.mark.parametrize(("kind", "p"), [(Annealing, ANNEALING), (MultiPower, MULTI_POWER)])
def test_value_and_derivative_agree_with_numpy(kind, p):
    law = kind(terms_of([(SCHEDULE, AT)], warmup=True))
    theta = law.theta(p, {"area": 1.0, "row": 1.0})
    with exactly():
        curve = jax.jit(lambda t: law.curve(law.unpack(t, jnp), columns(), jnp))
        value, slope = curve(theta), jax.jit(jax.jacfwd(curve))(theta)
    np.testing.assert_allclose(value, law.predict(theta, columns()), rtol=1e-12)
    for i in range(len(theta)):
        aside = 1e-6 * np.eye(len(theta))[i]
        change = law.predict(theta + aside, columns()) - law.predict(theta - aside, columns())
        np.testing.assert_allclose(slope[:, i], change / 2e-6, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("key", CURVE_LAWS)
def test_names_and_formulas(key):
    for law in (kind() for kind in CURVE_LAWS[key]):
        assert law.key == key
        assert "<" not in law.latex
        assert len(set(law.names)) == len(law.names)
        assert law.text(dict.fromkeys(law.names, 0.5)).count("0.5") >= len(law.names)
        assert law != replace(law, terms=terms_of([(SCHEDULE, AT)], warmup=True))
