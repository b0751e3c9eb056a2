"""Splits and folds: no person on both sides, every row once, the published people for a seed."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxalign.core.errors import UserError
from jaxalign.core.people import (
    identity_folds,
    limit_per_person,
    person_by_person,
    published_split,
    require_repeated_identities,
)
from jaxalign.data import EmbeddingStore

SEEDS = st.integers(0, 2**32 - 1)
PEOPLE = st.lists(st.sampled_from([f"p{number}" for number in range(12)]), min_size=1, max_size=60)


def published_rows(identities, seed, fraction=0.7):
    """The published recipe as one would write it with a dictionary; train rows, test rows."""
    people = sorted(set(identities))
    np.random.RandomState(seed).shuffle(people)
    train = set(people[: int(fraction * len(people))])
    rows = {}
    for row, person in enumerate(identities):
        rows.setdefault(person, []).append(row)
    sides = [[row for person in rows if (person in train) == side for row in rows[person]] for side in (1, 0)]
    return sides[0], sides[1]


def test_seed_42_trains_the_known_people():
    # numpy.random.RandomState(42).permutation(10) is 8 1 5 0 7 2 9 | 4 3 6.
    split = published_split([f"person{number}" for number in (3, 8, 6, 0, 4, 9, 1, 2, 7, 5, 3, 8)], 42)
    assert (split.train.tolist(), split.test.tolist()) == ([1, 11, 3, 5, 6, 7, 8, 9], [0, 10, 2, 4])
    assert split.seed == 42
    assert split.train.dtype == split.test.dtype == np.int64


@given(PEOPLE, SEEDS, st.floats(0.05, 0.95))
def test_split_is_the_published_recipe(identities, seed, fraction):
    train, test = published_rows(identities, seed, fraction)
    if not train:
        with pytest.raises(UserError, match="one side without people"):
            published_split(identities, seed, fraction)
        return
    split = published_split(identities, seed, fraction)
    assert (split.train.tolist(), split.test.tolist()) == (train, test)
    assert sorted(train + test) == list(range(len(identities)))
    assert not {identities[row] for row in train} & {identities[row] for row in test}


@given(PEOPLE.filter(lambda people: len(set(people)) > 1), SEEDS, st.randoms())
def test_order_of_rows_does_not_change_who_trains(identities, seed, random):
    moved = identities.copy()
    random.shuffle(moved)
    before, after = published_split(identities, seed), published_split(moved, seed)
    assert {identities[row] for row in before.train} == {moved[row] for row in after.train}


@pytest.mark.parametrize("seed", [42, 123, 217, 7, 531])
def test_lfw_dev_has_the_published_people(shared, lfw_dev, seed):
    identities = EmbeddingStore.open(lfw_dev, encoders=["dlib_resnet"], verify=False).identities
    split = published_split(identities, seed)
    train, test = published_rows(identities.tolist(), seed)
    assert (split.train.tolist(), split.test.tolist()) == (train, test)
    if seed == 42:
        rows = json.loads((shared / "data" / "reference.json").read_text())["rows"]
        assert {(row["train_rows"], row["test_rows"]) for row in rows} == {(len(train), len(test))}
        assert (len(train), len(test)) == (4426, 1688)


@given(PEOPLE, st.integers(2, 8), SEEDS)
def test_folds_keep_people_whole_and_are_even(identities, folds, seed):
    people = np.unique(identities)
    if len(people) < folds:
        with pytest.raises(UserError, match=f"fewer people than folds: {len(people)} people"):
            identity_folds(identities, folds, seed)
        return
    fold = identity_folds(identities, folds, seed)
    assert (fold.dtype, fold.shape) == (np.int32, (len(identities),))
    for person in people:
        assert len(set(fold[np.array(identities) == person])) == 1
    sizes = np.bincount(fold, minlength=folds)
    assert len(sizes) == folds and sizes.min() > 0
    # Dealing the largest first to the emptiest never leaves two folds further apart than one person's rows.
    assert sizes.max() - sizes.min() <= max(identities.count(person) for person in people)
    assert (fold == identity_folds(identities, folds, seed)).all()


def test_folds_depend_on_the_seed_only_and_differ_between_seeds():
    identities = np.repeat(np.arange(50), 3)
    patterns = {identity_folds(identities, 5, seed).tobytes() for seed in range(5)}
    assert len(patterns) == 5 and identity_folds(identities, 5).tobytes() in patterns


def test_folds_of_lfw_dev_are_even_in_spite_of_one_person_with_530_rows(lfw_dev):
    identities = EmbeddingStore.open(lfw_dev, encoders=["dlib_resnet"], verify=False).identities
    assert np.unique(identities, return_counts=True)[1].max() == 530
    assert sorted(np.bincount(identity_folds(identities, 5))) == [1222] + [1223] * 4


@given(PEOPLE, st.integers(1, 4), st.data())
def test_first_rows_of_a_person_are_kept_in_order(identities, most, data):
    rows = data.draw(st.permutations(range(len(identities))))[: data.draw(st.integers(0, len(identities)))]
    kept, seen = [], dict.fromkeys(identities, 0)
    for row in rows:
        seen[identities[row]] += 1
        if seen[identities[row]] <= most:
            kept.append(row)
    assert limit_per_person(rows, identities, most).tolist() == kept


def test_random_rows_of_a_person_are_kept_in_order_and_vary_with_the_seed():
    identities = np.repeat(["a", "b", "c"], [10, 2, 1])
    rows = np.arange(13)[::-1]
    chosen = {tuple(limit_per_person(rows, identities, 3, seed)) for seed in range(20)}
    assert len(chosen) > 10
    for kept in chosen:
        assert sorted(kept, reverse=True) == list(kept)
        assert [sum(identities[list(kept)] == person) for person in "abc"] == [3, 2, 1]


def test_rows_go_person_by_person_in_order_of_first_appearance():
    assert person_by_person(np.array([2, 0, 2, 1, 0])).tolist() == [0, 2, 1, 4, 3]


@pytest.mark.parametrize(
    ("function", "arguments", "words"),
    [
        (published_split, ([], 1), "one label for each row"),
        (published_split, ([["a", "b"]], 1), "one label for each row"),
        (published_split, (["a", "b"], -1), "seed"),
        (published_split, (["a", "b"], 2**32), "seed"),
        (published_split, (["a", "b"], 1, 0.0), "between 0 and 1"),
        (published_split, (["a", "b"], 1, 1.0), "between 0 and 1"),
        (published_split, (["a", "b"], 1, 0.3), "2 people of whom 0.3 train"),
        (published_split, (["a", "a"], 1), "1 people of whom 0.7 train"),
        (identity_folds, (["a", "b"], 1), "at least 2 folds, got 1"),
        (limit_per_person, ([0], ["a"], 0), "got 0"),
        (limit_per_person, ([1], ["a"], 1), "from 0 to 0, got 1"),
        (limit_per_person, ([-1], ["a"], 1), "from 0 to 0, got -1"),
        (require_repeated_identities, (["a", "b", "c"], "store 'lfw'"), "store 'lfw': each of the 3 people"),
    ],
)
def test_bad_arguments_are_a_sentence(function, arguments, words):
    require_repeated_identities(["a", "b", "a"])
    with pytest.raises(UserError, match=words):
        function(*arguments)
