"""Comparing both sides, maps into the target's own coordinates, and what fits say of themselves."""

import html
import pickle
from typing import Any

import clouds
import jax
import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics.pairwise import cosine_similarity
from solver_cases import CASES, Case

import jaxalign
from jaxalign import AffineMap, PairwiseMaps, UserError
from jaxalign.core.rows import LazyRows

FITTED = [case for case in CASES if case.method not in ("identity", "translation")]
FEW: dict[str, dict[str, Any]] = {
    method: {"steps": 3} for method, solver in jaxalign.SOLVERS.items() if solver.needs_rows
}  # of gradient fits
by_fitted = pytest.mark.parametrize("case", FITTED, ids=str)


@pytest.mark.parametrize("cloud", ["tall", "widening", "huge_mean", "rank_deficient"])
@by_fitted
@pytest.mark.filterwarnings("ignore:the map cannot be trusted")
def test_a_drop_in_map_has_the_targets_variance(case: Case, cloud: str) -> None:
    """In the space where the pair is compared, which is the target's own where only the source is mapped."""
    rows = clouds.make(cloud, seed=1)
    x, y = np.asarray(rows.x, np.float64), np.asarray(rows.y, np.float64)
    fit = jaxalign.fit_pair(x, y, **case.arguments())
    restored = np.asarray(jaxalign.fit_affine(x, y, **case.arguments())(x))
    plain = np.asarray(jaxalign.fit_affine(x, y, restore_variance=False, **case.arguments())(x))
    compared, target = np.asarray(fit.target(restored)), np.asarray(fit.target(y))
    np.testing.assert_allclose(compared.var(0).sum(), target.var(0).sum(), rtol=1e-6)
    np.testing.assert_allclose(np.sum(fit.predicted), np.asarray(fit.source(x)).var(0).sum(), rtol=1e-6)  # pyright: ignore
    scale = np.sqrt(target.var(0).sum() / np.asarray(fit.source(x)).var(0).sum())
    np.testing.assert_allclose(
        restored - y.mean(0), scale * (plain - y.mean(0)), atol=1e-6 * np.abs(plain).max()
    )
    if not case.two_sided and len(fit.source.factors) == 2:
        cut = fit.at_rank(2)
        np.testing.assert_allclose(np.asarray(cut.to_target()(x)).var(0).sum(), y.var(0).sum(), rtol=1e-6)


def test_without_it_the_map_is_least_squares() -> None:
    rows = clouds.make("tall", seed=2)
    theirs = Ridge(alpha=0.7).fit(rows.x, rows.y).predict(rows.x_new)
    ours = jaxalign.fit_affine(rows.x, rows.y, l2=0.7, restore_variance=False)(rows.x_new)
    np.testing.assert_allclose(ours, theirs, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("method", ["identity", "translation"])
def test_baselines_are_never_scaled(method: str) -> None:
    rows = clouds.make("tall", seed=2)
    maps = [
        jaxalign.fit_affine(rows.x, rows.y, method, restore_variance=given)(rows.x) for given in (True, False)
    ]
    np.testing.assert_array_equal(*maps)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("l2", [1e20, 1e300])
def test_a_prediction_without_variance_is_not_scaled(l2: float) -> None:
    rows = clouds.make("tall", seed=2)
    for y in (rows.y, np.ones_like(rows.y)):
        mapped = np.asarray(jaxalign.fit_affine(rows.x, y, l2=l2)(rows.x))
        np.testing.assert_allclose(mapped, np.broadcast_to(y.mean(0), y.shape), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("method", sorted(jaxalign.SOLVERS))
def test_scores_are_cosines_of_both_sides(method: str) -> None:
    rows = clouds.make("tall", seed=3)
    maps = jaxalign.fit_pairs({"a": rows.x, "b": rows.y}, method, pairs=[("a", "b")], **FEW.get(method, {}))
    fit = maps["a", "b"]
    expected = cosine_similarity(np.asarray(fit.source(rows.x_new)), np.asarray(fit.target(rows.y[:7])))
    for found in (
        fit.scores(rows.x_new, rows.y[:7]),
        fit.scores(LazyRows.of(rows.x_new), LazyRows.of(rows.y, np.arange(7))),
        maps.scores(rows.x_new, rows.y[:7]),
        maps.scores(rows.x_new, rows.y[:7], source="a", target="b"),
    ):
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, expected, atol=1e-10)
    narrow = fit.scores(rows.x_new.astype(np.float32), rows.y[:7].astype(np.float32))
    assert narrow.dtype == np.float32
    np.testing.assert_allclose(narrow, expected, atol=1e-4)


def test_scores_at_the_ends_of_formats() -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 60, 4))
    fit = jaxalign.fit_pair(x, y, "orthogonal")
    origin = np.asarray(fit.source.center)[None]
    assert not fit.scores(origin, y).any()
    large = np.asarray(fit.source.factors[0])
    expected = cosine_similarity(x @ large, y - y.mean(0))
    np.testing.assert_allclose(fit.scores(x * 1e100, y), expected, atol=1e-6)
    np.testing.assert_allclose(fit.scores((x * 3e37).astype(np.float32), y), expected, atol=1e-5)
    for bad, message in ((x[:, :3], "width 4"), (np.full_like(x, np.nan), "NaN"), (x[0], "shape")):
        with pytest.raises(UserError, match=message):
            fit.scores(bad, y)
    with pytest.raises(UserError, match="source and target"):
        jaxalign.fit_pairs({"a": x, "b": y}, "orthogonal").scores(x, y)


