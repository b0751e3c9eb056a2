"""Every solver against its float64 oracle, on clouds with the troubles of real embeddings; driven by one table."""

import agreement
import clouds
import numpy as np
import oracles
import pytest
from agreement import cosines, relative_error
from hypothesis import given, settings
from hypothesis import strategies as st
from solver_cases import CASES, ONE_EACH, Case

import jaxalign
from jaxalign import AffineMap, FoldMoments, Moments, PairwiseMaps

by_case = pytest.mark.parametrize("case", CASES, ids=str)
by_method = pytest.mark.parametrize("case", ONE_EACH, ids=str)


@pytest.mark.parametrize("cloud", clouds.NAMES)
@by_case
def test_predictions_agree_with_the_oracle(case: Case, cloud: str) -> None:
    rows = clouds.make(cloud, seed=0)
    fit = jaxalign.fit_pair(rows.x, rows.y, **case.arguments())
    agreement.assert_agrees(case, fit, rows)


@pytest.mark.parametrize("cloud", ["tall", "huge_mean", "rank_deficient"])
@by_case
def test_weighted_predictions_agree_with_the_oracle(case: Case, cloud: str) -> None:
    rows = clouds.make(cloud, seed=1)
    fit = jaxalign.fit_pair(rows.x, rows.y, weights=rows.weights(), **case.arguments())
    agreement.assert_agrees(case, fit, rows, rows.weights())


@by_case
def test_weights_are_repeated_rows(case: Case) -> None:
    rows = clouds.make("tall", seed=2)
    times = np.random.default_rng(0).integers(0, 4, len(rows.x))
    weighted = jaxalign.fit_pair(rows.x, rows.y, weights=times, **case.arguments())
    repeated = jaxalign.fit_pair(rows.x.repeat(times, 0), rows.y.repeat(times, 0), **case.arguments())
    agreement.assert_same_comparisons(weighted, repeated, rows.x_new, rows.y_new, 1e-8)
    np.testing.assert_allclose(weighted.r2, repeated.r2, rtol=1e-6)


@pytest.mark.parametrize("case, kind", [(case, kind) for case in CASES for kind in case.recovers], ids=str)
def test_planted_map_is_recovered(case: Case, kind: str) -> None:
    rows = clouds.planted(kind, seed=0)
    map_ = jaxalign.fit_affine(rows.x, rows.y, **case.arguments())
    assert relative_error(map_(rows.x_new), rows.y_new) < agreement.PREDICTIONS


@pytest.mark.parametrize("cloud", ["tall", "square", "widening"])
@by_case
def test_one_trip_to_the_targets_own_coordinates(case: Case, cloud: str) -> None:
    """fit_affine is the source's side, and then the target's side undone."""
    rows = clouds.make(cloud, seed=3)
    sides = case.oracle(rows.x, rows.y, None)
    expected = oracles.to_target(sides, oracles.centred(rows.y, None)[0], rows.y.shape[1])(rows.x_new)
    map_ = jaxalign.fit_affine(rows.x, rows.y, restore_variance=False, **case.arguments())
    assert isinstance(map_, AffineMap) and map_.out_dim == rows.y.shape[1]
    assert relative_error(map_(rows.x_new), expected) < agreement.PREDICTIONS


@by_case
@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**31), scale=st.floats(0.01, 100), distance=st.floats(-1e4, 1e4))
def test_invariances(case: Case, seed: int, scale: float, distance: float) -> None:
    """What x is expressed in changes no comparison where the mathematics says so."""
    rows = clouds.make("tall", seed=4)
    generator = np.random.default_rng(seed)
    width = rows.x.shape[1]
    turn = np.linalg.qr(generator.normal(size=(width, width)))[0]
    changes = {
        "rotation": (turn, 0.0),
        "shift": (np.eye(width), distance * generator.normal(size=width)),
        "scale": (scale * np.eye(width), 0.0),
        "affine": (turn * np.geomspace(1, scale, width) @ turn.T, distance),
    }
    fit = jaxalign.fit_pair(rows.x, rows.y, **case.arguments())
    expected = cosines(fit.source, fit.target, rows.x_new, rows.y_new)
    for name in case.invariant_to:
        matrix, shift = changes[name]
        changed = jaxalign.fit_pair(rows.x @ matrix + shift, rows.y, **case.arguments())
        actual = cosines(changed.source, changed.target, rows.x_new @ matrix + shift, rows.y_new)
        assert relative_error(actual, expected) < 1e-6, name


@pytest.mark.parametrize("cloud", ["square", "widening", "tall"])
def test_reverse_of_orthogonal_is_the_transpose(cloud: str) -> None:
    rows = clouds.make(cloud, seed=5)
    maps = jaxalign.fit_pairs({"x": rows.x, "y": rows.y}, "orthogonal")
    forth, back = maps["x", "y"].source, maps["y", "x"].source
    np.testing.assert_array_equal(np.asarray(forth.matrix()), np.asarray(back.matrix()).T)
    inverse = jaxalign.fit_affine(rows.x, rows.y, "orthogonal", restore_variance=False).inverse()
    np.testing.assert_allclose(inverse.matrix(), back.matrix(), atol=1e-12)


