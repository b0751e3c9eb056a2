"""Solving over a mesh of devices: the maps and choices of one device, and no communication but encoders' states."""

import itertools
from typing import Any

import agreement
import clouds
import jax
import numpy as np
import programs
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from solver_cases import ONE_EACH

import jaxalign
from jaxalign import FoldMoments, device_mesh
from jaxalign.align import programs as align_programs
from jaxalign.align import solve
from jaxalign.align.solvers import Canonical, Orthogonal, Ridge

pytestmark = pytest.mark.skipif(len(jax.devices()) < 8, reason="needs eight (simulated) devices")


def mesh_of(data: int, pairs: int) -> Mesh:
    return device_mesh(jax.devices()[: data * pairs], pairs=pairs)


def assert_same_maps(actual: jaxalign.PairwiseMaps, expected: jaxalign.PairwiseMaps, rows: Any) -> None:
    assert list(actual) == list(expected)
    for (a, b), fit in actual.items():
        agreement.assert_same_comparisons(fit, expected[a, b], rows[a], rows[b])
        for name in ("residual", "variance", "effective_rank", "condition", "ok"):
            one, other = getattr(fit, name), getattr(expected[a, b], name)
            np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-9)


SHAPES = {
    "ridge": (8, 1),
    "linear": (4, 2),
    "canonical": (2, 4),
    "orthogonal": (1, 3),
}


@pytest.mark.parametrize(
    "given", [*(case.arguments() for case in ONE_EACH), {"method": "shared", "rank": 4}], ids=str
)
def test_sharded_is_single_device(given: dict[str, Any]) -> None:
    """Every solver; rows over some devices, the matrix and pairs over others; for two solvers one of these alone."""
    rows = clouds.several(seed=9)
    single = jaxalign.fit_pairs(rows, **given)
    mesh = mesh_of(*SHAPES.get(given["method"], (2, 2)))
    assert_same_maps(jaxalign.fit_pairs(rows, **given, mesh=mesh), single, rows)


@pytest.mark.parametrize("count", [7, 8, 9])
def test_pairs_and_rows_that_devices_do_not_divide(count: int) -> None:
    """As many rows and pairs as devices, one less, one more."""
    rows = dict(zip("abcd", np.random.default_rng(count).normal(size=(4, count, 5))))
    given: Any = {"l2": 0.3, "pairs": [*itertools.permutations("abcd", 2)][:count]}
    sharded = jaxalign.fit_pairs(rows, "ridge", mesh=mesh_of(8, 1), **given)
    assert_same_maps(sharded, jaxalign.fit_pairs(rows, "ridge", **given), rows)


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
    assert_same_maps(sharded, single, rows)
    for pair, settings in single.settings.items():
        for name, value in settings.items():
            np.testing.assert_allclose(sharded.settings[pair][name], value, rtol=1e-12)


@pytest.mark.parametrize("solver", [Ridge(0.1), Canonical()], ids=["ridge", "canonical"])
def test_solving_sends_states_of_encoders_only(solver: Any) -> None:
    mesh = mesh_of(2, 2)
    rows = {name: np.random.default_rng(0).normal(size=(30, 12)) for name in "abc"}
    total = FoldMoments.of(rows, mesh=mesh).total
    (work,) = solve.works(total, dict.fromkeys(itertools.permutations("abc", 2), solver))
    shared = NamedSharding(mesh, P(("data", "pairs")))
    with jax.enable_x64(True):
        (call,) = align_programs.encoder_calls(total, work.factoring)
        given = work.factor, (total.unnamed(),), jax.device_put(call.given[0], shared)
        sent = programs.collectives(align_programs.encoders_program.lower(*given).compile())
        assert {kind for kind, _ in sent} == {"all-gather"}
        assert max(size for _, size in sent) <= 4 * 128 * 128  # a state of d × d for each of four devices
        encoders = align_programs.on_encoders(work.factor, (total,), work.factoring)
        both_states = not solver.columnwise
        for call in align_programs.pair_calls(total, encoders, work.pairs, both_states=both_states):
            states, items = call.given
            given = work.function, (total.unnamed(),), (total.power(),), states, jax.device_put(items, shared)
            assert programs.collectives(align_programs.pairs_program.lower(*given).compile()) == []


def test_unordered_pairs_are_shared_evenly() -> None:
    """Each of 780 pairs once, as many on each of eight devices, give or take a few."""
    names = [f"{k:02}" for k in range(40)]
    rows = {name: np.random.default_rng(0).normal(size=(4, 1)) for name in names}
    total = FoldMoments.of(rows, mesh=mesh_of(1, 8)).total
    (work,) = solve.works(total, dict.fromkeys(itertools.permutations(names, 2), Orthogonal()))
    assert len(work.pairs) == len({frozenset(pair) for pair in work.pairs}) == 780
    held = np.bincount([total.place(source)[0] for source, _ in work.pairs], minlength=8)
    assert held.max() - held.min() <= 10
