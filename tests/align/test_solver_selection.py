"""Penalties and ranks chosen from moments, against loops over folds with a refit for each."""

from typing import Any

import agreement
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


def assert_predicts(fit: Any, rows: clouds.Cloud, oracle: Any = oracles.ridge, **settings: Any) -> None:
    """The map is the oracle's with these settings."""
    predicted = oracle(rows.x, rows.y, **settings)[0](rows.x_new)
    np.testing.assert_allclose(fit.source(rows.x_new), predicted, rtol=1e-5, atol=1e-5)


def chosen(errors: np.ndarray, folds: np.ndarray, one_standard_error: bool = False, last: bool = True) -> int:
    """The choice of the definition; ``last``: whether the simplest candidate is the last."""
    weights = np.bincount(folds)
    if not one_standard_error:
        return oracles.best(errors, weights)
    return oracles.simplest_within_one_standard_error(errors, weights, simplest_is_last=last)


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


@pytest.mark.parametrize("one_standard_error", [False, True])
@pytest.mark.parametrize("cloud", CLOUDS)
def test_penalty_chosen_for_a_pair(cloud: str, one_standard_error: bool) -> None:
    """The choice is the definition's, and the map is the oracle's at that penalty."""
    rows = clouds.make(cloud, seed=4)
    folds = folds_of(rows)
    errors = oracles.ridge_fold_errors(rows.x, rows.y, folds, GRID).sum(-1)
    expected = GRID[chosen(errors, folds, one_standard_error)]
    maps = jaxalign.fit_pairs(moments_of(rows), "ridge", l2=list(GRID), one_standard_error=one_standard_error)
    np.testing.assert_allclose(maps.settings["x", "y"]["l2"], expected, rtol=1e-5)
    assert_predicts(maps["x", "y"], rows, l2=float(expected))


@pytest.mark.parametrize("one_standard_error", [False, True])
def test_penalty_chosen_for_each_column(one_standard_error: bool) -> None:
    rows = clouds.make("tall", seed=5)
    folds = folds_of(rows)
    errors = oracles.ridge_fold_errors(rows.x, rows.y, folds, GRID)
    rule = [chosen(errors[..., column], folds, one_standard_error) for column in range(rows.y.shape[1])]
    options: Any = {"penalty_per": "column", "one_standard_error": one_standard_error}
    maps = jaxalign.fit_pairs(moments_of(rows), "ridge", l2=list(GRID), **options)
    np.testing.assert_allclose(maps.settings["x", "y"]["l2"], GRID[rule], rtol=1e-6)
    assert len(set(rule)) > 1, "the cloud is no test of choosing by column"
    assert_predicts(maps["x", "y"], rows, l2=GRID[rule])


def test_penalty_chosen_for_each_source() -> None:
    """One penalty for all targets of a source: each target's error counts relative to its variance.

    Otherwise the encoder with the longest vectors would choose for all. Here it is also the noisiest.
    """
    embeddings = clouds.several(seed=6)
    embeddings["b"] = 50 * np.random.default_rng(0).normal(size=embeddings["b"].shape)
    folds = np.arange(clouds.ROWS) % FOLDS
    moments = FoldMoments.of(embeddings, fold=folds)
    maps = jaxalign.fit_pairs(moments, "ridge", l2=list(GRID), penalty_per="source")
    for source, others in (("a", "bc"), ("c", "ab"), ("b", "ac")):
        errors = np.zeros((FOLDS, len(GRID)))
        for target in others:
            y = embeddings[target]
            errors += oracles.ridge_fold_errors(embeddings[source], y, folds, GRID).sum(-1) / y.var(0).sum()
        found = [maps.settings[source, target]["l2"] for target in others]
        np.testing.assert_allclose(found, GRID[chosen(errors, folds)], rtol=1e-5)


