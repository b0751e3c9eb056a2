"""Linear probes against scikit-learn, what crosses a map, and the file of attributes."""

import pathlib
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from jaxalign import UserError
from jaxalign.security import attributes
from jaxalign.security.attributes import Probe

RANDOM = np.random.default_rng(0)
LATENT = RANDOM.normal(size=(300, 6))
MIXING = RANDOM.normal(size=(6, 9)), RANDOM.normal(size=(6, 12))
ROWS = [LATENT @ mixing + 1 + 0.1 * RANDOM.normal(size=(300, mixing.shape[1])) for mixing in MIXING]
LABELS = np.array(["beard", "none", "stubble"])[(LATENT[:, :3] + [0, 0.3, 0]).argmax(axis=1)]
TRAIN, TEST = slice(0, 200), slice(200, 300)


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_probe_is_ridge_regression_on_one_hot_columns() -> None:
    probe = Probe.fit(ROWS[0][TRAIN], LABELS[TRAIN])
    columns = (LABELS[TRAIN, None] == ["beard", "none", "stubble"]).astype(float)
    trace = len(columns) * unit(ROWS[0][TRAIN]).var(axis=0).sum()
    oracle = Ridge(alpha=attributes.RIDGE * trace / 9).fit(unit(ROWS[0][TRAIN]), columns)
    expected = probe.values[oracle.predict(unit(ROWS[0][TEST])).argmax(axis=1)]
    np.testing.assert_array_equal(probe.read(ROWS[0][TEST]), expected)
    np.testing.assert_allclose(probe.weights, oracle.coef_.T, atol=1e-10)


@pytest.fixture(scope="module")
def sides() -> Any:
    return tuple((ROWS[0][part], ROWS[1][part], LABELS[part]) for part in (TRAIN, TEST))


def test_a_good_map_carries_the_attribute_and_a_random_one_does_not(sides: Any) -> None:
    map_ = Ridge(alpha=1e-3).fit(*(rows[TRAIN] for rows in ROWS))
    good = attributes.inversion("hair", sides[0], sides[1], map_.predict(ROWS[0][TEST]))
    rates = {name: values.mean() for name, values in zip(good._fields[1:], good[1:])}
    assert good.attribute == "hair" and rates["source"] > 0.8 and rates["target"] > 0.8
    assert abs(rates["across"] - rates["target"]) < 0.1
    assert rates["chance"] == np.mean(LABELS[TEST] == "none") < 0.7
    random = attributes.inversion("hair", sides[0], sides[1], ROWS[1][RANDOM.permutation(100)])
    assert random.across.mean() < rates["across"] - 0.2


def test_values_unseen_in_training_are_read_wrongly_and_rare_ones_refused(sides: Any) -> None:
    train, (x, y, _) = sides
    unseen = attributes.inversion("hair", train, (x, y, np.full(100, "wig")), y)
    assert not any(values.any() for values in unseen[1:])
    for labels in (np.full(200, "same"), np.array(["once"] + ["often"] * 199)):
        with pytest.raises(UserError, match=r"'hair'.*training rows"):
            attributes.inversion("hair", (*train[:2], labels), (x, y, LABELS[TEST]), y)


def test_file_of_attributes_follows_the_rows_of_the_store(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("age,file,label\nold,b/2.jpg,x\nyoung,a/1.jpg,y\n")
    rows, columns = attributes.read_attributes(path, ["a/1.jpg", "a/2.jpg", "b/2.jpg"])
    np.testing.assert_array_equal(rows, [0, 2])
    assert {name: values.tolist() for name, values in columns.items()} == {
        "age": ["young", "old"],
        "label": ["y", "x"],
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sample_id,age\na,old\nz,old\n", "not in the store.*'z'"),
        ("sample_id,age\na,old\na,old\n", "'a' has two lines"),
        ("sample_id,age\na,old\nb, \n", "'age'.*'b'"),
        ("sample_id\na\n", "columns of attributes"),
        ("age,hair\nold,none\n", "sample_id"),
        ("", "empty"),
    ],
)
def test_bad_files(tmp_path: pathlib.Path, text: str, words: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=words):
        attributes.read_attributes(path, ["a", "b"])


def test_numbers_become_two_values() -> None:
    found = attributes.above_median({"jaw": np.array([0.3, -1.0, 2.0, 5.0])})
    assert found["jaw"].tolist() == ["low", "low", "high", "high"]
