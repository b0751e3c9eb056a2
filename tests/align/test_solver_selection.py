"""Penalties and ranks chosen from moments, against loops over folds with a refit for each."""

from typing import Any

import clouds
import jax
import numpy as np
import oracles
import pytest

import jaxalign
from jaxalign import FoldMoments
from jaxalign.align.selection import Scores, penalty_scores, rank_scores
from jaxalign.align.solvers import Ridge
from jaxalign.core.people import identity_folds

GRID = np.geomspace(1e-3, 1e4, 15)
FOLDS = 5
CLOUDS = ["tall", "huge_mean", "one_person_per_fold", "rank_deficient", "constant_column", "float16"]


def folds_of(rows: clouds.Cloud) -> np.ndarray:
    """Five folds over people, of equal size."""
    return np.unique(rows.identities, return_inverse=True)[1] % FOLDS


def moments_of(rows: clouds.Cloud, weights: np.ndarray | None = None) -> FoldMoments:
    return FoldMoments.of({"x": rows.x, "y": rows.y}, fold=folds_of(rows), weights=weights)


def scores_of(moments: FoldMoments, **options: Any) -> Scores:
    return penalty_scores(moments, {"x": GRID}, {"x": ["y"]}, **options)["x"]


@pytest.mark.parametrize("kind", ["pair", "weighted pair", "columns"])
@pytest.mark.parametrize("cloud", CLOUDS)
def test_held_out_errors_of_penalties(cloud: str, kind: str) -> None:
    """Of a pair, of one with weighted rows, and of each of its target columns."""
    rows = clouds.make(cloud, seed=0)
    weights = rows.weights() if kind == "weighted pair" else None
    expected = oracles.ridge_fold_errors(rows.x, rows.y, folds_of(rows), GRID, weights)
    scores = scores_of(moments_of(rows, weights), per_column=kind == "columns")
    np.testing.assert_allclose(scores.candidates, GRID)
    if kind == "columns":
        np.testing.assert_allclose(scores.error, expected, rtol=1e-4, atol=1e-4 * expected.mean())
    else:
        np.testing.assert_allclose(scores.error[..., 0], expected.sum(-1), rtol=1e-5)


@pytest.mark.parametrize("cloud", CLOUDS)
def test_held_out_errors_of_ranks(cloud: str) -> None:
    rows = clouds.make(cloud, seed=2)
    ranks = range(1, min(rows.widths) + 1)
    expected = oracles.rank_fold_errors(rows.x, rows.y, folds_of(rows), ranks, 2.0).sum(-1)
    scores = rank_scores(moments_of(rows), {("x", "y"): 2.0})["x", "y"]
    np.testing.assert_array_equal(scores.candidates, ranks)
    np.testing.assert_allclose(scores.error[..., 0], expected, rtol=1e-4)


@pytest.mark.parametrize("cloud", ["tall", "constant_column", "rank_deficient"])
def test_generalised_cross_validation(cloud: str) -> None:
    rows = clouds.make(cloud, seed=3)
    moments = FoldMoments.of({"x": rows.x, "y": rows.y})
    expected = oracles.generalised_errors(rows.x, rows.y, GRID)
    pair = scores_of(moments, generalised=True)
    np.testing.assert_allclose(pair.error[0, :, 0], expected.sum(-1), rtol=1e-4)
    columns = scores_of(moments, generalised=True, per_column=True)
    np.testing.assert_allclose(columns.error[0], expected, rtol=1e-4, atol=1e-6)


def chosen_penalty(maps: jaxalign.PairwiseMaps, source: str, target: str) -> np.ndarray:
    return np.asarray(maps.settings[source, target]["l2"])


