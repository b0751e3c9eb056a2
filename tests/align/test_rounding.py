"""Settings and rows so extreme that rounding decides: right within 1e-5, or said not to be."""

import warnings

import numpy as np
import pytest

import jaxalign
from jaxalign import UserError

RANDOM = np.random.default_rng(0)
PLAIN = RANDOM.normal(size=(80, 6))
NOISE = RANDOM.normal(size=(80, 2))
ROWS = {
    "duplicated columns": np.hstack([PLAIN, PLAIN[:, :2]]),
    "near-duplicates": np.hstack([PLAIN, PLAIN[:, :2] + 1e-7 * NOISE]),
    "nearer duplicates": np.hstack([PLAIN, PLAIN[:, :2] + 1e-9 * NOISE]),
    "constant columns": np.hstack([PLAIN, np.full((80, 2), 0.1)]),
    "columns of other sizes": np.hstack([PLAIN, 1e-7 * NOISE]),
    "fewer rows than columns": RANDOM.normal(size=(6, 8)),
    "plain": RANDOM.normal(size=(80, 8)),
}  # of one width, so that programs are shared
SETTINGS = {
    **{f"ridge {l2}": ("ridge", {"l2": l2}) for l2 in (1e-300, 1e-15, 1e-12, 1e-9, 1.0)},
    "ridge by column": ("ridge", {"l2": [1e-15, 1e-14], "penalty_per": "column", "folds": 2}),
    "ridge grid": ("ridge", {"l2": [1e-300, 1e-290], "folds": 2}),
    **{f"reduced {l2}": ("reduced_rank", {"l2": l2}) for l2 in (0.0, 1e-300, 1e-15, 1e-9)},
    "linear": ("linear", {}),
}


def expected_prediction(x: np.ndarray, y: np.ndarray, l2: float) -> np.ndarray:
    """Ridge (or minimum-norm least squares) by a singular value decomposition of the rows, not of their moments."""
    u, singular, _ = np.linalg.svd(x - x.mean(0), full_matrices=False)
    kept = singular > 1e-14 * singular[0]
    share = np.where(kept, singular**2 / np.where(kept, singular**2 + l2, 1), 0)
    return (u * share) @ (u.T @ (y - y.mean(0))) + y.mean(0)


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("rows", ROWS)
def test_least_squares_is_right_or_says_so(rows: str, name: str) -> None:
    x, (method, options) = ROWS[rows], SETTINGS[name]
    # The target depends on the directions of little variance as much as on the others.
    y = RANDOM.normal(size=(len(x), 3)) + 3 * (NOISE[: len(x), :1] - NOISE[: len(x), 1:])
    fits = jaxalign.fit_pairs({"x": x, "y": y}, method, pairs=[("x", "y")], **options)
    fit, l2 = fits["x", "y"], np.max(fits.settings["x", "y"].get("l2", 0.0))
    if not fit.ok:
        with warnings.catch_warnings(), pytest.raises((UserError, RuntimeWarning), match="finite|trusted"):
            warnings.simplefilter("error")
            jaxalign.fit_affine(x, y, method, **options)
        return
    found, expected = np.asarray(fit.to_target(restore_variance=False)(x)), expected_prediction(x, y, l2)
    assert np.linalg.norm(found - expected) <= 1e-5 * np.linalg.norm(expected - y.mean(0))


def test_plain_rows_are_trusted_whatever_the_penalty() -> None:
    y = RANDOM.normal(size=(80, 3))
    for method, options in SETTINGS.values():
        assert jaxalign.fit_pair(ROWS["plain"], y, method, **options).ok


