"""The similarity and the warp against float64 numpy, scipy and Pillow."""

import functools

import numpy as np
import PIL.Image
import pytest
import scipy.ndimage
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pictures import noise, smooth

from jaxalign.core.errors import UserError
from jaxalign.vision.images.landmarks import ARCFACE_TEMPLATE, fit_similarity, template, warp

POINTS = hnp.arrays(np.float64, (5, 2), elements=st.floats(-500, 500, width=32))
ANGLES = st.floats(-np.pi, np.pi)


def turned(scale: float, angle: float) -> np.ndarray:
    return scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def umeyama(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Umeyama 1991, equations 40 to 43, by a singular value decomposition."""
    x, y = source - source.mean(0), target - target.mean(0)
    u, singular, vt = np.linalg.svd(y.T @ x / len(x))
    signs = np.diag([1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = u @ signs @ vt
    scale = np.trace(np.diag(singular) @ signs) / (x**2).sum(1).mean()
    return np.column_stack([scale * rotation, target.mean(0) - scale * rotation @ source.mean(0)])


def least_squares(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The same minimum over (a, b, tx, ty) of x' = a x − b y + tx, y' = b x + a y + ty."""
    rows = [([x, -y, 1, 0], [y, x, 0, 1]) for x, y in source]
    a, b, right, down = np.linalg.lstsq(np.array(rows).reshape(-1, 4), target.reshape(-1), rcond=None)[0]
    return np.array([[a, -b, right], [b, a, down]])


@settings(max_examples=200, deadline=None)
@given(POINTS, POINTS)
def test_fit_agrees_with_oracles(source: np.ndarray, target: np.ndarray) -> None:
    x, y = source - source.mean(0), target - target.mean(0)
    assume(np.linalg.norm(x) > 1 and np.linalg.norm(y) > 1)
    covariance = y.T @ x
    turn = np.hypot(covariance[0, 0] + covariance[1, 1], covariance[1, 0] - covariance[0, 1])
    assume(turn > 1e-3 * np.linalg.norm(x) * np.linalg.norm(y))  # else any rotation fits as badly as another
    found = fit_similarity(source, target)
    for oracle in (umeyama(source, target), least_squares(source, target)):
        np.testing.assert_allclose(found, oracle, rtol=1e-6, atol=1e-6 * (1 + np.abs(oracle).max()))


@settings(max_examples=100, deadline=None)
@given(st.floats(0.05, 20), ANGLES, st.tuples(*[st.floats(-900, 900)] * 2))
def test_a_planted_similarity_comes_back(scale: float, angle: float, shift: tuple[float, float]) -> None:
    turn = turned(scale, angle)
    found = fit_similarity(ARCFACE_TEMPLATE, ARCFACE_TEMPLATE @ turn.T + shift)
    np.testing.assert_allclose(found, np.column_stack([turn, shift]), rtol=1e-9, atol=1e-8)


def test_a_mirrored_face_is_not_mirrored_back() -> None:
    matrix = fit_similarity(ARCFACE_TEMPLATE * [-1, 1] + [112, 0], ARCFACE_TEMPLATE)
    assert np.linalg.det(matrix[:, :2]) > 0


CROSS = np.array([[1.0, 0], [-1, 0], [0, 1], [0, -1]])


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        (np.ones((5, 2)), ARCFACE_TEMPLATE, "one place"),
        (np.full((5, 2), np.nan), ARCFACE_TEMPLATE, "finite"),
        (np.ones((5, 3)), ARCFACE_TEMPLATE, "shape"),
        (np.ones((4, 2)), ARCFACE_TEMPLATE, "shape"),
        (CROSS, CROSS * [1, -1], "rotation"),
    ],
)
def test_points_that_fit_nothing(source: np.ndarray, target: np.ndarray, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        fit_similarity(source, target)


def test_template_is_the_published_one() -> None:
    published = [38.2946, 51.6963, 73.5318, 51.5014, 56.0252, 71.7366, 41.5493, 92.3655, 70.7299, 92.2041]
    np.testing.assert_array_equal(template(112, 112).reshape(-1), published)
    np.testing.assert_allclose(template(224, 224).reshape(-1), 2 * np.array(published))
    np.testing.assert_allclose(template(112, 132), template(112, 112) + [10, 0])
    np.testing.assert_allclose(template(142, 112), template(112, 112) + [0, 15])


def _scipy_warp(pixels: np.ndarray, matrix: np.ndarray, height: int, width: int) -> np.ndarray:
    whole = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))
    down, right = np.mgrid[:height, :width].astype(np.float64)
    x, y = (row[0] * right + row[1] * down + row[2] for row in whole[:2])
    read = functools.partial(scipy.ndimage.map_coordinates, coordinates=[y, x], order=1, mode="grid-constant")
    return np.stack([read(channel) for channel in np.moveaxis(pixels.astype(np.float64), 2, 0)], axis=-1)


