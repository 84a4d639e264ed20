"""Every law keeps its one promise: the same formula in any unit, differentiable, invertible where it says so."""

import numpy as np
import pytest

from clip_jax.scaling.fit.loss import Loss
from clip_jax.scaling.fit_law import fit_law
from clip_jax.scaling.laws import (
    EVERY,
    LAWS,
    BoundedChinchilla,
    BoundedPowerLaw,
    BoundedRepetition,
    Chinchilla,
    ClipTowers,
    DataRepetition,
    OverTraining,
    SigmoidLogC,
    law_named,
)
from clip_jax.scaling.laws.base import Law

from ..user_errors import raises_user_error

# a true curve of each law, in the units of a table
PLANTED = {
    "power": {"a": 6.5, "b": 0.1},
    "saturating": {"E": 0.2, "a": 3e3, "b": 0.35},
    "sigmoid": {"top": 0.9, "k": 0.6, "C_half": 4e11},
    "shifted": {"E": 0.1, "a": 3e3, "b": 0.33, "c": 3e10},
    "chance": {"E": 0.15, "c": 5e9, "b": 0.3},
    "bounded": {"E": 0.1, "top": 0.95, "b": 0.6, "c": 4e11},
    "bnsl": {"E": 0.05, "a": 3.0, "b": 0.08, "s": 0.5, "d": 3e11, "f": 0.2},
    "chinchilla": {"E": 1.8, "A": 480.0, "alpha": 0.35, "B": 2100.0, "beta": 0.37},
    "bounded-chinchilla": {"E": 0.1, "top": 0.97, "a": 40.0, "alpha": 0.3, "b": 900.0, "beta": 0.4},
    "bounded-repetition": {
        "E": 0.1, "top": 0.97, "a": 40.0, "alpha": 0.3, "b": 900.0, "beta": 0.4, "R_data": 8.0,
    },
    "overtraining": {"E": 1.5, "a": 110.0, "b": 190.0, "eta": 0.25},
    "clip": {"E": 0.4, "A": 30.0, "alpha": 0.3, "T": 200.0, "tau": 0.45, "B": 900.0, "beta": 0.36},
    "repetition": {
        "E": 1.8, "A": 480.0, "alpha": 0.35, "B": 2100.0, "beta": 0.37, "R_data": 15.0, "R_params": 5.0,
    },
    "link-exponential": {"top": 0.85, "k": 2.1, "gamma": 0.75},
    "link-sigmoid": {"low": 0.1, "top": 0.9, "k": 6.0, "middle": 2.8},
}  # fmt: skip


def columns_for(law, n=64, seed=0):
    """Return columns of the size that the planted curve was made for."""
    rng = np.random.default_rng(seed)
    spans = {
        "flops": (1e10, 1e13), "params": (1e7, 1e10), "params_image": (1e6, 1e9), "params_text": (1e6, 1e9),
        "samples_seen": (1e8, 1e12), "loss": (2.0, 4.0),
    }  # fmt: skip
    fits = {}
    for c in law.columns:
        if c == "unique_samples":
            fits[c] = fits["samples_seen"] / np.exp(rng.uniform(0, 4, n))
        else:
            low, high = np.log(spans[c])
            spread = np.linspace(low, high, n) if len(law.columns) == 1 else rng.uniform(low, high, n)
            fits[c] = np.exp(spread)
    return fits


def curve(law, values, columns):
    return law.curve(values, {c: np.log(v) for c, v in columns.items()}, np)


def test_every_law_has_planted_values():
    assert {law.key for law in EVERY} == set(PLANTED)
    assert len({law.name for law in EVERY}) == len(EVERY)


@pytest.mark.parametrize("law", EVERY, ids=lambda law: law.key)
def test_predict_is_equal_in_centered_units(law):
    values, columns = PLANTED[law.key], columns_for(law)
    references = law.references(columns)
    theta = law.theta(values, references)
    centered = law.predict(theta, {c: np.log(v / references[c]) for c, v in columns.items()})
    np.testing.assert_allclose(centered, curve(law, values, columns), rtol=1e-10)
    back = law.describe(theta, references)
    np.testing.assert_allclose([back[n] for n in law.names], [values[n] for n in law.names], rtol=1e-10)


@pytest.mark.thorough
@pytest.mark.parametrize("law", EVERY, ids=lambda law: law.key)
def test_curve_in_jax_equals_numpy_and_differentiates(law):
    import jax
    import jax.numpy as jnp

    columns = columns_for(law, 8)
    references = law.references(columns)
    theta = law.theta(PLANTED[law.key], references)
    x = {c: np.log(v / references[c]) for c, v in columns.items()}
    with jax.enable_x64(True):
        jacobian = jax.jacfwd(lambda t: law.curve(law.unpack(t, jnp), x, jnp))(jnp.asarray(theta))
        step = 1e-6 * np.eye(len(theta))
        wanted = (law.predict(theta + step, x) - law.predict(theta - step, x)).T / 2e-6
        np.testing.assert_allclose(np.asarray(jacobian), wanted, rtol=1e-5, atol=1e-8)