@pytest.mark.parametrize("whitening", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("rows", ROWS)
def test_canonical_is_right_or_says_so(rows: str, whitening: float) -> None:
    """Moving and scaling of rows, which changes rounding and nothing else, changes scores by no more than 1e-5."""
    x = ROWS[rows]
    y = RANDOM.normal(size=(len(x), 3)) + 3 * (NOISE[: len(x), :1] - NOISE[: len(x), 1:])
    options = {"whitening": whitening, "shrinkage": 0.0}
    turn = np.linalg.qr(RANDOM.normal(size=(x.shape[1], x.shape[1])))[0]
    one, other = (jaxalign.fit_pair(given, y, "canonical", **options) for given in (x, x @ turn))  # pyright: ignore[reportArgumentType]
    if one.ok and other.ok:
        np.testing.assert_allclose(one.scores(x, y), other.scores(x @ turn, y), atol=1e-5)
    for fit in (one, other):
        assert not fit.ok or np.isfinite(fit.scores(x, y)).all()


@pytest.mark.parametrize("least", [1.0, 1e-6, 1e-10, 1e-12, 1e-14, 0.0])
def test_a_rotation_that_rounding_decides_is_not_trusted(least: float) -> None:
    """Two directions agree so little that their rotation is lost in rounding."""
    basis = np.linalg.qr(RANDOM.normal(size=(80, 8)) - 0.0)[0]
    basis = np.linalg.qr(basis - basis.mean(0))[0]
    left, right = basis[:, :4], basis[:, 4:]
    y = right.copy()
    y[:, :2] += left[:, :2]
    y[:, 2:] += least * left[:, 2:] @ np.array([[0.0, 1.0], [-1.0, 0.0]])
    fit = jaxalign.fit_pair(left, y, "orthogonal")
    expected = np.zeros((4, 4))
    expected[:2, :2], expected[2:, 2:] = np.eye(2), [[0, 1], [-1, 0]]
    assert bool(fit.ok) == (least > 1e-11)
    if fit.ok:
        np.testing.assert_allclose(fit.source.matrix(), expected, atol=1e-5)


def restored(x: np.ndarray, y: np.ndarray, l2: float) -> np.ndarray:
    """Ridge scaled to the target's variance; divided by its size before it is squared, so that nothing underflows."""
    u, singular, vt = np.linalg.svd(x - x.mean(0), full_matrices=False)
    share = singular / l2 / (1 + singular**2 / l2) if l2 > 1 else singular / (singular**2 + l2)
    centred = (x - x.mean(0)) @ vt.T @ (share[:, None] * (u.T @ (y - y.mean(0))))
    centred /= np.abs(centred).max()
    return centred * np.sqrt(y.var(0).sum() / centred.var(0).sum()) + y.mean(0)


@pytest.mark.parametrize("method", ["ridge", "reduced_rank"])
@pytest.mark.parametrize("l2", [1e-300, 1e3, 1e8, 1e10, 1e100, 1e153, 1e200, 1e300, 1e308])
def test_a_penalty_of_any_size_is_right_or_says_so(method: str, l2: float) -> None:
    y = PLAIN[:, :3] + RANDOM.normal(size=(80, 3))
    fit = jaxalign.fit_pair(PLAIN, y, method, l2=l2)
    assert fit.ok == (l2 <= 1e8)
    if fit.ok:
        found, expected = np.asarray(fit.to_target()(PLAIN)), restored(PLAIN, y, l2)
        assert np.linalg.norm(found - expected) <= 1e-5 * np.linalg.norm(expected - y.mean(0))
    else:
        with pytest.warns(RuntimeWarning, match="cannot be trusted"):
            jaxalign.fit_affine(PLAIN, y, method, l2=l2)


@pytest.mark.parametrize("method", ["canonical", "shared"])
def test_a_weighting_that_leaves_no_dimension_says_so(method: str) -> None:
    """Into the target's own coordinates weights cancel, unless they are too small to be told from zero."""
    y = PLAIN[:, :3] + RANDOM.normal(size=(80, 3))
    plain = np.asarray(jaxalign.fit_pair(PLAIN, y, method, weighting=0.0).to_target(False)(PLAIN))
    for weighting in (1.0, 5.0, 1e3, 1e300):
        fit = jaxalign.fit_pair(PLAIN, y, method, weighting=weighting)
        assert fit.ok == (weighting < 100)
        if fit.ok and method == "canonical":
            np.testing.assert_allclose(fit.to_target(False)(PLAIN), plain, atol=1e-5)


def test_a_target_that_does_not_vary_needs_no_scale() -> None:
    y = np.full((80, 3), 0.1)
    fit = jaxalign.fit_pair(PLAIN, y, "ridge", l2=1.0)
    assert fit.ok and np.abs(np.asarray(fit.to_target()(PLAIN)) - y).max() < 1e-12
    assert not jaxalign.fit_pair(1e-160 * PLAIN, PLAIN[:, :3], "ridge", l2=1.0).ok