MATRICES = {
    "identity": np.eye(2, 3),
    "shift": np.array([[1, 0, 2.25], [0, 1, -3.5]]),
    "turn": np.array([[0.8, -0.6, 10], [0.6, 0.8, -7]]),
    "shrink": np.array([[0.4, 0.1, 3], [-0.1, 0.4, 5]]),
    "grow": np.array([[3.1, 0.2, -20], [-0.2, 3.1, -30]]),
    "far away": np.array([[1.0, 0, 1000], [0, 1, 0]]),
}


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("size", [(30, 30), (25, 41)])
def test_warp_agrees_with_scipy(name: str, size: tuple[int, int]) -> None:
    pixels = noise(33, 47)
    found = warp(pixels, MATRICES[name], *size)
    assert found.shape == (*size, 3) and found.dtype == np.uint8
    assert np.abs(found - _scipy_warp(pixels, MATRICES[name], *size)).max() <= 0.51


@settings(max_examples=50, deadline=None)
@given(st.floats(0.2, 5), ANGLES, st.tuples(*[st.floats(-40, 40)] * 2), st.tuples(*[st.integers(1, 6)] * 2))
def test_warp_agrees_with_scipy_anywhere(
    scale: float, angle: float, shift: tuple[float, float], size: tuple[int, int]
) -> None:
    matrix = np.column_stack([turned(scale, angle), shift])
    pixels = noise(*size)
    assert np.abs(warp(pixels, matrix, 9, 11) - _scipy_warp(pixels, matrix, 9, 11)).max() <= 0.52


@pytest.mark.parametrize("name", ["shift", "turn", "shrink", "grow"])
def test_warp_agrees_with_pillow(name: str) -> None:
    """Pillow counts from the pixels' corners, cuts fractions off instead of rounding, and differs at the border."""
    pixels, matrix = smooth(80, 90), MATRICES[name]
    (a, b, c), (d, e, f) = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))[:2]
    corner = (a, b, c - a / 2 - b / 2 + 0.5, d, e, f - d / 2 - e / 2 + 0.5)
    affine, bilinear = PIL.Image.Transform.AFFINE, PIL.Image.Resampling.BILINEAR
    image = PIL.Image.fromarray(pixels).transform((40, 40), affine, corner, bilinear)
    whole = np.full((80, 90, 3), 255, np.uint8)
    inside = scipy.ndimage.binary_erosion(_scipy_warp(whole, matrix, 40, 40)[..., 0] > 254, iterations=2)
    assert inside.sum() > 100
    difference = warp(pixels, matrix, 40, 40) - np.asarray(image).astype(float)
    assert np.where(np.asarray(inside)[..., None], np.abs(difference), 0).max() <= 1.01


def test_the_identity_changes_nothing() -> None:
    np.testing.assert_array_equal(warp(noise(), np.eye(2, 3), 12, 16), noise())


def test_bright_landmarks_land_on_the_template() -> None:
    """End to end on a picture whose five points are blobs of light."""
    points = ARCFACE_TEMPLATE @ turned(2.5, 0.3).T + [130, 20]
    down, right = np.mgrid[:360, :400]
    light = sum(np.exp(-((right - x) ** 2 + (down - y) ** 2) / (2 * 5**2)) for x, y in points)
    pixels = np.repeat(np.rint(250 * light).clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)
    for side in (112, 160):
        face = warp(pixels, fit_similarity(points, template(side, side)), side, side)[..., 0].astype(float)
        for x, y in ARCFACE_TEMPLATE * side / 112:
            near = np.s_[int(y) - 5 : int(y) + 7, int(x) - 5 : int(x) + 7]
            middle = (np.mgrid[near] * face[near]).sum((1, 2)) / face[near].sum()
            np.testing.assert_allclose(middle, [y, x], atol=0.5)
