"""Encoders whose widths are filled up with zero columns: the numbers are those of the encoders as they are."""

import itertools

import agreement
import clouds
import numpy as np
import pytest
from solver_cases import ONE_EACH, Case

import jaxalign

WIDTHS = {
    "a": 100,
    "b": 128,
    "c": 130,
    "d": 250,
    "e": 120,
}  # one not padded, the last with no room to its right
PAIRS = [("a", "c"), ("c", "a"), ("b", "c"), ("d", "b"), ("e", "d")]  # of two pairs of padded widths


def views(rows: int, directions: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(rows)
    common = generator.normal(size=(rows, directions))
    made = {}
    for name, width in WIDTHS.items():
        seen = common @ generator.normal(size=(directions, width)) / np.sqrt(directions)
        noise = 0.3 * generator.normal(size=(rows, width)) if directions > 10 else 0.0
        made[name] = seen + noise + generator.normal(size=width)
    return made


@pytest.mark.parametrize(("rows", "directions"), [(400, 40), (60, 40), (400, 6)])
@pytest.mark.parametrize("case", ONE_EACH, ids=str)
def test_pairs_of_padded_encoders_agree_with_the_oracle(case: Case, rows: int, directions: int) -> None:
    every = views(rows + 20, directions)
    train = {name: array[:rows] for name, array in every.items()}
    maps = jaxalign.fit_pairs(train, case.method, pairs=PAIRS, **case.options)
    for source, target in PAIRS:
        fit = maps[source, target]
        assert fit.source.in_dim == WIDTHS[source] and fit.target.in_dim == WIDTHS[target]
        assert fit.source.out_dim == fit.target.out_dim == len(fit.residual) == len(fit.variance)
        people = np.arange(rows).astype(str)
        cloud = clouds.Cloud(train[source], train[target], every[source][rows:], every[target][rows:], people)
        agreement.assert_agrees(case, fit, cloud)
        assert_padded_alike(fit, every[source][rows:], every[target][rows:])


def assert_padded_alike(fit: jaxalign.Fit, x: np.ndarray, y: np.ndarray) -> None:
    """Widths padded with zeros: the same rows in the columns that count, zeros in the others."""
    padded = fit.padded()
    for given, map_, wide in ((x, fit.source, padded.source), (y, fit.target, padded.target)):
        expected = np.asarray(map_(given))
        found = np.asarray(wide(np.pad(given, ((0, 0), (0, -given.shape[1] % 128)))))
        assert found.shape[1] % 128 == 0
        np.testing.assert_allclose(found[:, : expected.shape[1]], expected, rtol=1e-12, atol=1e-12)
        assert not found[:, expected.shape[1] :].any()


def test_chosen_penalties_do_not_depend_on_padding() -> None:
    """Cross-validation of a padded encoder chooses as scikit-learn's errors on the encoder as it is would."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    every = views(300, 40)
    fold, grid = np.arange(300) % 5, (0.1, 10.0, 1e3, 1e5)
    moments = jaxalign.FoldMoments.of(every, fold=fold)
    chosen = jaxalign.fit_pairs(moments, "ridge", l2=grid, pairs=PAIRS).settings
    for source, target in PAIRS:
        x, y = every[source], every[target]
        errors = np.zeros(len(grid))
        for (place, l2), k in itertools.product(enumerate(grid), range(5)):
            model = linear_model.Ridge(alpha=l2).fit(x[fold != k], y[fold != k])
            errors[place] += np.sum((model.predict(x[fold == k]) - y[fold == k]) ** 2)
        assert float(chosen[source, target]["l2"]) == grid[int(np.argmin(errors))]