def test_maps_print_pickle_and_compare() -> None:
    embeddings = clouds.several(seed=3)
    maps = jaxalign.fit_pairs(embeddings, "reduced_rank", rank=2, l2=1.0)
    pair = next(iter(maps))
    fit = maps[pair]
    space = jaxalign.fit_shared_space(jaxalign.FoldMoments.of(embeddings), rank=3)
    widths = embeddings[pair[0]].shape[1], embeddings[pair[1]].shape[1]
    assert f"{widths[0]} → {widths[1]}, rank 2" in repr(fit.source) and f"R² {float(fit.r2):.3f}" in repr(fit)
    assert repr(fit).startswith("Fit(reduced_rank, ")
    for thing in (fit, fit.source, space):
        assert thing._repr_html_() == f"<pre>{html.escape(repr(thing))}</pre>"
    assert f"{len(maps)} pairs by reduced_rank" in repr(maps) and f"R² {float(fit.r2):.3f}" in repr(maps)
    assert maps._repr_html_().count("<tr>") == 1 + min(8, len(maps)) and pair[0] in repr(space)
    assert all(repr(thing).count("\n") < 12 for thing in (fit.source, fit, maps, space))
    for thing in (fit.source, fit, maps, space):
        again = pickle.loads(pickle.dumps(thing))
        assert (again == thing) is True and (again == 3) is False
    other = jaxalign.fit_pairs(embeddings, "reduced_rank", rank=2, l2=2.0)
    assert other != maps and other[pair] != fit and fit.source != fit.target
    assert hash(fit.source) == hash(pickle.loads(pickle.dumps(fit.source)))
    assert isinstance(jax.tree.map(lambda _: None, fit.source), AffineMap) and repr(
        jax.tree.map(lambda _: None, fit.source)
    )


def test_a_map_is_a_function_that_can_be_compiled() -> None:
    rows = clouds.make("tall", seed=4)
    first, second = (jaxalign.fit_affine(rows.x, rows.y, l2=l2) for l2 in (0.1, 10.0))
    for map_ in (first, second):
        found = jax.jit(map_)(rows.x_new.astype(np.float32))
        np.testing.assert_allclose(found, np.asarray(map_(rows.x_new)), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("transform", [jax.jit, jax.grad, jax.vmap])
def test_a_fit_inside_a_transformation_is_refused(transform: Any) -> None:
    rows = clouds.make("tall", seed=4)
    with pytest.raises(UserError, match="outside"):
        transform(lambda x: jaxalign.fit_affine(x, rows.y, l2=1.0).bias.sum())(rows.x.astype(np.float32))


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("gruops", "identities"),
        ("identitys", "identities"),
        ("alpha", "l2"),
        ("wieghts", "weights"),
        ("whitning", "whitening"),
    ],
)
def test_a_slip_of_the_pen_is_answered(given: str, meant: str) -> None:
    rows = clouds.make("tall", seed=4)
    with pytest.raises(UserError, match=f"{given}; did you mean {meant}"):
        jaxalign.fit_affine(rows.x, rows.y, "canonical", **{given: 1})  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("method", sorted(jaxalign.SOLVERS))
def test_a_callers_settings_of_jax_change_nothing(method: str) -> None:
    rows = clouds.make("tall", seed=5)

    def scores() -> np.ndarray:
        fit = jaxalign.fit_pair(rows.x, rows.y, method, **FEW.get(method, {}))
        fit.to_target()(rows.x_new.astype(np.float32))
        return fit.scores(rows.x_new, rows.y_new)

    expected = scores()
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"), jax.debug_nans(True):
        np.testing.assert_allclose(scores(), expected, atol=1e-12)


@pytest.mark.parametrize("format_", [">f4", ">f8", "longdouble", ">f2"])
def test_formats_that_jax_does_not_know(format_: str) -> None:
    rows = clouds.make("tall", seed=6)
    x, y = rows.x.astype(format_), rows.y.astype(format_)
    native = np.float64 if format_ == "longdouble" else np.dtype(format_).newbyteorder("=")
    expected = jaxalign.fit_pair(x.astype(native), y.astype(native), l2=1.0)
    fit = jaxalign.fit_pair(x, y, l2=1.0)
    assert fit == expected
    np.testing.assert_array_equal(fit.source(x), expected.source(x.astype(native)))
    np.testing.assert_array_equal(fit.scores(x, y), expected.scores(x.astype(native), y.astype(native)))
    map_ = AffineMap((np.asarray(fit.source.factors[0], ">f8"),), np.zeros(8, ">f8"))
    assert np.isfinite(map_(rows.x)).all()


def test_loaded_maps_print_without_a_traceback(tmp_path) -> None:
    rows = clouds.make("tall", seed=7)
    jaxalign.fit_pairs({"x": rows.x, "y": rows.y}, "ridge", l2=1.0).save(tmp_path)
    maps = PairwiseMaps.load(tmp_path)
    next(tmp_path.glob("*.source.safetensors")).unlink()
    assert "is missing" in repr(maps)
