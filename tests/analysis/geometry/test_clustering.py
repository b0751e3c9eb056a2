"""Trees of encoders, the test of families, and prediction, against scipy, scikit-learn, scikit-bio and by hand."""

import itertools
import json

import numpy as np
import pytest
from geometry_clouds import spearman
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform
from sklearn.cluster import AgglomerativeClustering

from jaxalign import UserError
from jaxalign.analysis.geometry import clustering, dendrogram, family_test, predict, rate_distances
from jaxalign.analysis.geometry.prediction import weighted_spearman

NAMES = ("a", "b", "c", "d", "e", "f")


def random_distances(count=6, seed=0):
    points = np.random.default_rng(seed).normal(size=(count, 3))
    return np.linalg.norm(points[:, None] - points, axis=2)


def test_a_tree_by_hand():
    """a and b at 2; then c, whose mean distance to them is (6 + 8) / 2."""
    found = dendrogram(("a", "b", "c"), [[0, 2, 6], [2, 0, 8], [6, 8, 0]])
    np.testing.assert_allclose(found.linkage, [[0, 1, 2, 2], [2, 3, 7, 3]])
    assert found.cophenetic == pytest.approx(np.corrcoef([2, 6, 8], [2, 7, 7])[0, 1])
    assert found.order in (("b", "a", "c"), ("c", "a", "b"))  # a is nearer to c


def test_heights_are_those_of_scikit_learn_and_the_cophenetic_correlation_is_scipys():
    distances = random_distances()
    found = dendrogram(NAMES, distances)
    options = {"n_clusters": None, "distance_threshold": 0, "metric": "precomputed", "linkage": "average"}
    theirs = AgglomerativeClustering(**options).fit(distances)  # pyright: ignore[reportArgumentType]
    np.testing.assert_allclose(found.linkage[:, 2], theirs.distances_)
    condensed = squareform(distances, checks=False)
    expected = hierarchy.cophenet(hierarchy.linkage(condensed, "average"), condensed)[0]
    assert found.cophenetic == pytest.approx(expected)
    assert np.isnan(dendrogram(NAMES[:3], 1 - np.eye(3)).cophenetic)  # equal distances


def test_the_published_tree_of_the_reference_numbers(shared):
    """100 − symmetrised rank-1 of orthogonal maps from the independent float64 script, clustered by scipy."""
    rows = json.loads((shared / "data" / "reference.json").read_text())["rows"]
    used = [row for row in rows if row["method"] == "orthogonal" and row["seed"] == 42]
    rates = {(row["source"], row["target"]): row["own_included"]["rank1"] for row in used}
    names = sorted({source for source, _ in rates})
    matrix = np.array([[rates.get((s, t), np.nan) for t in names] for s in names])
    found = dendrogram(names, rate_distances(matrix))
    condensed = [100 - 50 * (rates[a, b] + rates[b, a]) for a, b in itertools.combinations(names, 2)]
    np.testing.assert_allclose(found.linkage[:, 2], hierarchy.linkage(condensed, "average")[:, 2])
    np.testing.assert_allclose(clustering.source_means(matrix), [np.nanmean(line) for line in matrix])
    np.testing.assert_allclose(clustering.source_means(matrix.T), [np.nanmean(line) for line in matrix.T])


def test_who_is_nearest_to_how_many_and_who_is_left_out():
    """a has b and d as near; b has a; c has b; d has a. As few encoders as need be go for missing values."""
    distances = np.array([[0, 1, 5, 1], [1, 0, 4, 9], [5, 4, 0, 9], [1, 9, 9, 0]], float)
    np.testing.assert_allclose(clustering.nearest_counts(distances), [2, 1.5, 0, 0.5])
    matrix = np.zeros((4, 4))
    matrix[2, :] = matrix[:, 2] = np.nan
    assert clustering.complete("abcd", matrix) == ("a", "b", "d")
    np.fill_diagonal(matrix, np.nan)
    matrix[2] = matrix[:, 2] = 1
    assert clustering.complete("abcd", matrix) == ("a", "b", "c", "d")


def pseudo_f(distances, labels):
    """Anderson 2001, pair by pair."""
    count, groups = len(labels), len(set(labels))
    pairs = list(itertools.combinations(range(count), 2))
    total = sum(distances[i, j] ** 2 for i, j in pairs) / count
    within = sum(distances[i, j] ** 2 / labels.count(labels[i]) for i, j in pairs if labels[i] == labels[j])
    return ((total - within) / (groups - 1)) / (within / (count - groups))


def test_permanova_over_all_relabellings():
    distances, labels = random_distances(), list("xxxyyz")
    found = family_test(distances, labels)
    values = np.array([pseudo_f(distances, each) for each in set(itertools.permutations(labels))])
    assert found.exact and found.permutations == len(values) == 60
    assert found.statistic == pytest.approx(pseudo_f(distances, labels))
    assert found.p == pytest.approx(np.mean(values >= found.statistic - 1e-9))


