"""Fingerprints against scikit-learn, and whose rows they take for those of an encoder."""

import pathlib

import numpy as np
import pytest
from sklearn.covariance import LedoitWolf

from jaxalign import UserError
from jaxalign.core.people import published_split
from jaxalign.data import EmbeddingStore
from jaxalign.gallery import Fingerprint
from jaxalign.gallery.fingerprint import FALSE_ALARMS

RANDOM = np.random.default_rng(0)
MIXING, MEAN = RANDOM.normal(size=(24, 24)) * np.linspace(0.2, 2, 24), RANDOM.normal(size=24) * 3


def rows_of(people: int, seed: int, each: int = 3) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    latent = np.repeat(random.normal(size=(people, 24)), each, axis=0) + random.normal(
        size=(people * each, 24)
    )
    return latent @ MIXING + MEAN, np.repeat(np.arange(people), each)


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture(scope="module", params=["l2", "none"])
def fingerprint(request) -> Fingerprint:
    return Fingerprint.of(*rows_of(400, 1), encoder="one", normalize=request.param)


@pytest.mark.parametrize("people", [6, 400])
@pytest.mark.parametrize("normalize", ["l2", "none"])
def test_distances_are_those_of_scikit_learn(people: int, normalize: str) -> None:
    rows, identities = rows_of(people, 2)  # 18 or 1,200 rows of width 24
    found = Fingerprint.of(rows, identities, encoder="one", normalize=normalize)
    assert (found.rows, found.people, found.width) == (3 * people, people, 24)
    scaled = unit(rows) if normalize == "l2" else rows
    oracle = LedoitWolf().fit(scaled)
    np.testing.assert_allclose(found.distances(rows), oracle.mahalanobis(scaled) / 24, rtol=1e-3)
    densities = -0.5 * oracle.mahalanobis(scaled) + 0.5 * np.linalg.slogdet(np.asarray(oracle.precision_))[1]
    np.testing.assert_allclose(found.likelihoods(rows), densities, rtol=1e-3, atol=1e-2)


def test_other_people_are_unlike_at_the_stated_rates(fingerprint: Fingerprint) -> None:
    others, _ = rows_of(4_000, 3)
    for rate in FALSE_ALARMS:
        error = np.sqrt(rate / fingerprint.people)  # of a share that as many independent people give
        assert abs(fingerprint.unlike(others, rate).mean() - rate) < 3 * error
    with pytest.raises(UserError, match=r"false_alarm.*0\.05"):
        fingerprint.unlike(others, 0.02)


def test_rows_of_zeros_are_unlike_and_stop_nothing(fingerprint: Fingerprint) -> None:
    rows, _ = rows_of(20, 4)
    rows[3] = 0
    assert fingerprint.problem(rows) is None
    if fingerprint.normalize == "l2":
        assert np.isinf(fingerprint.distances(rows)[3]) and fingerprint.unlike(rows)[3]
        assert "zero" in (fingerprint.problem(0 * rows) or "")


@pytest.mark.parametrize("count", [1, 2, 5, 100, 5_000])
def test_rows_of_the_encoder_pass_and_others_do_not(fingerprint: Fingerprint, count: int) -> None:
    rows = rows_of(2_000, 5)[0][:count]
    turned = rows @ np.linalg.qr(RANDOM.normal(size=(24, 24)))[0]
    assert fingerprint.problem(rows) is None
    assert fingerprint.problem(rows.astype(np.float16)) is None
    assert "one" in (fingerprint.problem(turned) or "")
    assert "width 23" in (fingerprint.problem(rows[:, 1:]) or "")
    scaled_first = fingerprint.normalize == "l2"
    assert (fingerprint.problem(unit(rows)) is None) == scaled_first
    assert (fingerprint.problem(rows * 100) is None) == scaled_first
    assert (fingerprint.problem(rows / 100) is None) == scaled_first


def test_unit_rows_are_known_from_rows_with_lengths() -> None:
    rows, identities = rows_of(50, 6)
    of_unit = Fingerprint.of(unit(rows), identities, encoder="one", normalize="none")
    assert of_unit.problem(unit(rows)) is None and of_unit.unit == 1
    assert of_unit.problem(unit(rows).astype(np.float16)) is None
    for few in (rows, rows[:1]):
        assert "length 1" in (of_unit.problem(few) or "")


@pytest.mark.parametrize("count", [1, 200])
def test_rows_of_the_other_encoder_of_equal_width_are_named(fingerprint: Fingerprint, count: int) -> None:
    rows, identities = rows_of(400, 7)
    near = Fingerprint.of(rows * 0.9 + 0.3, identities, encoder="two", normalize=fingerprint.normalize)
    foreign = rows_of(400, 8)[0][:count] * 0.9 + 0.3
    assert near.problem(foreign, fingerprint) is None
    far = Fingerprint.of(rows[:, ::-1], identities, encoder="two", normalize=fingerprint.normalize)
    assert "rows of two" in (fingerprint.problem(rows[:count, ::-1], far) or "")


@pytest.mark.parametrize(
    ("change", "word"),
    [({"normalize": "l1"}, "normalize"), ({"rows": np.ones((30, 4))}, "differ"), ({"rows": np.zeros((30, 4))}, "zero"),
     ({"rows": np.full((30, 4), np.nan)}, "NaN"), ({"identities": np.zeros(30)}, "people"),
     ({"identities": np.zeros(3)}, "identit")],
)  # fmt: skip
def test_rows_that_have_no_moments_are_refused(change: dict, word: str) -> None:
    given = {
        "rows": RANDOM.normal(size=(30, 4)),
        "identities": np.arange(30),
        "encoder": "one",
        "normalize": "l2",
    }
    with pytest.raises(UserError, match=word):
        Fingerprint.of(**{**given, **change})


def test_real_rows(lfw_dev: pathlib.Path) -> None:
    """Honest batches, of other people, and those of a network that shares the width and most of the weights."""
    store, width = EmbeddingStore.open(lfw_dev), 192
    split = published_split(store.identities, 42)
    names = ("mobilefacenet", "mobilefacenet_asshipped")
    train, test = (
        {name: np.asarray(store[name], np.float32)[side] for name in names}
        for side in (split.train, split.test)
    )
    people = np.asarray(store.identities)[split.train]
    one, other = (Fingerprint.of(train[name], people, encoder=name, normalize="l2") for name in names)
    honest, foreign = (test[name][RANDOM.permutation(len(split.test))] for name in names)
    turned = honest @ np.linalg.qr(RANDOM.normal(size=(width, width)))[0]
    for count, most in ((1, 0.01), (10, 0.01), (100, 0)):
        starts = range(0, 1_000 if count < 100 else len(honest) - count, count)
        assert np.mean([one.problem(honest[at : at + count], other) is not None for at in starts]) <= most
        assert all(one.problem(turned[at : at + count], other) for at in range(0, 10 * count, count))
        assert all(
            "asshipped" in (one.problem(foreign[at : at + count], other) or "")
            for at in range(0, 10 * count, count)
        )
