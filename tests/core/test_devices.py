"""Moments and solves over a mesh of devices: the numbers of one device, and no communication that grows with rows."""

from typing import Any

import agreement
import clouds
import jax
import numpy as np
import pytest
from agreement import relative_error
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh
from solver_cases import ONE_EACH, Case

import jaxalign
from experiments.benchmarks import compiled as programs
from experiments.benchmarks import lowering
from jaxalign import FoldMoments, Moments, UserError, device_mesh
from jaxalign.align.solvers import Canonical, Ridge
from jaxalign.core.mesh import Layout

pytestmark = pytest.mark.skipif(len(jax.devices()) < 8, reason="needs eight (simulated) devices")


def mesh_of(data: int, pairs: int) -> Mesh:
    return device_mesh(jax.devices()[: data * pairs], pairs=pairs)


def assert_same_maps(actual: jaxalign.PairwiseMaps, expected: jaxalign.PairwiseMaps, rows: Any) -> None:
    assert list(actual) == list(expected)
    for (a, b), fit in actual.items():
        one = expected[a, b]
        products = agreement.inner_products(one.source, one.target, rows[a], rows[b])
        sharded = agreement.inner_products(fit.source, fit.target, rows[a], rows[b])
        assert relative_error(sharded, products) < 1e-9, (a, b)
        for name in ("residual", "variance", "effective_rank", "condition", "ok"):
            np.testing.assert_allclose(getattr(fit, name), getattr(one, name), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("case", ONE_EACH, ids=str)
def test_sharded_is_single_device(case: Case) -> None:
    """Every solver; rows over 2 devices, tiles of the matrix and pairs over 2."""
    rows = clouds.several(seed=9)
    sharded = jaxalign.fit_pairs(rows, **case.arguments(), mesh=mesh_of(2, 2))
    assert_same_maps(sharded, jaxalign.fit_pairs(rows, **case.arguments()), rows)


@pytest.mark.parametrize(
    ("data", "pairs", "method"), [(8, 1, "ridge"), (4, 2, "linear"), (2, 4, "canonical"), (1, 3, "ridge")]
)
def test_meshes_of_any_shape(data: int, pairs: int, method: str) -> None:
    (case,) = [one for one in ONE_EACH if one.method == method]
    rows = clouds.several(seed=10)
    sharded = jaxalign.fit_pairs(rows, **case.arguments(), mesh=mesh_of(data, pairs))
    assert_same_maps(sharded, jaxalign.fit_pairs(rows, **case.arguments()), rows)


@pytest.mark.parametrize("count", [7, 8, 9])
def test_pairs_and_rows_that_devices_do_not_divide(count: int) -> None:
    """As many rows and pairs as devices, one less, one more."""
    generator = np.random.default_rng(count)
    rows = {name: generator.normal(size=(count, 5)) for name in "abcd"}
    pairs = [(a, b) for a in rows for b in rows if a != b][:count]
    sharded = jaxalign.fit_pairs(rows, "ridge", l2=0.3, pairs=pairs, mesh=mesh_of(8, 1))
    assert_same_maps(sharded, jaxalign.fit_pairs(rows, "ridge", l2=0.3, pairs=pairs), rows)


@pytest.mark.parametrize("count", [1, 7, 9])
@pytest.mark.parametrize(("data", "pairs"), [(8, 1), (2, 4), (1, 3)])
def test_moments_are_numpys(count: int, data: int, pairs: int) -> None:
    generator = np.random.default_rng(count)
    widths = {"a": 3, "b": 5, "c": 2, "d": 3}
    rows = {name: generator.normal(size=(count, width)) + 1e3 for name, width in widths.items()}
    rows["b"] = rows["b"].astype(np.float32)  # pyright: ignore
    weights = generator.uniform(0.1, 2, count)
    moments = Moments.of(rows, weights, mesh=mesh_of(data, pairs))
    z = np.hstack([part.astype(np.float64) for part in rows.values()])
    mean = weights @ z / weights.sum()
    scatter = ((z - mean) * weights[:, None]).T @ (z - mean)
    np.testing.assert_allclose(moments.power(), scatter.diagonal(), atol=1e-8)
    whole: Any = FoldMoments(moments, ()).whole().total
    np.testing.assert_allclose(whole.mean, mean, rtol=1e-12)
    np.testing.assert_allclose(whole.scatter, scatter, atol=1e-8)
    assert float(whole.count) == count
    np.testing.assert_allclose(whole.weight, weights.sum(), rtol=1e-12)


@pytest.mark.parametrize(("data", "pairs"), [(4, 1), (2, 2)])
def test_chunks_and_folds_on_a_mesh(data: int, pairs: int) -> None:
    """Several chunks for each device, in slices, some rows left out; and moments of one device sent to a mesh."""
    generator = np.random.default_rng(0)
    rows = {name: generator.normal(size=(9000, 3)).astype(np.float16) + 9 for name in "ab"}
    used, mesh = np.arange(1, 9000), mesh_of(data, pairs)
    how: dict[str, Any] = {"fold": np.arange(len(used)) % 2, "rows": used}
    expected = FoldMoments.of(rows, **how)
    folds = FoldMoments.of(rows, **how, chunk_rows=2600 * data, mesh=mesh)
    for found in (folds.whole(), expected.spread(mesh).whole()):
        for one, other in zip((found.total, *found.folds), (expected.total, *expected.folds)):
            np.testing.assert_allclose(one.mean, other.mean, rtol=1e-12)
            np.testing.assert_allclose(one.scatter, other.scatter, atol=1e-8)
            assert float(one.count) == float(other.count)


@pytest.mark.parametrize(
    "options",
    [
        {"method": "ridge", "l2": "cv"},
        {"method": "ridge", "l2": (0.1, 3.0, 90.0), "penalty_per": "column"},
        {"method": "ridge", "l2": "gcv", "penalty_per": "source"},
        {"method": "reduced_rank", "l2": "cv", "rank": "cv"},
    ],
    ids=["pair", "column", "source", "rank"],
)
def test_cross_validation_chooses_as_on_one_device(options: dict[str, Any]) -> None:
    rows = clouds.several(seed=11)
    pairs = [("a", "b"), ("a", "c")]
    sharded = jaxalign.fit_pairs(rows, **options, pairs=pairs, folds=2, mesh=mesh_of(2, 2))
    single = jaxalign.fit_pairs(rows, **options, pairs=pairs, folds=2)
    for (a, b), fit in sharded.items():
        for name, value in single.settings[a, b].items():
            np.testing.assert_allclose(sharded.settings[a, b][name], value, rtol=1e-12)
        expected = np.asarray(single[a, b].source(rows[a]))
        assert relative_error(fit.source(rows[a]), expected) < 1e-9


def test_shared_space_of_spread_moments() -> None:
    rows = clouds.several(seed=12)
    sharded = jaxalign.fit_pairs(rows, "shared", rank=4, mesh=mesh_of(2, 2))
    single = jaxalign.fit_pairs(rows, "shared", rank=4)
    for (a, b), fit in sharded.items():
        expected = agreement.inner_products(single[a, b].source, single[a, b].target, rows[a], rows[b])
        actual = agreement.inner_products(fit.source, fit.target, rows[a], rows[b])
        assert relative_error(actual, expected) < 1e-9


@pytest.mark.parametrize(("data", "pairs"), [(8, 1), (2, 4)])
def test_no_program_of_moments_sends_rows(data: int, pairs: int) -> None:
    """Chunks are added without communication; what the reduction sends does not depend on their rows."""
    mesh, found = mesh_of(data, pairs), []
    tile = 8 * (96 // pairs) ** 2
    for rows in (960, 4800):
        layout = lowering.layout_of(4, 24, mesh)
        compiled = lowering.moment_programs(layout, mesh, rows, np.float32)
        assert programs.collectives(compiled["first"]()) == programs.collectives(compiled["next"]()) == []
        found.append(sorted(programs.collectives(compiled["reduced"]())))
    assert found[0] == found[1]
    sizes = [size for _, size in found[0]]
    assert sum(size >= tile for size in sizes) == (
        1 if pairs == 1 else 2
    )  # one reduction, one exchanged tile
    assert max(sizes) <= tile * (pairs // 2 + 1) + 8 * 96 + 16


@pytest.mark.parametrize("solver", [Ridge(0.1), Canonical()], ids=["ridge", "canonical"])
def test_solving_sends_states_of_encoders_only(solver: Any) -> None:
    mesh = mesh_of(2, 2)
    layout = lowering.layout_of(3, 12, mesh)
    solvers = {(a, b): solver for a in layout.names for b in layout.names if a != b}
    factoring, groups = lowering.solve_programs(lowering.moments_shape(layout, mesh), solvers)
    for program in factoring:
        sent = programs.collectives(program())
        assert {kind for kind, _ in sent} == {"all-gather"}
        assert max(size for _, size in sent) <= 8 * 4 * 128 * 128  # a state of d × d for each of four devices
    for _, program in groups:
        assert programs.collectives(program()) == []


@settings(max_examples=60, deadline=None)
@given(widths=st.lists(st.integers(1, 40), min_size=1, max_size=12), blocks=st.integers(1, 8))
def test_every_pair_is_on_one_device(widths: list[int], blocks: int) -> None:
    names = [str(k) for k in range(len(widths))]
    layout = Layout.of(names, widths, blocks)
    columns = layout.columns
    assert len(np.unique(columns)) == sum(widths) and columns.max() < blocks * layout.width
    for k, width in enumerate(widths):
        assert 0 <= layout.start[k] <= layout.width - width  # no encoder is cut
    for a in names:
        for b in names:
            device, row, column = layout.holder(a, b)
            assert {row, column} == {a, b} and device == layout.block_of(row)
            assert (layout.block_of(column) - device) % blocks <= layout.reach
            if layout.block_of(a) != layout.block_of(b):
                assert layout.holder(b, a) == (device, row, column)


def test_pairs_are_dealt_evenly() -> None:
    layout = Layout.of([str(k) for k in range(40)], [16] * 40, 8)
    held = [layout.holder(str(a), str(b))[0] for a in range(40) for b in range(a)]
    counts = np.bincount(held, minlength=8)
    assert counts.max() - counts.min() <= 1 and counts.sum() == 780


def test_pairs_of_a_mesh_are_as_few_as_memory_allows() -> None:
    widths = [512] * 16
    whole = 8 * (16 * 512) ** 2
    shapes = [
        dict(device_mesh(jax.devices()[:8], widths=widths, memory=int(by * whole)).shape)
        for by in (2, 1.8, 0.7, 0.1)
    ]
    assert [shape["pairs"] for shape in shapes] == [1, 2, 4, 8]
    assert all(shape["data"] * shape["pairs"] == 8 for shape in shapes)
    assert dict(device_mesh(jax.devices()[:8]).shape) == {"data": 8, "pairs": 1}


def test_bad_meshes_are_a_sentence() -> None:
    rows = clouds.several(seed=0)
    for attempt, sentence in (
        (lambda: device_mesh(jax.devices()[:8], pairs=3), "divides the number of devices, 8, got 3"),
        (lambda: device_mesh(jax.devices()[:8], pairs=True), "divides the number of devices, 8, got True"),
        (lambda: device_mesh([]), "devices: expected at least one, got none"),
        (
            lambda: Moments.of(rows, mesh=Mesh(np.array(jax.devices()[:2]), ("rows",))),
            "the axes data and pairs",
        ),
        (lambda: jaxalign.fit_pairs(rows, "linear", mesh=8), "the axes data and pairs, got int"),  # type: ignore[arg-type]
        (
            lambda: jaxalign.fit_pairs(
                FoldMoments.of(rows, mesh=mesh_of(1, 2)), "linear", mesh=mesh_of(2, 1)
            ),
            "spread over a mesh of {'data': 1, 'pairs': 2}",
        ),
    ):
        with pytest.raises(UserError, match=".") as raised:
            attempt()
        assert sentence in str(raised.value) and "\n" not in str(raised.value)
