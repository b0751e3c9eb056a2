"""Solvers as programs: differentiable, compiled once for a shape, the same on one device and on many."""

from collections.abc import Mapping
from typing import Any

import agreement
import clouds
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from solver_cases import CASES, ONE_EACH, Case

import jaxalign
from jaxalign.moments.blocks import EncoderSpan, cross_moments, own_moments
from jaxalign.moments.moments import chunk_moments

by_case = pytest.mark.parametrize("case", CASES, ids=str)
by_method = pytest.mark.parametrize("case", ONE_EACH, ids=str)

compilations: list[str] = []


def note_compilation(event: str, duration_secs: float, **_: Any) -> None:
    if event.endswith("backend_compile_duration"):
        compilations.append(event)


jax.monitoring.register_event_duration_secs_listener(note_compilation)


def solve(solver: Any, x: jax.Array, y: jax.Array) -> jaxalign.Fit:
    """Both phases by hand, on moments of rows that may be traced; so may the solver's penalties and exponents."""
    (p, q), weights = (x.shape[1], y.shape[1]), jnp.ones(len(x), x.dtype)
    total = chunk_moments((x, y), weights, ("x", "y"), (p, q), np.dtype(np.float64))
    spans = [EncoderSpan(*map(np.array, (start, size, 0)), size, False) for start, size in ((0, p), (p, q))]  # pyright: ignore[reportCallIssue]
    states = [solver.factor(own_moments(total, span)) for span in spans]
    return solver.solve(*states, cross_moments(total, total.scatter.diagonal(), *spans))


@jax.jit
@jax.value_and_grad
def value_and_slope(x: jax.Array, rows: tuple[Any, Any, Any], solver: Any) -> jax.Array:
    """One program for all solvers of a class and rank."""
    y, x_new, y_new = rows
    fit = solve(solver, x, y)
    return jnp.sum(jnp.tanh(fit.source.apply(x_new) @ fit.target.apply(y_new).T)) + fit.r2


@by_case
def test_gradient_through_both_phases(case: Case) -> None:
    """The gradient by all training rows is finite, and agrees with finite differences along a direction."""
    rows = clouds.make("tall", seed=0)
    direction = np.random.default_rng(1).normal(size=rows.x.shape)
    others, step = ((rows.y, rows.x_new, rows.y_new), case.solver()), 1e-5
    with jax.enable_x64(True):
        slope = np.asarray(value_and_slope(rows.x, *others)[1])
        ahead, behind = (value_and_slope(rows.x + by * direction, *others)[0] for by in (step, -step))
    assert slope.shape == rows.x.shape and np.isfinite(slope).all() and slope.any()
    difference = float(ahead - behind) / (2 * step)
    np.testing.assert_allclose(np.sum(slope * direction), difference, rtol=1e-5, atol=1e-6)


@by_method
def test_stacked_problems_under_vmap(case: Case) -> None:
    """Both phases under ``vmap`` give a stack of maps, each the one of its own problem."""
    several = [clouds.make("tall", seed=seed) for seed in (3, 4)]
    x, y = np.stack([rows.x for rows in several]), np.stack([rows.y for rows in several])
    with jax.enable_x64(True):
        stack = jax.jit(jax.vmap(lambda x, y: solve(case.solver(), x, y)))(jnp.asarray(x), jnp.asarray(y))
    for number, rows in enumerate(several):
        alone = jaxalign.fit_pair(rows.x, rows.y, **case.arguments())
        one = jax.tree.map(lambda leaf, number=number: np.asarray(leaf[number]), stack)
        agreement.assert_same_comparisons(one, alone, rows.x_new, rows.y_new)


@by_method
def test_compiled_once_for_a_shape(case: Case) -> None:
    """Other rows of the same shape, and other numbers in the options, compile nothing."""
    options = {name: value if name == "rank" else value * 1.01 for name, value in case.options.items()}

    def fit_and_map(seed: int, options: Mapping[str, Any]) -> np.ndarray:
        embeddings = clouds.several(seed)
        maps = jaxalign.fit_pairs(embeddings, case.method, **options)
        return np.asarray(maps["b", "c"].source(embeddings["b"]))

    first = fit_and_map(0, case.options)
    before = len(compilations)
    assert np.isfinite(fit_and_map(1, options)).all()
    assert compilations[before:] == []
    np.testing.assert_array_equal(fit_and_map(0, case.options), first)


@pytest.mark.parametrize("method", ["ridge", "orthogonal", "canonical"])  # one of each way to divide the work
def test_pairs_of_one_shape_share_a_program(method: str) -> None:
    """30 pairs of 6 encoders of 2 widths take no more programs than 12 pairs of 4 encoders."""
    generator = np.random.default_rng(0)
    options: dict[str, Any] = {"l2": 1.0} if method == "ridge" else {}

    def programs(widths: Mapping[str, int]) -> int:
        embeddings = {name: generator.normal(size=(50, width)) for name, width in widths.items()}
        before = len(compilations)
        assert len(jaxalign.fit_pairs(embeddings, method, **options)) == len(widths) * (len(widths) - 1)
        return len(compilations) - before

    few = programs({"a": 9, "b": 7, "c": 9, "d": 7})
    many = programs({"a": 9, "b": 7, "c": 9, "d": 7, "e": 9, "f": 7})
    assert 0 < many <= few + 2


@by_method
def test_sharded_rows_give_the_same_maps(case: Case) -> None:
    rows = clouds.make("tall", seed=5)
    mesh = Mesh(np.array(jax.devices()[:8]), ("rows",))
    sharding = NamedSharding(mesh, PartitionSpec("rows"))
    with jax.enable_x64(True):
        x, y = (jax.device_put(array[:80], sharding) for array in (rows.x, rows.y))
    sharded = jaxalign.fit_pair(x, y, **case.arguments())
    single = jaxalign.fit_pair(rows.x[:80], rows.y[:80], **case.arguments())
    agreement.assert_same_comparisons(sharded, single, rows.x_new, rows.y_new)
