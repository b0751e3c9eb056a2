"""Every solver against its float64 oracle on real embeddings: test rows of the published split.

Of one encoder the last 256 of 1280 columns are taken: two of them never vary and one hardly does, so that its second
moment is singular.
"""

import functools
import pathlib
from typing import Any, NamedTuple

import agreement
import numpy as np
import oracles
import pyarrow.parquet
import pytest
from agreement import relative_error

import jaxalign
from jaxalign import FoldMoments, PairwiseMaps
from jaxalign.core.people import published_split

ENCODERS = ("mobilefacenet", "dlib_resnet", "nsfw_mobilenet_v2")
PAIRS = [(a, b) for a in ENCODERS for b in ENCODERS if a != b]
HARD = [("nsfw_mobilenet_v2", "dlib_resnet"), ("dlib_resnet", "nsfw_mobilenet_v2")]
HARD += [("mobilefacenet", "dlib_resnet")]
SINGULAR = slice(-256, None)


class RealRows(NamedTuple):
    """Training and test rows of the store, and the moments of the training rows."""

    train: dict[str, np.ndarray]
    test: dict[str, np.ndarray]
    moments: FoldMoments


@pytest.fixture(scope="module")
def real(lfw_dev: pathlib.Path) -> RealRows:
    people = pyarrow.parquet.read_table(lfw_dev / "samples.parquet")["identity"].to_numpy()
    split = published_split(people.astype(str), seed=42)
    arrays = {name: np.load(lfw_dev / f"{name}.npy") for name in ENCODERS}
    arrays["nsfw_mobilenet_v2"] = arrays["nsfw_mobilenet_v2"][:, SINGULAR]
    train = {name: array[split.train] for name, array in arrays.items()}
    test = {name: array[split.test] for name, array in arrays.items()}
    assert np.sum(np.ptp(train["nsfw_mobilenet_v2"], axis=0) == 0) == 2
    return RealRows(train, test, FoldMoments.of(train))


def assert_one_sided(real: RealRows, maps: PairwiseMaps, oracle, pairs=HARD) -> None:
    """Predictions of test rows agree; the oracle takes all targets of a source side by side."""
    for source in dict.fromkeys(source for source, _ in pairs):
        targets = [target for a, target in pairs if a == source]
        expected = oracle(real.train[source], np.hstack([real.train[target] for target in targets]))[0]
        ends = np.cumsum([real.train[target].shape[1] for target in targets])[:-1]
        pieces = np.split(expected(real.test[source]), ends, axis=1)
        for target, piece in zip(targets, pieces):
            predicted = maps[source, target].source(real.test[source])
            assert relative_error(predicted, piece) <= agreement.PREDICTIONS, (source, target)


@pytest.mark.parametrize("l2", [None, 0.1, 300.0])
def test_least_squares(real: RealRows, l2: float | None) -> None:
    if l2 is None:
        assert_one_sided(real, jaxalign.fit_pairs(real.moments, "linear"), oracles.linear)
    else:
        maps = jaxalign.fit_pairs(real.moments, "ridge", l2=l2)
        assert_one_sided(real, maps, functools.partial(oracles.ridge, l2=l2))


def test_float32_rows_of_a_well_conditioned_source(real: RealRows) -> None:
    """Training in float32 instead of the stored float16 changes nothing: neither rounds what is stored."""
    rows = {name: real.train[name].astype(np.float32) for name in ("mobilefacenet", "dlib_resnet")}
    maps = jaxalign.fit_pairs(rows, "linear")
    assert_one_sided(real, maps, oracles.linear, [("mobilefacenet", "dlib_resnet")])


@pytest.mark.parametrize("pair", HARD, ids="-".join)
def test_rotations(real: RealRows, pair: tuple[str, str]) -> None:
    source, target = pair
    reverse = target, source
    x, y, x_new = real.train[source], real.train[target], real.test[source]
    rotation = oracles.orthogonal(x, y)[0](x_new)
    cross = oracles.centred(x, None)[1].T @ oracles.centred(y, None)[1]
    maps = jaxalign.fit_pairs(real.moments, "orthogonal", pairs=[pair, reverse])
    scaled = jaxalign.fit_pairs(real.moments, "similarity", pairs=[pair])
    singular = np.linalg.svd(cross, compute_uv=False)
    if singular[-1] > 1e-8 * singular[0]:
        assert relative_error(maps[pair].source(x_new), rotation) <= agreement.PREDICTIONS
        expected = oracles.similarity(x, y)[0](x_new)
        assert relative_error(scaled[pair].source(x_new), expected) <= agreement.PREDICTIONS
    matrix = np.asarray(maps[pair].source.matrix())
    np.testing.assert_allclose(np.sum(matrix * cross), singular.sum(), rtol=1e-10)
    np.testing.assert_array_equal(np.asarray(maps[reverse].source.matrix()).T, matrix)


@pytest.mark.parametrize(("l2", "rank"), [(10.0, 64), (0.0, 20)])
def test_reduced_rank(real: RealRows, l2: float, rank: int) -> None:
    maps = jaxalign.fit_pairs(real.moments, "reduced_rank", l2=l2, rank=rank, pairs=HARD)
    for source, target in HARD if l2 else HARD[:2]:
        expected = oracles.reduced_rank(real.train[source], real.train[target], l2=l2, rank=rank)[0]
        predicted, new = maps[source, target].source(real.test[source]), expected(real.test[source])
        assert relative_error(predicted, new) <= agreement.PREDICTIONS, (source, target)


@pytest.mark.parametrize(
    "options",
    [{}, {"whitening": 0.75, "weighting": 0.5, "rank": 64}, {"whitening": 1.0, "weighting": 0.0, "rank": 32}],
    ids=["default", "cut", "correlations"],
)
def test_canonical(real: RealRows, options: dict[str, Any]) -> None:
    pairs = HARD[:2] if options else HARD
    maps = jaxalign.fit_pairs(real.moments, "canonical", pairs=pairs, **options)
    for source, target in pairs:
        sides = oracles.canonical(real.train[source], real.train[target], None, **options)
        rows = real.test[source], real.test[target]
        agreement.assert_same_comparisons(maps[source, target], sides, *rows, agreement.PREDICTIONS)


def test_shared_space(real: RealRows) -> None:
    maps = jaxalign.fit_pairs(real.moments, "shared")
    expected = oracles.shared_space(real.train, rank=96)
    for source, target in PAIRS:
        sides, rows = (expected[source], expected[target]), (real.test[source], real.test[target])
        agreement.assert_same_comparisons(maps[source, target], sides, *rows, agreement.PREDICTIONS)