@pytest.mark.thorough
@pytest.mark.parametrize("law", EVERY, ids=lambda law: law.key)
def test_fit_law_recovers_every_planted_law(law):
    columns = columns_for(law, 64)
    y = curve(law, PLANTED[law.key], columns)
    fit = fit_law(law, columns, y, loss=Loss("squares"), fixed={}, profile=False)
    assert fit.status == "converged"
    np.testing.assert_allclose(fit.predict(columns), y, rtol=1e-6)
    if law.key != "repetition":  # its R_params hardly shows
        np.testing.assert_allclose(
            [fit.values[n] for n in law.names], [PLANTED[law.key][n] for n in law.names], rtol=1e-3
        )


@pytest.mark.parametrize("law", [w for w in EVERY if len(w.columns) == 1], ids=lambda law: law.key)
def test_inverse_undoes_the_curve(law):
    if type(law).inverse is Law.inverse:
        with raises_user_error(field="broken power law", reason="no inverse"):
            law.inverse(PLANTED[law.key], np.array([0.5]))
        return
    columns = columns_for(law, 9)
    y = curve(law, PLANTED[law.key], columns)
    np.testing.assert_allclose(law.inverse(PLANTED[law.key], y), columns[law.columns[0]], rtol=1e-6)


@pytest.mark.parametrize("key", ["saturating", "shifted", "chance", "link-exponential"])
def test_inverse_at_the_asymptote_is_infinite(key):
    law, values = law_named(key), PLANTED[key]
    beyond = values.get("E", values.get("top"))
    assert np.isinf(law.inverse(values, np.array([beyond])))


@pytest.mark.parametrize("law", EVERY, ids=lambda law: law.key)
def test_text_and_latex_name_every_parameter(law):
    for p in law.parameters:
        assert p.meaning
        assert p.name in law.formula
    assert "<" not in law.latex
    text = law.text(PLANTED[law.key])
    assert all(f"{v:.4g}" in text for v in PLANTED[law.key].values())


@pytest.mark.parametrize("law", EVERY, ids=lambda law: law.key)
def test_starts_lie_inside_the_bounds(law):
    columns = columns_for(law)
    references = law.references(columns)
    x = {c: np.log(v / references[c]) for c, v in columns.items()}
    y = curve(law, PLANTED[law.key], columns)
    low, high = law.bounds(x, y)
    starts = law.starts(x, y)
    assert (low < high).all()
    assert ((starts >= low) & (starts <= high)).all()
    assert len(starts) >= (50 if len(law.parameters) <= 2 else 250)


def test_law_or_parameter_unknown_is_named():
    with raises_user_error(field="law", value="quadratic"):
        law_named("quadratic")
    with raises_user_error(source="power law", field="q"):
        LAWS[0].index("q")


def test_optimum_is_the_lowest_point_of_a_budget():
    law, values = Chinchilla(), PLANTED["chinchilla"]
    flops = 6 * 70e9 * 1.4e12
    size, data = law.optimum(values, flops)
    assert 6 * size * data == pytest.approx(flops)
    other = size * np.geomspace(0.1, 10, 2001)
    losses = curve(law, values, {"params": other, "samples_seen": flops / 6 / other})
    assert other[losses.argmin()] == pytest.approx(size, rel=0.005)
    assert law.at_optimum(values, flops) == pytest.approx(losses.min(), rel=1e-6)
    assert law.samples_per_param(values, flops) == pytest.approx(data / size)


def test_optimum_of_two_towers_has_no_better_neighbor():
    law, values = ClipTowers(), PLANTED["clip"]
    per_sample = (200.0, 90.0, 1e6)  # FLOPs a parameter and pair: patches differ from tokens
    flops = 1e18
    image, text, data = law.optimum(values, flops, per_sample)
    assert data * (per_sample[0] * image + per_sample[1] * text + per_sample[2]) == pytest.approx(flops)

    def loss(i, t):
        d = flops / (per_sample[0] * i + per_sample[1] * t + per_sample[2])
        return float(curve(law, values, {"params_image": i, "params_text": t, "samples_seen": d}))

    best = loss(image, text)
    for i, t in ((1.05, 1), (0.95, 1), (1, 1.05), (1, 0.95), (1.05, 0.95), (0.95, 1.05)):
        assert loss(image * i, text * t) > best