@pytest.mark.parametrize("cloud", ["tall", "wide", "rank_deficient", "two_rows", "huge_mean"])
def test_least_squares_has_minimum_norm(cloud: str) -> None:
    rows = clouds.make(cloud, seed=6)
    x, y = rows.x - rows.x.mean(0), rows.y - rows.y.mean(0)
    expected = np.linalg.pinv(x) @ y
    fit = jaxalign.fit_pair(rows.x, rows.y, "linear")
    assert relative_error(fit.source.matrix(), expected) < 1e-6
    assert int(np.round(fit.effective_rank)) == np.linalg.matrix_rank(x, tol=1e-9 * np.linalg.norm(x, 2))


@by_method
def test_number_formats(case: Case) -> None:
    """Fitted maps are float64; applied to narrower rows they give float32."""
    rows, formats = clouds.make("tall", seed=7), ("float16", "float32", "float64")
    for format_ in formats:
        fit = jaxalign.fit_pair(rows.x.astype(format_), rows.y.astype(format_), **case.arguments())
        assert fit.source.dtype == np.float64
        mapped = [fit.source(rows.x_new.astype(given_)).dtype.name for given_ in formats]
        assert mapped == ["float32", "float32", "float64"]


@by_method
def test_saved_maps_come_back(case: Case, tmp_path) -> None:
    rows = clouds.make("tall", seed=8)
    maps = jaxalign.fit_pairs({"x": rows.x, "y": rows.y}, **case.arguments())
    maps.save(tmp_path / "maps", {"dataset": "cloud"})
    back = PairwiseMaps.load(tmp_path / "maps")
    assert list(back) == list(maps)
    new = {"x": rows.x_new, "y": rows.y_new}
    for source, target in maps:
        fit, loaded = maps[source, target], back[source, target]
        np.testing.assert_array_equal(loaded.source(new[source]), fit.source(new[source]))
        np.testing.assert_array_equal(loaded.target(new[target]), fit.target(new[target]))
    map_ = jaxalign.fit_affine(rows.x, rows.y, **case.arguments())
    map_.save(tmp_path / "one.safetensors", {"method": case.method})
    loaded, metadata = AffineMap.load_with_metadata(tmp_path / "one.safetensors")
    assert metadata["method"] == case.method
    np.testing.assert_array_equal(loaded(rows.x_new), np.asarray(map_(rows.x_new)))


@by_case
def test_all_pairs_are_the_loop_over_pairs(case: Case) -> None:
    embeddings = clouds.several(seed=9)
    maps = jaxalign.fit_pairs(embeddings, **case.arguments())
    assert set(maps) == {(a, b) for a in embeddings for b in embeddings if a != b}
    for (a, b), fit in maps.items():
        alone = jaxalign.fit_pair(embeddings[a], embeddings[b], **case.arguments())
        agreement.assert_same_comparisons(fit, alone, embeddings[a], embeddings[b])
        np.testing.assert_allclose(fit.r2, alone.r2, rtol=1e-6, atol=1e-7)


@settings(max_examples=10, deadline=None)
@given(
    order=st.permutations(range(5)),
    tree=st.booleans(),
    cuts=st.lists(st.sampled_from(range(7, clouds.ROWS, 7)), min_size=4, max_size=4, unique=True),
)
def test_moments_merge_in_any_order(order: list[int], tree: bool, cuts: list[int]) -> None:
    """Shards of any size, merged in any order and association, give the moments of all rows."""
    rows = clouds.make("huge_mean", seed=10)
    edges = [0, *sorted(cuts), clouds.ROWS]
    shards = [Moments.of({"x": rows.x[a:b], "y": rows.y[a:b]}) for a, b in zip(edges[:-1], edges[1:])]
    a, b, c, d, e = (shards[i] for i in order)
    merged = (a.merge(b)).merge((c.merge(d)).merge(e)) if tree else a.merge(b).merge(c).merge(d).merge(e)
    z = np.hstack([rows.x - 1e6, rows.y + 1e5 * np.arange(rows.y.shape[1])])
    np.testing.assert_allclose(merged.scatter, (z - z.mean(0)).T @ (z - z.mean(0)), atol=1e-6)
    assert int(merged.count) == clouds.ROWS
    whole = jaxalign.fit_pairs(FoldMoments(merged, ()), "ridge", l2=0.1)["x", "y"]
    expected = jaxalign.fit_pair(rows.x, rows.y, "ridge", l2=0.1)
    assert relative_error(whole.source(rows.x_new), np.asarray(expected.source(rows.x_new))) < 1e-8
