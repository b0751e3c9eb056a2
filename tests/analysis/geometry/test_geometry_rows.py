"""Measures that need rows, against scipy, scikit-learn and, where installed, scikit-dimension and rsatoolbox."""

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
from geometry_clouds import CLOUDS, ROWS, centred, identities, make, spearman
from scipy.spatial.distance import pdist
from sklearn.neighbors import NearestNeighbors

from jaxalign import Moments, UserError
from jaxalign.analysis import geometry
from jaxalign.analysis.geometry.person_scatter import person_means
from jaxalign.analysis.geometry.spectral import first_component_share, principal_axes


@pytest.mark.parametrize("cloud", [*CLOUDS, "ties"])
def test_rsa_is_spearman_over_pairwise_cosines(cloud):
    if cloud == "ties":  # rows of few different values: most cosines occur more than once
        random, eye = np.random.default_rng(0), np.eye(9)
        x, y = (eye[random.integers(0, 5, ROWS)] + eye[random.integers(0, 2, ROWS)] for _ in "xy")
    else:
        x, y = make(cloud)
    cosines = [np.round(1 - pdist(np.asarray(side, np.float64), "cosine"), 12) for side in (x, y)]
    assert geometry.rsa_spearman(x, y) == pytest.approx(spearman(*cosines), abs=1e-9)


def test_rsa_agrees_with_rsatoolbox():
    rsatoolbox = pytest.importorskip("rsatoolbox")
    x, y = make("tall")
    distances = [pdist(side, "cosine")[None] for side in (x, y)]
    rdms = [rsatoolbox.rdm.RDMs(each, dissimilarity_measure="cosine") for each in distances]
    theirs = rsatoolbox.rdm.compare(*rdms, method="spearman").item()
    assert geometry.rsa_spearman(x, y) == pytest.approx(theirs, abs=1e-9)


@pytest.mark.parametrize("cloud", ["tall", "wide", "huge_mean", "rank_deficient"])
def test_neighbours_are_those_of_scikit_learn(cloud):
    rows = np.concatenate([make(cloud)[0], make(cloud, seed=1)[0]])
    found = geometry.nearest_neighbours(rows, 7)
    distance, index = NearestNeighbors(n_neighbors=7, algorithm="brute").fit(centred(rows)).kneighbors()
    np.testing.assert_array_equal(found.index, index)
    np.testing.assert_allclose(found.distance, distance, rtol=1e-6)


def test_neighbours_by_cosine_and_across_tiles():
    rows = np.random.default_rng(0).normal(size=(600, 9))
    theirs = NearestNeighbors(n_neighbors=7, algorithm="brute", metric="cosine").fit(rows).kneighbors()[1]
    np.testing.assert_array_equal(geometry.nearest_neighbours(rows, 7, unit=True).index, theirs)


def test_duplicates_are_neighbours_in_order_of_rows():
    found = geometry.nearest_neighbours(np.repeat(np.eye(3), 3, axis=0), 2)
    np.testing.assert_array_equal(found.index[:3], [[1, 2], [0, 2], [0, 1]])
    np.testing.assert_array_equal(found.distance, 0)
    for dimension in (geometry.intrinsic_dimension_twonn, geometry.intrinsic_dimension_mle):
        assert np.isnan(dimension(found.distance))


def test_mutual_neighbours_by_hand_and_against_sets():
    x = np.array([[1, 2], [0, 2], [0, 1], [2, 1]])
    y = np.array([[1, 3], [2, 3], [1, 0], [2, 0]])
    assert geometry.mutual_neighbours(x, y) == (1 + 1 + 2 + 1) / 8
    assert geometry.mutual_neighbours(x, x) == 1
    near = [geometry.nearest_neighbours(side, 5, unit=True).index for side in make("tall")]
    theirs = np.mean([len(set(a) & set(b)) / 5 for a, b in zip(*map(np.ndarray.tolist, near))])
    assert geometry.mutual_neighbours(*near) == pytest.approx(theirs)


def test_hubness_is_scipys_skewness_of_occurrences():
    index = geometry.nearest_neighbours(make("tall")[0], 5).index
    theirs = scipy.stats.skew(np.bincount(index.ravel(), minlength=len(index)))
    assert geometry.hubness_skewness(index) == pytest.approx(theirs)
    assert np.isnan(geometry.hubness_skewness(np.array([[1], [2], [0]])))


@pytest.fixture(scope="module")
def cube():
    """1,000 rows of a cube of five dimensions in twelve columns, and distances to ten neighbours."""
    random = np.random.default_rng(0)
    rows = random.uniform(size=(1000, 5)) @ np.linalg.qr(random.normal(size=(12, 5)))[0].T
    return rows, geometry.nearest_neighbours(rows, 10).distance


def test_intrinsic_dimension_of_a_cube(cube):
    assert geometry.intrinsic_dimension_twonn(cube[1]) == pytest.approx(5, abs=0.5)
    assert geometry.intrinsic_dimension_mle(cube[1]) == pytest.approx(5, abs=0.6)