def test_permanova_is_scikit_bios():
    distance = pytest.importorskip("skbio.stats.distance")
    distances, labels = random_distances(12, seed=3), list("xxxxyyyyzzzz")
    found = family_test(distances, labels, permutations=4999)
    theirs = distance.permanova(distance.DistanceMatrix(distances), labels, permutations=499, seed=1)
    assert not found.exact and found.statistic == pytest.approx(theirs["test statistic"])
    assert found.p == pytest.approx(theirs["p-value"], abs=0.08)


def test_planted_families_are_found_and_others_not():
    points = np.repeat([[0.0], [10.0]], 5, axis=0) + np.random.default_rng(0).normal(size=(10, 1))
    distances = np.abs(points - points.T)
    assert family_test(distances, list("xxxxxyyyyy")).p == pytest.approx(2 / 252)
    assert family_test(distances, list("xyxyxyxyxy")).p > 0.2
    # Of equal encoders the statistic is infinite, or says nothing.
    distances = 1.0 - np.kron(np.eye(2), np.ones((2, 2)))
    found = family_test(distances, list("xxyy"))
    assert (found.statistic, found.p) == (np.inf, pytest.approx(2 / 6))
    assert family_test(np.zeros((4, 4)), list("xxyy")).p == 1


def test_a_random_sample_never_gives_p_zero():
    differs = lambda codes: 0.0 - (codes != np.arange(9)).any(axis=1)  # noqa: E731
    found = clustering.permutation_test(differs, range(9), permutations=99, seed=0)
    assert not found.exact and found.p == 1 / 100 == found.least


def test_prediction_is_scipys_spearman_with_exact_mantel_p():
    random = np.random.default_rng(0)
    known = random.normal(size=(4, 4))
    known = known + known.T
    reached = known + 0.5 * random.normal(size=(4, 4))
    found = predict(known, reached)
    upper = np.triu_indices(4, 1)
    both = ((reached + reached.T) / 2)[upper]
    orders = itertools.permutations(range(4))
    values = [spearman(known[np.ix_(order, order)][upper], both) for order in orders]
    assert found.spearman == pytest.approx(values[0])
    assert found.p == pytest.approx(np.mean(np.abs(values) >= abs(values[0]) - 1e-9))
    assert found.pairs == 6 and np.isnan(found.low)


def test_weighted_spearman_is_that_of_repeated_pairs():
    random = np.random.default_rng(0)
    x, y = random.integers(0, 5, 15).astype(float), random.normal(size=15)
    times = random.integers(0, 4, (20, 15))
    theirs = [spearman(np.repeat(x, t), np.repeat(y, t)) for t in times]
    np.testing.assert_allclose(weighted_spearman(x, y, times), theirs)
    assert np.isnan(weighted_spearman(np.ones(3), y[:3], np.ones((1, 3)))[0])


def test_the_interval_is_wide_for_few_encoders_and_narrow_for_many():
    random = np.random.default_rng(0)
    width = {}
    for count in (6, 24):
        known = random.normal(size=(count, count))
        known = known + known.T
        found = predict(known, known + random.normal(size=(count, count)))
        assert found.low < found.spearman < found.high
        width[count] = found.high - found.low
    assert width[24] < width[6] / 2


def test_prediction_leaves_out_encoders_without_a_value():
    known = random_distances()
    missing = known.copy()
    missing[3] = missing[:, 3] = np.nan
    keep = [0, 1, 2, 4, 5]
    assert predict(missing, known) == predict(known[np.ix_(keep, keep)], known[np.ix_(keep, keep)])
    nothing = predict(np.full((4, 4), np.nan), np.zeros((4, 4)))
    assert np.isnan(nothing.spearman) and nothing.pairs == 0


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: dendrogram(("a", "b"), np.zeros((2, 2))), "at least 3 encoders, got 2: a, b"),
        (lambda: dendrogram(NAMES, np.zeros((3, 3))), r"shape \[6, 6\]"),
        (lambda: dendrogram(NAMES[:3], np.triu(np.ones((3, 3)), 1)), "symmetric"),
        (lambda: dendrogram(NAMES[:3], np.full((3, 3), np.nan)), "finite"),
        (lambda: family_test(random_distances(), "xxxxxx"), "at least two families"),
        (lambda: family_test(random_distances(), "uvwxyz"), "one of them with two encoders"),
        (lambda: clustering.labels_of({"x": ["q"]}, NAMES), "names an encoder 'q' that is not there"),
        (lambda: clustering.labels_of({"x": ["a"], "y": ["a"]}, NAMES), "'a' is in two families"),
        (lambda: clustering.labels_of({"x": ["a", "b"]}, ("a", "b", "c")), "no family has the encoder 'c'"),
        (lambda: predict(np.zeros((2, 2)), np.zeros((2, 2))), "at least 3 encoders"),
    ],
)
def test_bad_input_is_a_sentence(call, words):
    with pytest.raises(UserError, match=words):
        call()
