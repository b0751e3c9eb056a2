"""Attacks on keys against SciPy and scikit-learn, and how many pairs the keys fall to, exactly."""

import itertools

import numpy as np
import pytest
import scipy.linalg
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score

from jaxalign import UserError
from jaxalign.security import keys
from jaxalign.security.keys import KINDS, Key

WIDTH = 24


def people(count: int, each: int, seed: int, width: int = WIDTH) -> tuple[np.ndarray, np.ndarray]:
    """Templates of length 1 that share a mean, and who they are."""
    random = np.random.default_rng(seed)
    rows = np.repeat(random.normal(size=(count, width)), each, axis=0) + 0.5
    rows += 0.4 * random.normal(size=rows.shape)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True), np.repeat(np.arange(count), each)


KNOWN, WHO = people(150, 2, 1)
VICTIMS, VICTIM_NAMES = people(40, 3, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_keys_are_what_they_say(kind: str) -> None:
    key = Key.make(kind, WIDTH, 7)
    np.testing.assert_array_equal(key.matrix, Key.make(kind, WIDTH, 7).matrix)
    assert key.error(Key.make(kind, WIDTH, 8)) > 0.5
    gram = key.matrix.T @ key.matrix
    if kind != "projection":
        np.testing.assert_allclose(gram, np.eye(len(gram)), atol=1e-12)
    if kind == "sign_permutation":
        assert set(np.unique(key.matrix)) == {-1, 0, 1} and (np.abs(key.matrix).sum(0) == 1).all()
    protected = key.protect(VICTIMS)
    if kind == "sign_codes":
        np.testing.assert_array_equal(protected, np.sign(VICTIMS @ key.matrix))
        assert protected.shape == (120, WIDTH // 2)
    if kind in ("orthogonal", "sign_permutation"):
        np.testing.assert_allclose(protected @ protected.T, VICTIMS @ VICTIMS.T, atol=1e-12)


def test_attacks_are_those_of_scipy_and_scikit_learn() -> None:
    plain, protected = KNOWN[:60], KNOWN[:60] @ Key.make("projection", WIDTH, 3).matrix
    square = np.random.default_rng(0).normal(size=(60, WIDTH))
    codes = Key.make("sign_codes", WIDTH, 3, size=3).protect(plain)
    expected = scipy.linalg.orthogonal_procrustes(plain, square)[0]
    np.testing.assert_allclose(keys.procrustes(plain, square), expected, atol=1e-10)
    few = plain[:9], protected[:9]
    np.testing.assert_allclose(keys.least_squares(*few), scipy.linalg.pinv(few[0]) @ few[1], atol=1e-10)
    oracle = Ridge(alpha=keys.RIDGE, fit_intercept=False).fit(plain, protected)
    np.testing.assert_allclose(keys.ridge(plain, protected), oracle.coef_.T, atol=1e-10)
    for column, found in enumerate(keys.logistic(plain, codes).T):
        model = LogisticRegression(C=1 / keys.RIDGE, fit_intercept=False, tol=1e-8).fit(
            plain, codes[:, column]
        )
        np.testing.assert_allclose(found, model.coef_[0], atol=1e-3)


def test_assignment_finds_the_best_signed_permutation() -> None:
    plain, protected = np.random.default_rng(1).normal(size=(2, 5, 4))
    every = [
        np.eye(4)[list(order)] * signs
        for order in itertools.permutations(range(4))
        for signs in itertools.product([-1, 1], repeat=4)
    ]
    least = min(np.linalg.norm(plain @ matrix - protected) for matrix in every)
    found = keys.assignment(plain, protected)
    assert np.linalg.norm(plain @ found - protected) == pytest.approx(least, abs=1e-12)


def test_an_orthogonal_key_falls_to_exactly_as_many_pairs_as_its_width() -> None:
    key = Key.make("orthogonal", WIDTH, 5)
    plain, protected = keys.known_pairs(key, KNOWN, WHO)
    found = {
        attempt.pairs: attempt
        for attempt in keys.attempts(
            key, (plain, protected), VICTIMS, 0.9, [WIDTH - 2, WIDTH - 1, WIDTH], ["procrustes"]
        )
    }
    assert [found[WIDTH - left].undetermined for left in (2, 1, 0)] == [2, 1, 0]
    assert found[WIDTH].error < 1e-9
    # One pair less leaves the key and its reflection along the one direction that is not spanned, and no third:
    # what fits is orthogonal, agrees on the span, and maps a line to a line.
    left = scipy.linalg.null_space(plain[: WIDTH - 1])
    reflected = key.matrix - 2 * left @ left.T @ key.matrix
    for matrix in (key.matrix, reflected):
        np.testing.assert_allclose(plain[: WIDTH - 1] @ matrix, protected[: WIDTH - 1], atol=1e-12)
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(WIDTH), atol=1e-12)
    apart = 2 / WIDTH**0.5  # relative Frobenius distance of the two
    assert key.error(Key("orthogonal", reflected)) == pytest.approx(apart)
    assert min(found[WIDTH - 1].error, abs(found[WIDTH - 1].error - apart)) < 1e-6
    assert np.linalg.det(reflected) == pytest.approx(-np.linalg.det(key.matrix))
    # Two less leave a circle of rotations: any angle in the plane that is not spanned.
    plane = scipy.linalg.null_space(plain[: WIDTH - 2])
    for angle in (0.5, 2.0):
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) - np.eye(2)
        matrix = key.matrix + plane @ turn @ plane.T @ key.matrix
        np.testing.assert_allclose(plain[: WIDTH - 2] @ matrix, protected[: WIDTH - 2], atol=1e-12)
        assert key.error(Key("orthogonal", matrix)) > 0.1