def test_intrinsic_dimension_agrees_with_scikit_dimension(cube):
    skdim = pytest.importorskip("skdim")
    rows, distance = cube
    assert geometry.intrinsic_dimension_twonn(distance) == pytest.approx(
        skdim.id.TwoNN().fit(rows).dimension_
    )
    theirs = skdim.id.MLE().fit(rows, n_neighbors=10, comb="mle").dimension_
    # Theirs sums over k neighbours, the last with a logarithm of zero, and divides by k − 1 as well.
    assert geometry.intrinsic_dimension_mle(distance) == pytest.approx(theirs)


def test_intrinsic_dimension_by_hand():
    distance = np.array([[1.0, np.e], [1.0, np.e**2], [0.0, 1.0]])
    assert geometry.intrinsic_dimension_mle(distance) == pytest.approx(1 / 1.5)
    # Of four rows two are kept: F = 1/4, 2/4 at log μ = 1, 2.
    ratios = np.exp([[0.0, 1.0], [0.0, 2.0], [0.0, 3.0], [0.0, 4.0]])
    slope = (1 * -np.log(0.75) + 2 * -np.log(0.5)) / 5
    assert geometry.intrinsic_dimension_twonn(ratios, discarded=0.5) == pytest.approx(slope)


def test_spectra_by_hand_and_of_rows():
    values = np.array([3.0, 1.0, 0.0])
    assert geometry.participation_ratio(values) == pytest.approx(16 / 10)
    assert first_component_share(values) == 0.75
    for measure in (geometry.participation_ratio, first_component_share):
        assert np.isnan(measure(np.zeros(3)))
    x, _ = make("constant_column")
    values = principal_axes(Moments.of({"x": x}), "x").values
    theirs = np.linalg.svd(centred(x), compute_uv=False) ** 2
    assert geometry.participation_ratio(values) == pytest.approx(theirs.sum() ** 2 / (theirs**2).sum())


def test_anisotropy_is_the_mean_cosine():
    x, _ = make("huge_mean")
    assert geometry.anisotropy(x) == pytest.approx(np.mean(1 - pdist(x, "cosine")), rel=1e-9)
    assert geometry.anisotropy(np.eye(4)) == 0 and np.isnan(geometry.anisotropy(np.zeros((4, 2))))


def test_person_scatter_is_analysis_of_variance():
    x, _ = make("tall")
    people = identities()
    groups = [x[people == person, 0] for person in np.unique(people)]
    found = geometry.person_scatter(x[:, :1], people)
    squares = found.between * 4 + found.within  # four photographs each: MS between
    assert squares / found.within == pytest.approx(scipy.stats.f_oneway(*groups).statistic)
    assert found.within == pytest.approx(np.mean([group.var(ddof=1) for group in groups]))
    # By hand, groups of 2 and 1: within (0 ± 1) / 1, MS between 2/3 · 9 ... n₀ = 3 − 5/3.
    found = geometry.person_scatter(np.array([[-1.0], [1.0], [3.0]]), ["a", "a", "b"])
    assert (found.within, found.between, found.ratio) == pytest.approx((2, 4 / (3 - 5 / 3), 2 / (3 - 5 / 3)))
    for few in ("abc", "aaa"):
        assert np.isnan(geometry.person_scatter(np.ones((3, 1)), list(few)).within)


def test_principal_angles_are_scipys():
    bases, theirs, people = [], [], identities()
    for side in make("tall"):
        bases.append(geometry.identity_subspace(person_means(side, people), 3))
        means = centred(np.stack([side[people == person].mean(axis=0) for person in np.unique(people)]))
        theirs.append(np.linalg.svd(means, full_matrices=False)[0][:, :3])
    angles = np.cos(scipy.linalg.subspace_angles(*theirs))[::-1]
    np.testing.assert_allclose(geometry.principal_cosines(*bases), angles, rtol=1e-9)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: geometry.nearest_neighbours(x, len(x)), "need at least 49 rows, got 48"),
        (lambda x: geometry.nearest_neighbours(x, 0), "at least 1"),
        (lambda x: geometry.identity_subspace(x[:4], 4), "got 4 people"),
        (lambda x: geometry.rsa_spearman(x[:2], x[:2]), "got 2 rows"),
        (lambda x: geometry.rsa_spearman(x, x[:9]), "same rows"),
        (lambda x: geometry.intrinsic_dimension_twonn(np.ones((4, 1))), "2 neighbours"),
        (lambda x: geometry.mutual_neighbours(np.ones((4, 2), int), np.ones((4, 1), int)), "same rows"),
        (lambda x: geometry.person_scatter(x, ["a"]), "one identity"),
    ],
)
def test_bad_input_is_a_sentence(call, words):
    with pytest.raises(UserError, match=words):
        call(make("tall")[0])
