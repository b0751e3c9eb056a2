"""The zoo's losses against numpy written from their papers, and what each must prefer."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from jaxalign.vision.zoo import encoder_losses
from jaxalign.vision.zoo.augment import Augmentation
from jaxalign.vision.zoo.encoder_losses import (
    Attributes,
    Contrastive,
    FaceBatch,
    Margin,
    Reconstruction,
    Triplet,
)

CLASSES, WIDTH, TRAITS = 7, 12, 5


def rows(count: int, width: int = WIDTH, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)


def batch_of(labels: np.ndarray, progress: float = 1.0) -> FaceBatch:
    clean = np.random.default_rng(2).uniform(0, 255, (len(labels), 64, 64, 3)).astype(np.float32)
    traits = jnp.asarray(rows(len(labels), TRAITS, 3))
    return FaceBatch(jnp.asarray(labels, jnp.int32), traits, jnp.asarray(clean), progress)


compiled = functools.cache(jax.jit)  # one program of a loss takes less time than its operations one by one


def pictures(count: int, least: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).integers(least, 256, (count, 64, 64, 3), np.uint8))


def augmented(images: jax.Array, seed: int = 0, **changes: Any) -> tuple[np.ndarray, np.ndarray]:
    """What the encoder sees and the clean views, without a shift or gain of their own."""
    given: dict[str, Any] = {"shift": 0, "gain": 0.0, **changes}
    seen, clean = jax.jit(Augmentation(**given))(jax.random.key(seed), images)
    return np.asarray(seen), np.asarray(clean)


def normalized(array: np.ndarray) -> np.ndarray:
    array = array.astype(np.float64)
    return array / np.linalg.norm(array, axis=1, keepdims=True)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = logits - logits.max(1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


@pytest.mark.parametrize("angular", [True, False])
@pytest.mark.parametrize("progress, share", [(0.0, 0), (0.15, 0), (0.375, 0.5), (0.6, 1), (1.0, 1)])
def test_margin_softmax(angular: bool, progress: float, share: float) -> None:
    embeddings, centres = rows(20), rows(CLASSES, seed=1)
    labels = np.arange(20) % CLASSES
    cosine = normalized(embeddings - embeddings.mean(0)) @ normalized(centres).T
    logits = cosine.copy()
    own = cosine[np.arange(20), labels]
    logits[np.arange(20), labels] = np.cos(np.arccos(own) + 0.35 * share) if angular else own - 0.35 * share
    expected = -log_softmax(20.0 * logits)[np.arange(20), labels].mean()
    batch = batch_of(labels, progress)
    loss = compiled(Margin(angular, 0.35))(jnp.asarray(centres), jnp.asarray(embeddings), batch)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_angular_margin_never_rewards_the_far_side() -> None:
    """Beyond π − margin the plain formula would fall again; the slope must keep its sign, and be finite at ±1."""
    centres = jnp.zeros((2, WIDTH)).at[:, 0].set(jnp.array([1.0, -1.0]))

    def loss(angle: jax.Array) -> jax.Array:
        turned = jnp.array([jnp.cos(angle), jnp.sin(angle)])
        embeddings = jnp.zeros((2, WIDTH)).at[:, :2].set(jnp.stack([turned, -turned]))
        return Margin(True, 0.35)(centres, embeddings, batch_of(np.array([0, 1])))

    angles = jnp.linspace(0.0, jnp.pi, 50)
    values, slopes = jax.jit(jax.vmap(jax.value_and_grad(loss)))(angles)
    assert np.isfinite(values).all() and np.isfinite(slopes).all()
    assert np.all(np.asarray(values[1:] - values[:-1]) > -1e-4)


def test_triplet_is_semi_hard() -> None:
    embeddings, labels = rows(12), np.repeat(np.arange(4), 3)
    points = normalized(embeddings - embeddings.mean(0))
    distance = ((points[:, None] - points[None]) ** 2).sum(2)
    costs = []
    for anchor in range(12):
        for positive in range(12):
            if labels[anchor] != labels[positive] or anchor == positive:
                continue
            strangers = distance[anchor][labels != labels[anchor]]
            further = strangers[strangers > distance[anchor, positive]]
            negative = further.min() if len(further) else strangers.max()
            costs.append(max(0.0, distance[anchor, positive] - negative + 0.2))
    loss = compiled(Triplet())((), jnp.asarray(embeddings), batch_of(labels))
    np.testing.assert_allclose(loss, np.mean(costs), rtol=1e-5)


def test_contrastive() -> None:
    embeddings, head = rows(10), rows(WIDTH, 6, seed=1)
    middle = embeddings - embeddings.mean(0)
    projected = normalized(np.where(middle > 0, middle, 0.2 * middle) @ head)
    scores = projected @ projected.T / 0.2
    np.fill_diagonal(scores, -np.inf)
    partner = (np.arange(10) + 5) % 10
    expected = -log_softmax(scores)[np.arange(10), partner].mean()
    loss = compiled(Contrastive())(jnp.asarray(head), jnp.asarray(embeddings), batch_of(np.zeros(10)))
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_contrastive_ignores_labels_and_traits() -> None:
    head, embeddings = jnp.asarray(rows(WIDTH, 6, seed=1)), jnp.asarray(rows(10))
    one, each = batch_of(np.zeros(10)), batch_of(np.arange(10))
    loss = compiled(Contrastive())
    assert loss(head, embeddings, one) == loss(head, embeddings, each)


def test_reconstruction() -> None:
    loss = Reconstruction()
    head = jax.jit(lambda: loss.init(jax.random.key(0), WIDTH, CLASSES, TRAITS))()
    batch = batch_of(np.zeros(3))
    embeddings = jnp.asarray(rows(3))
    picture = np.asarray(jax.jit(encoder_losses.Decoder().apply)(head, embeddings))
    assert picture.shape == (3, 40, 40)
    grey = np.asarray(batch.clean, np.float64).mean(3)[:, 12:52, 12:52]
    wanted = [(image - image.mean()) / (image.std() + 4.0) for image in grey]
    expected = np.mean((picture - np.stack(wanted)) ** 2)
    np.testing.assert_allclose(jax.jit(loss)(head, embeddings, batch), expected, rtol=1e-5)


def test_attributes() -> None:
    loss = Attributes(columns=(1, 4))
    head, embeddings, batch = rows(WIDTH, 2, seed=1), rows(6), batch_of(np.zeros(6))
    read = (embeddings - embeddings.mean(0)) @ head
    expected = np.mean((read - np.asarray(batch.traits)[:, [1, 4]]) ** 2)
    np.testing.assert_allclose(loss(jnp.asarray(head), jnp.asarray(embeddings), batch), expected, rtol=1e-5)


def test_unit_keeps_zeros() -> None:
    assert np.array_equal(encoder_losses.unit(jnp.zeros((2, 3))), np.zeros((2, 3)))


def test_augmentation_of_nothing_is_the_image() -> None:
    images = pictures(3)
    seen, clean = augmented(images)
    assert np.array_equal(seen, images) and np.array_equal(clean, images)


def test_augmentation_shifts_by_at_most_so_many_pixels() -> None:
    copies = jnp.zeros((200, 64, 64, 3), jnp.uint8).at[:, 32, 32].set(255)
    _, down, across = np.nonzero(augmented(copies, shift=3)[0][..., 0])
    assert set(down.tolist()) == set(across.tolist()) == set(range(29, 36))


def test_border_is_of_one_colour_in_each_image() -> None:
    images = pictures(4)
    seen, _ = augmented(images, border=10)
    assert np.array_equal(seen[:, 10:54, 10:54], images[:, 10:54, 10:54])
    assert (seen[:, :10] == seen[:, :1, :1]).all() and (seen[:, :, 54:] == seen[:, :1, :1]).all()
    assert not np.array_equal(seen[0, 0, 0], seen[1, 0, 0])


def test_views_differ_and_masks_hide_from_the_encoder_only() -> None:
    seen, clean = augmented(pictures(4, 1), 1, gain=0.2, grain=4.0, cutout=16, masked=0.5, views=2)
    assert seen.shape == clean.shape == (8, 64, 64, 3)
    assert not np.array_equal(clean[:4], clean[4:])
    patches = seen.reshape(8, 8, 8, 8, 8, 3).transpose(0, 1, 3, 2, 4, 5)
    hidden = (patches == 0).all((3, 4, 5))
    assert 0.3 < hidden.mean() < 0.7
    assert not (clean == 0).all(axis=3).any(axis=(1, 2)).all()


def test_grey_views_have_one_channel_and_other_weights_each() -> None:
    images = pictures(2)
    seen, _ = augmented(images, grey=True, views=2)
    assert np.array_equal(seen[..., 0], seen[..., 1]) and np.array_equal(seen[..., 0], seen[..., 2])
    assert not np.allclose(seen[:2], seen[2:])
    weights = np.linalg.lstsq(np.asarray(images[0], float).reshape(-1, 3), seen[0, ..., 0].ravel())[0]
    assert weights.sum() == pytest.approx(1, abs=1e-5) and (weights > -1e-5).all()


def test_light_is_a_smooth_field() -> None:
    seen, _ = augmented(jnp.full((1, 64, 64, 3), 20, jnp.uint8), 3, light=0.3)
    x, y = np.meshgrid(np.linspace(-1, 1, 64), np.linspace(-1, 1, 64))
    terms = np.stack([x, y, x * y, x**2, y**2], axis=-1).reshape(-1, 5)
    log = np.log(seen[0, ..., 0].astype(np.float64) / 20).ravel()
    assert np.ptp(log) > 0.1
    np.testing.assert_allclose(terms @ np.linalg.lstsq(terms, log)[0], log, atol=1e-5)


def test_warped_pictures_are_scipys() -> None:
    """Two channels hold the place of each pixel, so that a warped picture says which map it was warped by."""
    place = np.stack(np.meshgrid(np.arange(64), np.arange(64), indexing="ij"), axis=-1)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 1))
    image = np.concatenate([4 * place, noise], axis=-1).astype(np.uint8)
    for warped in augmented(jnp.asarray(image)[None].repeat(3, 0), warp=0.1)[1].astype(np.float64):
        inside = ((warped[..., :2] > 1) & (warped[..., :2] < 4 * 63 - 1)).all(-1)
        ends = np.column_stack([place[inside], np.ones(inside.sum())])
        found = np.linalg.lstsq(ends, warped[inside][:, :2] / 4)[0].T  # [A b], as scipy takes them
        assert inside.mean() > 0.5 and np.abs(found[:, :2] - np.eye(2)).max() > 0.01
        expected = scipy.ndimage.affine_transform(noise[..., 0].astype(float), found, order=1, mode="nearest")
        np.testing.assert_allclose(warped[..., 2], expected, atol=0.05)