@pytest.mark.parametrize("one_standard_error", [False, True])
@pytest.mark.parametrize("cloud", ["tall", "rank_deficient", "huge_mean"])
def test_rank_chosen_for_a_pair(cloud: str, one_standard_error: bool) -> None:
    rows = clouds.make(cloud, seed=7)
    folds = folds_of(rows)
    ranks = np.arange(1, min(rows.widths) + 1)
    errors = oracles.rank_fold_errors(rows.x, rows.y, folds, ranks, 2.0).sum(-1)
    expected = int(ranks[chosen(errors, folds, one_standard_error, last=False)])
    options: Any = {"l2": 2.0, "rank": "cv", "one_standard_error": one_standard_error}
    maps = jaxalign.fit_pairs(moments_of(rows), "reduced_rank", **options)
    assert maps["x", "y"].source.rank == expected
    assert_predicts(maps["x", "y"], rows, oracles.reduced_rank, l2=2.0, rank=expected)


@pytest.mark.parametrize("ranks", [list(range(1, 9)), [1, 2, 6, 8]], ids=["all", "listed"])
@pytest.mark.parametrize("l2", [2.0, None], ids=["fixed penalty", "chosen penalty"])
def test_rank_chosen_with_its_penalty(ranks: list[int], l2: float | None) -> None:
    """The penalty is the one that ridge would take; the rank is then chosen at that penalty."""
    rows = clouds.make("tall", seed=13)
    folds = folds_of(rows)
    penalties = oracles.ridge_fold_errors(rows.x, rows.y, folds, GRID).sum(-1)
    penalty = l2 or float(GRID[chosen(penalties, folds)])
    rank = ranks[chosen(oracles.rank_fold_errors(rows.x, rows.y, folds, ranks, penalty).sum(-1), folds)]
    given: Any = {"l2": l2 or list(GRID), "rank": "cv" if len(ranks) == 8 else ranks}
    maps = jaxalign.fit_pairs(moments_of(rows), "reduced_rank", **given)
    assert maps["x", "y"].source.rank == rank
    assert_predicts(maps["x", "y"], rows, oracles.reduced_rank, l2=penalty, rank=rank)


def test_ranks_are_parts_of_one_solution() -> None:
    rows = clouds.make("tall", seed=9)
    methods: dict[str, dict[str, Any]] = {"reduced_rank": {"l2": 2.0}, "canonical": {}}
    for method, options in methods.items():
        full = jaxalign.fit_pair(rows.x, rows.y, method, **options)
        for rank in (1, 3):
            cut, alone = full.at_rank(rank), jaxalign.fit_pair(rows.x, rows.y, method, rank=rank, **options)
            assert cut.source.rank == alone.source.rank == rank
            agreement.assert_same_comparisons(cut, alone, rows.x_new, rows.y_new)


@pytest.mark.parametrize("by_person", [True, False], ids=["by person", "by row"])
def test_folds_of_two_arrays_are_over_people(by_person: bool) -> None:
    """``fit_pair`` chooses as on the folds that ``identity_folds`` gives."""
    rows = clouds.make("tall", seed=10)
    people = rows.identities if by_person else np.arange(len(rows.x)).astype(str)
    folds = identity_folds(people, FOLDS, seed=3)
    errors = oracles.ridge_fold_errors(rows.x, rows.y, folds, GRID).sum(-1)
    options: Any = {"folds": FOLDS, "identities": rows.identities if by_person else None, "seed": 3}
    fit = jaxalign.fit_pair(rows.x, rows.y, l2=list(GRID), **options)
    assert_predicts(fit, rows, l2=float(GRID[chosen(errors, folds)]))


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
    assert_predicts(fit, rows, l2=float(l2))


def test_several_penalties_in_one_solver() -> None:
    """A penalty for each target column, given as a solver."""
    rows = clouds.make("tall", seed=12)
    l2 = np.geomspace(0.01, 100, rows.y.shape[1])
    with jax.enable_x64(True):
        fit = jaxalign.fit_pair(rows.x, rows.y, Ridge(l2=jax.numpy.asarray(l2)))
    assert_predicts(fit, rows, l2=l2)
