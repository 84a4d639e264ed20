"""Solve many small robust fits at once: damped Gauss-Newton (Levenberg-Marquardt) in float64, vmapped, inside bounds.

Near an L1 loss Gauss-Newton with Huber weights converges slowly, for almost all residuals lie on the linear part. Each
iteration therefore tries two damped steps and keeps the better: one with Huber weights (safe far from the optimum), and
one whose matrix holds the loss's own second derivative, the residuals within delta alone (fast near it).

Everything that differs between resamples is a weight: a row left out has weight 0, a row drawn twice weight 2. So all
fits of a table share one compiled program; rows are padded with weight 0 to a few sizes, and fits run in chunks of one
size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from clip_jax.scaling.fit.loss import Loss, Space, space_of
from clip_jax.scaling.laws.base import Array, General, Law

if TYPE_CHECKING:
    import jax

FITS_PER_CHUNK = 16  # a chunk takes as long as its slowest fit, and fewer fits gain no speed
POLISHED_STARTS, POLISHED_OF_LARGE = 64, 16  # the best of the compared starts of one fit; of a large table's frontier
MANY_ROWS = 4096  # rows above which one fit is so expensive that it runs alone, from a few compared starts
MIN_PADDED_ROWS = 16  # rows of the smallest compiled program
FEW_OF_LARGE = 200  # points of a large table's frontier up to which every fit is profiled from all starts
LARGE_PADDED_ROWS = 512  # the same, for the frontiers of a large table
MAX_ITERATIONS = 200
QUICK_COMPILATION = {"xla_backend_optimization_level": 1}  # compiles a fifth sooner
DONE = 1e-13  # predicted relative gain at which a fit has converged


class Solved(NamedTuple):
    """Results of R fits: theta [R, p], objective [R] (the loss's sum), converged [R], iterations used [R]."""

    theta: Array
    objective: Array
    converged: Array
    iterations: Array


class _State(NamedTuple):
    theta: Any
    cost: Any
    damping: Any
    iteration: Any
    still: Any
    done: Any


@cache
def compile_solver(law: Law, space: Space, under: float = 1.0, many_rows: bool = False) -> jax.stages.Wrapped:
    """Compile the solver of one law and residual space, for free curves and for those held at a point.

    Args:
      law: the form.
      space: of the residuals, see `Loss`.
      under: see `Loss`; at 1 the compiled program does not contain it.
      many_rows: whether the rows are worth a slower compilation.

    Returns:
      The compiled function. Of its arguments, ``joint`` is whether the lanes hold the rows of one fit.
    """
    import jax
    import jax.numpy as jnp

    def fit_one(theta, free, low, high, delta, most, logs, y, w, held, at, value, joint):  # type: ignore[no-untyped-def]
        target = space_of(y, space, jnp)

        def residuals(theta):  # type: ignore[no-untyped-def]
            p = law.unpack(theta, jnp)
            if law.replaced:  # one program for both takes half the compiling
                through = law.through(p, at, value, jnp)
                p = {name: jnp.where(held, through[name], p[name]) for name in p}  # type: ignore[misc]
            r = space_of(law.curve(p, logs, jnp), space, jnp) - target
            return jnp.where(w > 0, r, 0.0)

        def added(lane):  # type: ignore[no-untyped-def]
            return jnp.where(joint, jax.lax.psum(lane, "lanes"), lane)

        def weighed(r):  # type: ignore[no-untyped-def]
            return w if under == 1 else w * jnp.where(r < 0, under, 1.0)

        def cost(theta):  # type: ignore[no-untyped-def]
            r = residuals(theta)
            size = jnp.abs(r)
            each = weighed(r) * jnp.where(size <= delta, size * size / 2, delta * (size - delta / 2))
            value = added(jnp.sum(each))
            return jnp.where(jnp.isfinite(value), value, jnp.inf)

        def step(s):  # type: ignore[no-untyped-def]
            jacobian, r = jax.jacfwd(lambda theta: (residuals(theta),) * 2, has_aux=True)(s.theta)
            jacobian = jnp.where(jnp.isfinite(jacobian), jacobian, 0.0)
            side = weighed(r)
            pull = side * jnp.clip(r, -delta, delta)  # derivative of the loss by the residual
            slope = added(jacobian.T @ pull)
            # a parameter at a bound whose step points outward is frozen in this iteration
            stuck = ~free | ((s.theta <= low) & (slope > 0)) | ((s.theta >= high) & (slope < 0))
            huber = side * jnp.minimum(1.0, delta / jnp.maximum(jnp.abs(r), 1e-300))
            safe = added(jacobian.T @ (huber[:, None] * jacobian))
            exact = added(jacobian.T @ ((side * (jnp.abs(r) <= delta))[:, None] * jacobian))
            scale = jnp.sqrt(jnp.diagonal(safe) + 1e-300)
            scale = jnp.where(stuck | (scale < 1e-100), 1.0, scale)
            moves = (~stuck).astype(slope.dtype)
            both = moves[:, None] * moves[None, :] / (scale[:, None] * scale[None, :])
            still = jnp.diag(1.0 - moves)
            slope = slope * moves / scale
            safe, exact = safe * both + still, exact * both + still
            ridge = jnp.diag(jnp.diagonal(safe)) + 1e-14 * jnp.eye(len(moves))
            gauss = safe + (s.damping + 1e-13) * ridge
            close = exact + s.damping * safe + 1e-14 * jnp.eye(len(moves))
            moved = jax.vmap(_solve_symmetric, (0, None))(jnp.stack([gauss, close]), slope)
            gain = jnp.abs(moved @ slope).max()
            tries = jnp.clip(s.theta[None] - moved / scale[None], low[None], high[None])
            tries = jnp.where(jnp.isfinite(tries), tries, s.theta[None])
            costs = jax.vmap(cost)(tries)
            best = jnp.argmin(costs)
            better = costs[best] < s.cost
            # converged: two iterations in a row without a change that floating point can represent
            flat = s.cost - costs[best] <= 1e-15 * s.cost
            still_now = jnp.where(flat & (s.damping > 1e6) | (gain <= DONE * s.cost + 1e-28), s.still + 1, 0)
            return _State(
                jnp.where(better, tries[best], s.theta),
                jnp.where(better, costs[best], s.cost),
                jnp.clip(jnp.where(better, s.damping / 8, s.damping * 6), 1e-12, 1e14),
                s.iteration + 1,
                still_now,
                (still_now >= 2) & (gain <= 1e-6 * s.cost + 1e-26),
            )

        first = cost(theta)
        start = _State(theta, first, jnp.ones_like(first) * 1e-2, 0, 0, jnp.array(False))
        end = jax.lax.while_loop(lambda s: (s.still < 2) & (s.iteration < most) & jnp.isfinite(s.cost), step, start)
        return end.theta, end.cost, end.done, end.iteration

    lanes = (0, 0, 0, 0, None, None, 0, 0, 0, None, None, 0, None)
    options = None if many_rows or _device().platform != "cpu" else QUICK_COMPILATION
    return jax.jit(jax.vmap(fit_one, in_axes=lanes, axis_name="lanes"), compiler_options=options)


def _solve_symmetric(matrix: Any, right: Any) -> Any:
    """Solve a positive definite system [p, p], [p] by Gauss-Jordan steps without pivoting: p is small, and a LAPACK
    call per fit is slow.
    """
    import jax
    import jax.numpy as jnp

    def eliminate(i: Any, rows: Any) -> Any:
        pivot = rows[i] / rows[i, i]
        return (rows - jnp.outer(rows[:, i], pivot)).at[i].set(pivot)

    return jax.lax.fori_loop(0, len(right), eliminate, jnp.append(matrix, right[:, None], axis=1))[:, -1]


@contextmanager
def exactly() -> Iterator[None]:
    """Compute in float64 and on the CPU if available: thousands of tiny fits gain nothing from an accelerator."""
    import jax

    with jax.enable_x64(True), jax.default_device(_device()):
        yield


def _device() -> Any:
    """Return the CPU, or the first device where JAX_PLATFORMS leaves the CPU out."""
    import jax

    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return jax.local_devices()[0]


_large: ContextVar[bool] = ContextVar("large", default=False)


@contextmanager
def table_of(rows: int) -> Iterator[None]:
    """Adapt fits to the number of ``rows`` of the table they come from (see `is_large_table`)."""
    before = _large.set(rows > MANY_ROWS)
    try:
        yield
    finally:
        _large.reset(before)


def is_large_table() -> bool:
    """Return whether fits come from a table of more than `MANY_ROWS` rows.

    Its frontiers are of hundreds of points. They are padded to one size, so that a law has one program to compile,
    which it shares with its special cases (`Law.general`), polished from fewer starts, and profiled only where the
    one-step form does not hold.
    """
    return _large.get()


def padded_rows(rows: int) -> int:
    """Return the padded number of rows: powers of four (for a large table 512 and 4,096), and of two above `MANY_ROWS`.

    From 32 rows on theta does not depend on the padding, to the last digit, and the objective to 1e-15 (a test).
    """
    size, times = (LARGE_PADDED_ROWS, 8) if is_large_table() else (MIN_PADDED_ROWS, 4)
    while size < rows:
        size *= times if size < MANY_ROWS else 2
    return size


def few_rows() -> int:
    """Return the number of rows up to which every interval is profiled, from all starts."""
    return FEW_OF_LARGE if is_large_table() else MANY_ROWS


def rows_for_starts(rows: int) -> int:
    """Return on how many of so many rows starts are compared: of very many as many as a lane of their fit holds."""
    return rows if rows <= MANY_ROWS else max(MANY_ROWS, padded_rows(rows) // FITS_PER_CHUNK)


def polished_starts(rows: int) -> int:
    """Return from how many of the compared starts a law is fitted to so many rows."""
    if rows > MANY_ROWS:
        return FITS_PER_CHUNK
    return POLISHED_OF_LARGE if is_large_table() else POLISHED_STARTS


def _padded(a: Array, rows: int, value: float, axis: int = -1) -> Array:
    width = [(0, 0)] * a.ndim
    width[axis] = (0, rows - a.shape[axis])
    return np.pad(a, width, constant_values=value)


def solve(
    law: Law,
    x: Mapping[str, Array],
    y: Array,
    begin: Array,
    low: Array,
    high: Array,
    loss: Loss,
    *,
    weights: Array | None = None,
    free: Array | None = None,
    at: Mapping[str, float] | None = None,
    value: Array | None = None,
    iterations: int = MAX_ITERATIONS,
    abreast: bool = False,
) -> Solved:
    """Minimize the loss from each start.

    Args:
      law: the form.
      x: centered ln(columns), [n] each.
      y: measurements, [n] or [R, n].
      begin: float [R, p], all parameters; those not ``free`` stay.
      low, high: float [p] or [R, p].
      loss: its kind, space and delta.
      weights: of the rows, [n] or [R, n]; 1 by default.
      free: bool [p] or [R, p]; all by default.
      at, value: hold the curve: it passes through ``value`` [R] at the point ``at`` (centered ln of each column, one
        number each). `Law.through` replaces a parameter to that end, which must not be ``free``; ``theta`` contains
        the replaced values.
      iterations: at most.
      abreast: solve several fits at once of however many rows.
    """
    fits, n = len(begin), len(next(iter(x.values())))
    if is_large_table() and n <= MANY_ROWS and law.general is not None:
        return _solve_general(law.general, law, x, y, begin, low, high, loss, weights, free, at, value, iterations)
    w, y = np.ones(n) if weights is None else np.asarray(weights, float), np.asarray(y, float)
    logs = {c: np.asarray(x[c], float) for c in law.columns}
    seen = None
    if is_large_table() and w.ndim == 2:  # resamples of many rows hold few of them each
        seen = np.argsort(w <= 0, axis=1, kind="stable")[:, : int((w > 0).sum(axis=1).max())]
    rows = padded_rows(n if seen is None else seen.shape[1])
    lanes, joint = FITS_PER_CHUNK, rows > MANY_ROWS and not abreast
    if joint:  # one fit at a time, whose rows are dealt to the lanes
        lanes = min(lanes, rows // MANY_ROWS)
    chunk = 1 if joint else lanes

    def each(a: Array, filling: float) -> Array:
        """Return [n] or [R, n] as [R, rows]."""
        if seen is not None:
            a = np.take_along_axis(np.broadcast_to(a, (fits, n)), seen, axis=1)
        return np.broadcast_to(_padded(a, rows, filling), (fits, rows))

    columns, ys, ws = {c: each(v, 0.0) for c, v in logs.items()}, each(y, 1.0), each(w, 0.0)
    free = np.broadcast_to(np.ones(begin.shape[1], bool) if free is None else free, begin.shape)
    theta = np.clip(np.asarray(begin, float), np.where(free, low, -np.inf), np.where(free, high, np.inf))
    into = (theta, np.full(fits, np.inf), np.zeros(fits, bool), np.zeros(fits, int))
    run = compile_solver(law, loss.space, loss.under, rows > MANY_ROWS)
    # a pinned parameter may lie outside the bounds; they are widened for it
    low = np.where(free, low, np.minimum(low, theta))
    high = np.where(free, high, np.maximum(high, theta))
    point = {c: 0.0 if at is None else float(at[c]) for c in law.columns}
    goal = np.broadcast_to(1.0 if value is None else np.asarray(value, float), fits)
    with exactly():
        for delta in loss.deltas:
            for first in range(0, fits, chunk):
                part = np.full(lanes, first) if joint else np.arange(first, first + chunk).clip(max=fits - 1)
                data = part[:1] if joint else part
                out = run(
                    theta[part],
                    free[part],
                    low[part],
                    high[part],
                    delta,
                    iterations,
                    {c: v[data].reshape(lanes, -1) for c, v in columns.items()},
                    ys[data].reshape(lanes, -1),
                    ws[data].reshape(lanes, -1),
                    at is not None,
                    point,
                    goal[part],
                    joint,
                )
                count = min(chunk, fits - first)
                for whole, result in zip(into, out, strict=True):
                    whole[first : first + count] = np.asarray(result)[:count]
    theta, cost, converged, used = into
    if at is not None:
        theta = through(law, theta, point, goal)
    if loss.kind == "absolute":
        cost = (w * loss.values(loss.residuals(law.predict(theta, x), y))).sum(axis=1)
    return Solved(theta, cost, converged, used)


def _solve_general(
    general: General, law: Law, x: Mapping[str, Array], y: Array, begin: Array, low: Array, high: Array, loss: Loss,
    weights: Array | None, free: Array | None, at: Mapping[str, float] | None, value: Array | None, iterations: int,
) -> Solved:  # fmt: skip
    """Solve as `solve` does, by the program of the law that contains this one, with its other parameters held."""
    index = [general.law.index(general.names.get(name, name)) for name in law.names]

    def widened(a: Array, rest: Array) -> Array:
        out = np.broadcast_to(rest, (*np.shape(a)[:-1], len(rest))).copy()
        out[..., index] = a
        return out

    held = np.array([general.held.get(name, 0.0) for name in general.law.names])
    free = np.ones(len(law.parameters), bool) if free is None else free
    solved = solve(
        general.law, x, y, widened(begin, held), widened(low, held), widened(high, held), loss, weights=weights,
        free=widened(free, np.zeros(len(held), bool)), at=at, value=value, iterations=iterations,
    )  # fmt: skip
    return solved._replace(theta=solved.theta[:, index])


def through(law: Law, theta: Array, at: Mapping[str, float], value: Array) -> Array:
    """Replace a parameter of each theta [R, p] so that its curve passes through value [R] at the point ``at``."""
    with np.errstate(all="ignore"):
        p = law.through(law.unpack(theta, np), at, value, np)
        columns = [np.log(p[q.name]) if q.log else p[q.name] for q in law.parameters]
    return np.stack([np.broadcast_to(c, len(theta)) for c in columns], axis=-1)


def screen(law: Law, x: Mapping[str, Array], y: Array, starts: Array, loss: Loss, weights: Array, most: int) -> Array:
    """Return the ``most`` starts with the lowest objective, best first: [most, p]. Thousands take milliseconds."""
    costs = []
    for part in np.array_split(starts, max(1, len(starts) * len(y) // 500_000)):
        r = loss.residuals(law.predict(part, x), y)
        costs.append((weights * loss.values(np.nan_to_num(r, nan=1e6, posinf=1e6, neginf=-1e6))).sum(axis=1))
    return starts[np.argsort(np.concatenate(costs), kind="stable")[:most]]


def finish_absolute(
    law: Law, x: Mapping[str, Array], y: Array, theta: Array, free: Array, low: Array, high: Array, loss: Loss,
    weights: Array, iterations: int = 60,
) -> tuple[Array, float]:  # fmt: skip
    """Find the exact optimum of least absolute deviations from a near one: linear programs inside a trust region.

    At that optimum as many residuals as free parameters are 0, so the linearized problem ends at the same vertex and
    the iteration converges as Newton's method does. Returns (theta [p], objective).
    """
    import jax
    import jax.numpy as jnp
    from scipy.optimize import linprog

    index, n = np.flatnonzero(free), len(y)

    def residuals(theta: Array, xp: ModuleType) -> Array:
        return space_of(law.curve(law.unpack(theta, xp), x, xp), loss.space, xp) - space_of(y, loss.space, xp)

    def objective(theta: Array) -> float:
        return float((weights * np.abs(residuals(theta, np))).sum())

    jacobian_of = jax.jit(jax.jacfwd(lambda t: residuals(t, jnp)))
    now, radius = objective(theta), 1e-2
    with exactly():
        for _ in range(iterations):
            r, jacobian = residuals(theta, np), np.asarray(jacobian_of(theta))[:, index]
            size = np.maximum(np.abs(jacobian).max(axis=0), 1e-12)
            scaled = jacobian / size
            # variables: the step, then |r + J step| from above
            cost = np.concatenate([np.zeros(len(index)), weights])
            rows = np.block([[scaled, -np.eye(n)], [-scaled, -np.eye(n)]])
            room = [
                (max(-radius, (low[i] - theta[i]) * s), min(radius, (high[i] - theta[i]) * s))
                for i, s in zip(index, size, strict=True)
            ]
            solution = linprog(cost, rows, np.concatenate([-r, r]), bounds=[*room, *[(0, None)] * n], method="highs")
            if solution.x is None:
                break
            new = theta.copy()
            new[index] += solution.x[: len(index)] / size
            after = objective(new)
            if after < now:
                theta, gained, now = new, now - after, after
                radius *= 2
                if gained < 1e-14 * now:
                    break
            else:
                radius /= 8
                if radius < 1e-14:
                    break
    return theta, now