def test_data_repetition_discounts_repeated_samples():
    law, plain = DataRepetition(), Chinchilla()
    values = PLANTED["repetition"] | {"R_params": 1e4}
    once = {"params": np.array([1e8]), "samples_seen": np.array([1e10]), "unique_samples": np.array([1e10])}
    assert curve(law, values, once) == pytest.approx(curve(plain, values, once), rel=1e-4)
    often = once | {"unique_samples": np.array([1e8])}
    assert curve(law, values, often) > curve(law, values, once)
    # beyond R_data epochs more passes add nothing
    more = often | {"samples_seen": np.array([1e12])}
    limit = once | {"samples_seen": np.array([1e8 * (1 + values["R_data"])])}
    assert curve(law, values, more) == pytest.approx(curve(plain, values, limit), rel=1e-3)


def test_bounded_repetition_equals_bounded_chinchilla_at_the_effective_data():
    law, plain = BoundedRepetition(), BoundedChinchilla()
    values = PLANTED["bounded-repetition"]
    once = {"params": np.array([1e8]), "samples_seen": np.array([1e9]), "unique_samples": np.array([4e9])}
    assert curve(law, values, once) == pytest.approx(curve(plain, values, once), rel=1e-12)
    often = once | {"samples_seen": np.array([6e9]), "unique_samples": np.array([2e9])}
    # three passes: D' = U·(1 + R·(1 - e^(-2/R)))
    effective = 2e9 * (1 + values["R_data"] * -np.expm1(-2 / values["R_data"]))
    same = once | {"samples_seen": np.array([effective])}
    assert curve(law, values, often) == pytest.approx(curve(plain, values, same), rel=1e-12)


@pytest.mark.parametrize("fixed", [{"top": 0.974}, {}])
@pytest.mark.parametrize("scale", [0.01, 1.0])
def test_bounded_law_is_a_sigmoid_with_a_floor_and_a_saturating_law_only_far_below_its_top(scale, fixed):
    x = np.geomspace(1e10, 1e12, 10)
    noise = 0.02 * np.random.default_rng(1).standard_normal(10)
    y = scale * (0.1 + 0.8 * (x / 1e10) ** -0.3) * np.exp(noise)
    bounded, sigmoid, saturating = (
        fit_law(law_named(key), x, y, loss=Loss("squares"), fixed=held, profile=False).objective
        for key, held in (("bounded", fixed), ("sigmoid", fixed), ("saturating", {}))
    )
    assert bounded <= sigmoid * (1 + 1e-6)
    if scale < 1:  # E and a power of compute, each a hundredth of the top
        assert bounded == pytest.approx(saturating, rel=0.02)
    elif fixed:  # the table begins at 0.9: a top of 0.974 bends the curve, a power law does not bend
        assert bounded > 2 * saturating


def test_overtraining_at_fixed_ratios_has_one_slope():
    law, values = OverTraining(), PLANTED["overtraining"]
    slopes = []
    for ratio in (20, 640):
        size = np.geomspace(1e7, 1e10, 5)
        left = curve(law, values, {"params": size, "samples_seen": ratio * size}) - values["E"]
        slopes.append(np.polyfit(np.log(6 * ratio * size**2), np.log(left), 1)[0])
    np.testing.assert_allclose(slopes, -values["eta"] / 2, rtol=1e-9)


@pytest.mark.parametrize("law", EVERY, ids=lambda law: law.key)
def test_through_makes_the_curve_pass_a_point(law):
    values, columns = PLANTED[law.key], columns_for(law)
    at = {c: float(np.log(v[5])) for c, v in columns.items()}
    wanted = float(curve(law, values, columns)[5]) * 1.03
    changed = law.through({**values, law.replaced: values[law.replaced] * 1.7}, at, wanted, np)
    assert law.curve(changed, at, np) == pytest.approx(wanted, rel=1e-9)
    moved = {n for n, v in changed.items() if not np.isclose(v, values[n], rtol=1e-12)}
    assert moved <= {law.replaced, *law.amplitudes}


def test_text_of_a_negative_exponent_has_one_sign():
    assert law_named("power").text({"a": 2.0, "b": -0.14}) == "2·C^0.14"
    assert law_named("power").text({"a": 2.0, "b": 0.14}) == "2·C^-0.14"


@pytest.mark.parametrize("law", [SigmoidLogC(), BoundedPowerLaw(), BoundedChinchilla()], ids=str)
@pytest.mark.parametrize(("highest", "most"), [(0.4, 1.0), (0.9, 1.0), (1.0, 1.0), (4.0, 6.0)])
def test_top_of_an_error_is_at_most_1_and_of_a_loss_half_above_the_highest(law, highest, most):
    x = {c: np.linspace(-1, 1, 5) for c in law.columns}
    low, high = law.bounds(x, np.linspace(0.3, 1, 5) * highest)
    top = law.index("top")
    assert high[top] == most
    assert low[top] < min(highest, 1.0) <= most