@pytest.mark.parametrize(
    ("kind", "attack", "least"),
    [
        ("orthogonal", "least_squares", WIDTH),
        ("projection", "least_squares", WIDTH),
        ("sign_permutation", "assignment", 1),
        ("sign_permutation", "least_squares", WIDTH),
        ("sign_codes", "logistic", None),
    ],
)
def test_noise_free_pairs_that_determine_a_key(kind: str, attack: str, least: int | None) -> None:
    key = Key.make(kind, WIDTH, 6)
    pairs = [1, 2, WIDTH - 1, WIDTH, WIDTH + 1, 300]
    found = keys.attempts(key, keys.known_pairs(key, KNOWN, WHO), VICTIMS, 0.9, pairs, [attack])
    assert keys.pairs_to_break(found, error=1e-6) == {attack: least}


@pytest.mark.parametrize("kind", KINDS)
def test_noise_makes_attacks_worse_and_does_not_save_a_key(kind: str) -> None:
    key = Key.make(kind, WIDTH, 9)
    threshold = keys.keyed_threshold(key, VICTIMS, VICTIM_NAMES, 0.05)
    pairs = [1, 4, 8, 12, 24, 48, 96, 150]
    for noise in (0.5, keys.OTHER_IMAGE):
        known = keys.known_pairs(key, KNOWN, WHO, noise)
        tried = list(keys.attempts(key, known, VICTIMS, threshold, pairs))
        exact = list(keys.attempts(key, keys.known_pairs(key, KNOWN, WHO), VICTIMS, threshold, pairs))
        assert any(keys.pairs_to_break(tried, accepted=0.8).values())  # some attack succeeds in the end
        for noisy, free in zip(tried, exact):
            assert noisy.error >= free.error - 1e-12 or noisy.pairs <= WIDTH
        shares = [np.mean([a.accepted.mean() for a in tried if a.pairs == number]) for number in pairs]
        assert shares[0] < 0.5 < shares[-1]


def test_threshold_of_a_keyed_system_holds_its_rate() -> None:
    key = Key.make("projection", WIDTH, 4)
    rows = key.protect(VICTIMS)
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    strangers = (rows @ rows.T)[VICTIM_NAMES[:, None] != VICTIM_NAMES]
    threshold = keys.keyed_threshold(key, VICTIMS, VICTIM_NAMES, 0.01)
    assert 0.0098 < np.mean(strangers >= threshold) <= 0.01


def test_known_pairs_of_other_photographs_are_of_one_person() -> None:
    rows, who = people(30, 3, 5)
    rows, who = (
        np.vstack([rows, people(1, 1, 6)[0]]),
        np.append(who, 99),
    )  # the last person has one photograph
    plain, protected = keys.known_pairs(Key("projection", np.eye(WIDTH)), rows, who, keys.OTHER_IMAGE)
    places = [[np.flatnonzero((rows == row).all(1))[0] for row in side] for side in (plain, protected)]
    assert len(plain) == 60 and not np.intersect1d(places[0], [90]).size
    assert (who[places[0]] == who[places[1]]).all() and (np.array(places[0]) != places[1]).all()
    assert len(set(zip(*places))) == 60


def test_links_between_two_keys_of_one_person() -> None:
    one, other = (Key.make("sign_permutation", WIDTH, seed).protect(VICTIMS) for seed in (1, 2))
    first, second = (Key.make("sign_permutation", WIDTH, seed).protect(KNOWN) for seed in (1, 2))
    area = {}
    for link in keys.LINKS:
        mated, strangers = keys.link_scores(
            one, other, VICTIM_NAMES, link, (first, second) if link == "pairs" else None
        )
        assert len(mated) == 120 * 2 and len(strangers) == 120 * 117
        area[link] = roc_auc_score(np.repeat([1, 0], [240, 120 * 117]), np.append(mated, strangers))
    assert abs(area["cosine"] - 0.5) < 0.1 and area["sorted"] > 0.6 and area["pairs"] > 0.99
    mated, _ = keys.link_scores(one, other, VICTIM_NAMES, "sorted")
    pairs = [(i, j) for i in range(120) for j in range(120) if i // 3 == j // 3 and i != j]
    expected = [np.sort(np.abs(VICTIMS[i])) @ np.sort(np.abs(VICTIMS[j])) for i, j in pairs]
    np.testing.assert_allclose(np.sort(mated), np.sort(expected), atol=1e-12)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Key.make("rot13", WIDTH, 0), "rot13"),
        (lambda: Key.make("orthogonal", WIDTH, 0, size=5), "24"),
        (lambda: Key.make("sign_codes", WIDTH, 0, size=25), "1 to 24"),
        (lambda: Key.make("orthogonal", WIDTH, -1), "seed"),
        (lambda: keys.known_pairs(KEY, KNOWN, WHO, -0.1), "noise"),
        (lambda: keys.known_pairs(KEY, KNOWN[::2], WHO[::2], keys.OTHER_IMAGE), "two photographs"),
        (lambda: list(keys.attempts(KEY, (KNOWN, KNOWN), VICTIMS, 0.5, [301])), "301.*300"),
        (lambda: list(keys.attempts(KEY, (KNOWN, KNOWN), VICTIMS, 0.5, [3], ["magic"])), "magic"),
        (lambda: keys.keyed_threshold(KEY, VICTIMS, VICTIM_NAMES, 1e-4), "0.0001"),
        (lambda: keys.link_scores(KNOWN, KNOWN, WHO, "pairs"), "known pairs"),
        (lambda: keys.link_scores(KNOWN, KNOWN[:, 1:], WHO), "23"),
    ],
)
def test_bad_input(call, words: str) -> None:
    with pytest.raises(UserError, match=words):
        call()


KEY = Key.make("orthogonal", WIDTH, 0)
