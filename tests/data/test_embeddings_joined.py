"""Stores side by side: rows matched by sample id, and what does not match refused."""

import numpy as np
import pytest

from jaxalign import EmbeddingStore, UserError
from jaxalign.data import join

IDS = np.array(["a", "b", "c", "d", "e"])
PEOPLE = np.array(["x", "x", "y", "y", "z"])


def make(path, names, order, people=PEOPLE, ids=IDS):
    """A store whose row for sample k is filled with k, rows in the order given."""
    order = np.asarray(order)
    rows = {
        name: np.repeat(order[:, None] + 10.0 * width, width, 1).astype(np.float32)
        for name, width in names.items()
    }
    return EmbeddingStore.create(path, rows, people[order], sample_ids=ids[order])


def test_rows_are_matched_by_sample_id(tmp_path):
    first = make(tmp_path / "first", {"p": 2}, [0, 1, 2, 3, 4])
    second = make(tmp_path / "second", {"q": 3, "r": 4}, [4, 2, 0, 3])
    both = join([first, second])
    assert both.encoders == ("p", "q", "r")
    assert both.sample_ids.tolist() == ["a", "c", "d", "e"]
    assert both.identities.tolist() == ["x", "y", "y", "z"]
    assert both.dims == {"p": 2, "q": 3, "r": 4}
    assert both.checksums == {**first.checksums, **second.checksums}
    for name, width in both.dims.items():
        assert both[name].tolist() == [[k + 10.0 * width] * width for k in (0, 2, 3, 4)]
    assert join([first, second], encoders=["r", "p", "q"]).encoders == ("r", "p", "q")
    taken = both.take([3, 0])
    assert {name: rows[:, 0].tolist() for name, rows in taken.items()} == {
        "p": [24.0, 20.0],
        "q": [34.0, 30.0],
        "r": [44.0, 40.0],
    }


def test_the_same_rows_stay_memory_mapped(tmp_path):
    stores = [make(tmp_path / name, {name: 2}, range(5)) for name in ("p", "q")]
    assert all(isinstance(join(stores)[name], np.memmap) for name in ("p", "q"))
    assert join(stores[:1]) is stores[0]


@pytest.mark.parametrize(
    ("name", "people", "ids", "words"),
    [
        ("p", PEOPLE, IDS, "already an encoder 'p'"),
        (
            "q",
            np.array(["x", "y", "y", "y", "z"]),
            IDS,
            r"1 photographs under two people \(first: 'b' is 'x' and 'y'",
        ),
        ("q", PEOPLE, np.char.upper(IDS), r"no sample id in common; theirs begin with 'a' and 'A'"),
    ],
)
def test_what_does_not_match_is_refused(tmp_path, name, people, ids, words):
    first = make(tmp_path / "first", {"p": 2}, range(5))
    second = make(tmp_path / "second", {name: 3}, range(5), people, ids)
    with pytest.raises(UserError, match=words):
        join([first, second])
