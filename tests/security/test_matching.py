"""Matching of two collections without known pairs: planted orders and rotations are found, or chance is."""

import numpy as np
import pytest
from scipy.stats import ortho_group

from jaxalign import UserError
from jaxalign.security import matching
from jaxalign.security.keys import procrustes
from jaxalign.security.matching import Guess, Space

WIDTH = 10
ROTATION = ortho_group.rvs(WIDTH, random_state=0)
SCALES = np.linspace(1.5, 0.5, WIDTH)


def two_networks(count: int, seed: int, noise: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """The same photographs under two networks: rotated, with another mean, and not quite alike."""
    random = np.random.default_rng(seed)
    latent = random.gamma(1.0, size=(count, WIDTH)) * SCALES
    return latent + 0.2, latent @ ROTATION - 0.4 + noise * random.normal(size=latent.shape)


X, Y = two_networks(80, 1)
ORDER = np.random.default_rng(2).permutation(
    80
)  # the order of y: row i of the shuffled y is row ORDER[i] of x
SHUFFLED = Y[ORDER]
PLACE = np.argsort(ORDER)  # where row i of x is in the shuffled y
TEST = two_networks(200, 3)


def rate(guess: Guess, x: np.ndarray, y: np.ndarray) -> float:
    spaces = Space.of(x), Space.of(y)
    who = np.arange(200)
    return float(matching.recognised(guess, spaces, (TEST[0], who), (TEST[1], who)).mean())


def seeds_of(count: int) -> np.ndarray:
    return np.stack([np.arange(count), PLACE[:count]], axis=1)


def test_scores_and_neighbours_are_those_of_loops() -> None:
    cosines = np.random.default_rng(0).normal(size=(7, 9))
    scores = matching.cohort_centred(cosines, top=3)
    for i in range(7):
        for j in range(9):
            near = sorted(cosines[i])[-3:], sorted(cosines[:, j])[-3:]
            assert scores[i, j] == pytest.approx(cosines[i, j] - np.mean(near[0]) / 2 - np.mean(near[1]) / 2)
    expected = [
        (i, j)
        for i in range(7)
        for j in range(9)
        if scores[i, j] == scores[i].max() and scores[i, j] == scores[:, j].max()
    ]
    assert [tuple(pair) for pair in matching.mutual_neighbours(scores)] == expected
    assert matching.cohort_centred(cosines, top=50).shape == (7, 9)  # fewer rows than the cohort asks for


def test_order_of_the_same_photographs_is_found() -> None:
    guesses = list(matching.same_photographs(X, SHUFFLED, seeds_of(4), restarts=3))
    assert [guess.restart for guess in guesses] == [0, 1, 2]
    assert guesses[0].agreement > 0.9 and rate(guesses[0], X, SHUFFLED) > 0.95
    exact = procrustes(Space.of(X).rows, Space.of(Y).rows)
    np.testing.assert_allclose(guesses[0].weights, exact, atol=1e-10)
    again = list(matching.same_photographs(X, SHUFFLED, seeds_of(4), restarts=3))
    np.testing.assert_array_equal(again[2].weights, guesses[2].weights)


def test_profiles_find_the_order_without_seeds_where_networks_are_nearly_alike() -> None:
    x, y = two_networks(80, 4, noise=0.01)
    guess = next(matching.same_photographs(x, y[ORDER], restarts=1))
    assert rate(guess, x, y) > 0.95


def test_agreement_tells_a_right_guess_from_a_wrong_one() -> None:
    x, y = two_networks(80, 5, noise=0.3)
    guesses = [*matching.same_photographs(x, y[ORDER], restarts=6, seed=1)]
    guesses += matching.same_photographs(x, y[ORDER], seeds_of(6), restarts=1)
    rates = [rate(guess, x, y) for guess in guesses]
    best = max(guesses, key=lambda guess: guess.agreement)
    assert rate(best, x, y) > 0.9
    assert min(rates) < 0.1  # some restart fails, and says so


def test_refinement_keeps_seeds_and_mends_a_poor_start() -> None:
    one, other = Space.of(X), Space.of(SHUFFLED)
    start = procrustes(one.rows[:6], other.rows[PLACE[:6]])
    before = matching.refine(start, one, other, steps=0)
    np.testing.assert_array_equal(before.weights, start)
    after = matching.refine(start, one, other, seeds_of(6), steps=20)
    assert before.agreement < after.agreement > 0.9
    assert rate(before, X, SHUFFLED) < 0.8 < rate(after, X, SHUFFLED)


def test_different_people_are_matched_by_seeds_and_only_by_chance_without() -> None:
    x, _ = two_networks(150, 6)
    _, y = two_networks(150, 7)
    rates = {}
    for count in (3, 12, 80):
        rows = np.arange(150, 150 + count)
        seeded = np.vstack([x, X[:count]]), np.vstack([y, Y[:count]])
        (guess,) = matching.different_people(*seeded, np.stack([rows, rows], axis=1))
        rates[count] = rate(guess, *seeded)
    assert 0.01 < rates[3] < rates[12] and rates[80] > 0.9
    guesses = list(matching.different_people(x, y, anchors=12, restarts=3, seed=3))
    assert len(guesses) == 3 and np.median([rate(guess, x, y) for guess in guesses]) < 0.3
    for guess in guesses:
        np.testing.assert_allclose(guess.weights @ guess.weights.T, np.eye(WIDTH), atol=1e-10)


def test_moments_find_a_rotation_of_one_cloud_whatever_its_order() -> None:
    x = two_networks(300, 8)[0]
    y = x[np.random.default_rng(0).permutation(300)] @ ROTATION
    (guess,) = matching.different_people(x, y, start="moments")
    np.testing.assert_allclose(guess.weights, ROTATION, atol=1e-8)
    assert guess.agreement > 0.999


def test_widths_may_differ() -> None:
    guess = next(matching.same_photographs(X, SHUFFLED[:, :7], seeds_of(20), restarts=1))
    assert guess.weights.shape == (WIDTH, 7)
    guess = next(matching.different_people(X[:, :6], SHUFFLED, anchors=8, restarts=1))
    assert guess.weights.shape == (6, WIDTH)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: matching.same_photographs(X, SHUFFLED[1:]), "80 and 79"),
        (lambda: matching.same_photographs(X, SHUFFLED, np.array([[0, 80]])), "seeds.*79"),
        (lambda: matching.same_photographs(X, SHUFFLED, np.array([[0, 1], [0, 2]])), "none twice"),
        (lambda: matching.same_photographs(X, SHUFFLED, seeds_of(80)), "fewer than the 80"),
        (lambda: matching.same_photographs(X, SHUFFLED, restarts=0), "restarts"),
        (lambda: matching.different_people(X, Y, start="magic"), "magic"),
        (lambda: matching.different_people(X, Y, anchors=81), "2 to 80"),
        (lambda: matching.different_people(X[0], Y), "x: expected"),
    ],
)
def test_bad_input(call, words: str) -> None:
    with pytest.raises(UserError, match=words):
        next(call())