@pytest.mark.parametrize("one_standard_error", [False, True])
@pytest.mark.parametrize("cloud", CLOUDS)
def test_penalty_chosen_for_a_pair(cloud: str, one_standard_error: bool) -> None:
    """The choice is the definition's, and the map is the oracle's at that penalty."""
    rows = clouds.make(cloud, seed=4)
    folds = folds_of(rows)
    errors = oracles.ridge_fold_errors(rows.x, rows.y, folds, GRID).sum(-1)
    expected = GRID[choose(errors, np.bincount(folds), one_standard_error, simplest_is_last=True)]
    maps = jaxalign.fit_pairs(moments_of(rows), "ridge", l2=list(GRID), one_standard_error=one_standard_error)
    np.testing.assert_allclose(chosen_penalty(maps, "x", "y"), expected, rtol=1e-5)
    predicted = oracles.ridge(rows.x, rows.y, l2=float(expected))[0](rows.x_new)
    np.testing.assert_allclose(maps["x", "y"].source(rows.x_new), predicted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("one_standard_error", [False, True])
def test_penalty_chosen_for_each_column(one_standard_error: bool) -> None:
    rows = clouds.make("tall", seed=5)
    folds = folds_of(rows)
    errors = oracles.ridge_fold_errors(rows.x, rows.y, folds, GRID)
    rule = [
        choose(errors[..., column], np.bincount(folds), one_standard_error, simplest_is_last=True)
        for column in range(rows.y.shape[1])
    ]
    maps = jaxalign.fit_pairs(
        moments_of(rows),
        "ridge",
        l2=list(GRID),
        penalty_per="column",
        one_standard_error=one_standard_error,
    )
    np.testing.assert_allclose(chosen_penalty(maps, "x", "y"), GRID[rule], rtol=1e-6)
    assert len(set(rule)) > 1, "the cloud is no test of choosing by column"
    predicted = oracles.ridge(rows.x, rows.y, l2=GRID[rule])[0](rows.x_new)
    np.testing.assert_allclose(maps["x", "y"].source(rows.x_new), predicted, rtol=1e-5, atol=1e-5)


def test_penalty_chosen_for_each_source() -> None:
    """One penalty for all targets of a source: each target's error counts relative to its variance.

    Otherwise the encoder with the longest vectors would choose for all. Here it is also the noisiest.
    """
    embeddings = clouds.several(seed=6)
    embeddings["b"] = 50 * np.random.default_rng(0).normal(size=embeddings["b"].shape)
    folds = np.arange(clouds.ROWS) % FOLDS
    maps = jaxalign.fit_pairs(
        FoldMoments.of(embeddings, fold=folds), "ridge", l2=list(GRID), penalty_per="source"
    )
    for source, others in (("a", "bc"), ("c", "ab"), ("b", "ac")):
        errors = np.zeros((FOLDS, len(GRID)))
        for target in others:
            y = embeddings[target]
            errors += oracles.ridge_fold_errors(embeddings[source], y, folds, GRID).sum(-1) / y.var(0).sum()
        expected = GRID[oracles.best(errors, np.bincount(folds))]
        for target in others:
            np.testing.assert_allclose(chosen_penalty(maps, source, target), expected, rtol=1e-5)


@pytest.mark.parametrize("one_standard_error", [False, True])
@pytest.mark.parametrize("cloud", ["tall", "rank_deficient", "huge_mean"])
def test_rank_chosen_for_a_pair(cloud: str, one_standard_error: bool) -> None:
    rows = clouds.make(cloud, seed=7)
    folds = folds_of(rows)
    ranks = np.arange(1, min(rows.widths) + 1)
    errors = oracles.rank_fold_errors(rows.x, rows.y, folds, ranks, 2.0).sum(-1)
    expected = int(ranks[choose(errors, np.bincount(folds), one_standard_error, simplest_is_last=False)])
    maps = jaxalign.fit_pairs(
        moments_of(rows), "reduced_rank", l2=2.0, rank="cv", one_standard_error=one_standard_error
    )
    assert maps["x", "y"].source.rank == expected
    predicted = oracles.reduced_rank(rows.x, rows.y, l2=2.0, rank=expected)[0](rows.x_new)
    np.testing.assert_allclose(maps["x", "y"].source(rows.x_new), predicted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("ranks", [list(range(1, 9)), [1, 2, 6, 8]], ids=["all", "listed"])
@pytest.mark.parametrize("l2", [2.0, None], ids=["fixed penalty", "chosen penalty"])
def test_rank_chosen_with_its_penalty(ranks: list[int], l2: float | None) -> None:
    """The penalty is the one that ridge would take; the rank is then chosen at that penalty."""
    rows = clouds.make("tall", seed=13)
    folds = folds_of(rows)
    penalties = oracles.ridge_fold_errors(rows.x, rows.y, folds, GRID).sum(-1)
    penalty = l2 or float(GRID[oracles.best(penalties, np.bincount(folds))])
    errors = oracles.rank_fold_errors(rows.x, rows.y, folds, ranks, penalty).sum(-1)
    rank = ranks[oracles.best(errors, np.bincount(folds))]
    given: Any = {"l2": l2 or list(GRID), "rank": "cv" if len(ranks) == 8 else ranks}
    maps = jaxalign.fit_pairs(moments_of(rows), "reduced_rank", **given)
    assert maps["x", "y"].source.rank == rank
    predicted = oracles.reduced_rank(rows.x, rows.y, l2=penalty, rank=rank)[0](rows.x_new)
    np.testing.assert_allclose(maps["x", "y"].source(rows.x_new), predicted, rtol=1e-5, atol=1e-5)


def test_ranks_are_parts_of_one_solution() -> None:
    rows = clouds.make("tall", seed=9)
    methods: dict[str, dict[str, Any]] = {"reduced_rank": {"l2": 2.0}, "canonical": {}}
    for method, options in methods.items():
        full = jaxalign.fit_pair(rows.x, rows.y, method, **options)
        for rank in (1, 3, 8):
            cut, alone = full.at_rank(rank), jaxalign.fit_pair(rows.x, rows.y, method, rank=rank, **options)
            assert cut.source.rank == alone.source.rank == rank
            expected = np.asarray(alone.source(rows.x_new)) @ np.asarray(alone.target(rows.y_new)).T
            actual = np.asarray(cut.source(rows.x_new)) @ np.asarray(cut.target(rows.y_new)).T
            np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("by_person", [True, False], ids=["by person", "by row"])
def test_folds_of_two_arrays_are_over_people(by_person: bool) -> None:
    """``fit_pair`` chooses as on the folds that ``identity_folds`` gives."""
    rows = clouds.make("tall", seed=10)
    people = rows.identities if by_person else np.arange(len(rows.x)).astype(str)
    folds = identity_folds(people, FOLDS, seed=3)
    errors = oracles.ridge_fold_errors(rows.x, rows.y, folds, GRID).sum(-1)
    l2 = float(GRID[oracles.best(errors, np.bincount(folds))])
    fit = jaxalign.fit_pair(
        rows.x, rows.y, l2=list(GRID), folds=FOLDS, identities=rows.identities if by_person else None, seed=3
    )
    predicted = oracles.ridge(rows.x, rows.y, l2=l2)[0](rows.x_new)
    np.testing.assert_allclose(fit.source(rows.x_new), predicted, rtol=1e-5, atol=1e-5)


def test_people_without_weight_need_no_fold() -> None:
    """Rows of weight zero are as good as absent, also where they would fill a fold of their own."""
    rows = clouds.make("one_person_per_fold", seed=3)
    weights = (rows.identities != "person 001").astype(float)
    there = weights > 0
    fit = jaxalign.fit_pair(rows.x, rows.y, folds=4, identities=rows.identities, weights=weights)
    alone = jaxalign.fit_pair(rows.x[there], rows.y[there], folds=4, identities=rows.identities[there])
    np.testing.assert_allclose(fit.source(rows.x_new), alone.source(rows.x_new), rtol=1e-8, atol=1e-8)
    with pytest.raises(jaxalign.UserError, match=r"people.*folds"):
        jaxalign.fit_pair(rows.x, rows.y, folds=5, identities=rows.identities, weights=weights)


def test_generalised_choice_needs_no_folds() -> None:
    rows = clouds.make("tall", seed=11)
    fit = jaxalign.fit_pair(rows.x, rows.y, "ridge", l2="gcv")
    scatter = np.linalg.eigvalsh(np.cov(rows.x.T, bias=True) * len(rows.x))
    grid = np.mean(scatter) * 10.0 ** np.arange(-6, 2.5, 0.5)
    l2 = grid[np.argmin(oracles.generalised_errors(rows.x, rows.y, grid).sum(-1))]
    predicted = oracles.ridge(rows.x, rows.y, l2=float(l2))[0](rows.x_new)
    np.testing.assert_allclose(fit.source(rows.x_new), predicted, rtol=1e-5, atol=1e-5)


def test_several_penalties_in_one_solver() -> None:
    """A penalty for each target column, given as a solver."""
    rows = clouds.make("tall", seed=12)
    l2 = np.geomspace(0.01, 100, rows.y.shape[1])
    with jax.enable_x64(True):
        fit = jaxalign.fit_pair(rows.x, rows.y, Ridge(l2=jax.numpy.asarray(l2)))
    predicted = oracles.ridge(rows.x, rows.y, l2=l2)[0](rows.x_new)
    np.testing.assert_allclose(fit.source(rows.x_new), predicted, rtol=1e-6, atol=1e-8)


def choose(
    errors: np.ndarray, fold_weights: np.ndarray, one_standard_error: bool, *, simplest_is_last: bool
) -> int:
    if one_standard_error:
        return oracles.simplest_within_one_standard_error(
            errors, fold_weights, simplest_is_last=simplest_is_last
        )
    return oracles.best(errors, fold_weights)
