"""Rows in another order are noticed; encoders that have little in common are not taken for that."""

import numpy as np
import pytest

from jaxalign.analysis.row_order import agreement, order_warnings, unlike_pairs
from jaxalign.data import EmbeddingStore

PEOPLE, EACH = 250, 2


def encoders(noise: float, seed: int = 0) -> dict[str, np.ndarray]:
    """Two views of the same photographs, of unequal widths; the noise decides how little they have in common."""
    random = np.random.default_rng(seed)
    seen = np.repeat(random.normal(size=(PEOPLE, 8)), EACH, axis=0) + random.normal(size=(PEOPLE * EACH, 8))
    return {
        name: seen @ random.normal(size=(8, width)) + noise * random.normal(size=(PEOPLE * EACH, width))
        for name, width in (("a", 24), ("b", 40), ("c", 32))
    }


IDENTITIES = np.repeat([f"p{k:03}" for k in range(PEOPLE)], EACH)
PERMUTED = {
    "rows": np.random.default_rng(1).permutation(PEOPLE * EACH),
    "people": np.arange(PEOPLE * EACH)[::-1],
}


def found(rows: dict[str, np.ndarray], identities: np.ndarray = IDENTITIES) -> list[tuple[str, str]]:
    return unlike_pairs(lambda at: {name: array[at] for name, array in rows.items()}, identities)


def test_agreement_is_that_of_permutations():
    random = np.random.default_rng(3)
    x, y = random.normal(size=(30, 4)), random.normal(size=(30, 3)) ** 3
    one, other = ((z - z.mean(0)) @ (z - z.mean(0)).T for z in (x, y + x[:, :3]))
    orders = [random.permutation(30) for _ in range(20_000)]
    drawn = [(one * other[np.ix_(order, order)]).sum() for order in orders]
    expected = ((one * other).sum() - np.mean(drawn)) / np.std(drawn)
    np.testing.assert_allclose(agreement(one, other), expected, rtol=0.03)


@pytest.mark.parametrize("noise", [0.0, 8.0])
def test_rows_that_belong_together_are_not_named(noise):
    assert found(encoders(noise)) == []


@pytest.mark.parametrize("order", PERMUTED)
def test_rows_in_another_order_are_named(order):
    rows = encoders(1.0)
    rows["b"] = rows["b"][PERMUTED[order]]
    pairs = found(rows)
    assert pairs == [("a", "b"), ("b", "c")]
    (sentence,) = order_warnings(pairs, list(rows))
    assert "rows of b and" in sentence and "do not seem to belong together" in sentence


@pytest.mark.parametrize(
    "count, working, named",
    [(198, "", False), (198, "ab", True), (198, "ac", False), (76, "abc", True), (74, "abc", False)],
)
def test_few_rows_are_enough_of_encoders_that_work(count, working, named):
    rows = {name: array[:count] for name, array in encoders(1.0).items()}
    rows["b"] = rows["b"][np.random.default_rng(1).permutation(count)]
    pairs = unlike_pairs(
        lambda at: {name: array[at] for name, array in rows.items()}, IDENTITIES[:count], list(working)
    )
    assert (("a", "b") in pairs) == named and ("a", "c") not in pairs


def test_real_encoders(lfw_dev):
    store = EmbeddingStore.open(lfw_dev)
    read = lambda at: {name: np.asarray(store[name])[at] for name in store.encoders}  # noqa: E731
    identities = np.asarray(store.identities)
    assert unlike_pairs(read, identities) == []
    order = np.random.default_rng(0).permutation(store.rows)
    bad = lambda at: {**read(at), "faceres": np.asarray(store["faceres"])[order[at]]}  # noqa: E731
    (sentence,) = order_warnings(unlike_pairs(bad, identities), store.encoders)
    assert "rows of faceres and" in sentence
