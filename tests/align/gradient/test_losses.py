"""Losses against float64 numpy and scipy, written without sight of them."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxalign.align.gradient import contrastive, losses
from jaxalign.align.gradient.losses import LOSSES, Mapped, orthogonality
from jaxalign.align.gradient.objectives import polar

PEOPLE, WIDTH = 7, 5
OPTIONS = types.SimpleNamespace(margin=0.4, delta=0.7)
SCALE = 11.0


def batch(seed):
    generator = np.random.default_rng(seed)
    u, v = generator.normal(size=(2, 2 * PEOPLE, WIDTH))
    return u, v, generator.normal(size=(PEOPLE, WIDTH))


def on_device(u, v, means):
    u, v, means = (jnp.asarray(part, jnp.float32) for part in (u, v, means))
    return Mapped(u, v, means, jnp.float32(SCALE))


@functools.cache
def compiled(name):
    """A loss as a program, which is compiled faster than its operations one by one."""
    return jax.jit(lambda mapped: LOSSES[name](mapped, OPTIONS))


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def numpy_contrastive(u, v, means, scale=SCALE):
    logits = scale * unit(u) @ unit(v).T
    own = np.where(np.tile(np.eye(PEOPLE, dtype=bool), (2, 2)), logits, -np.inf)
    return np.mean([np.logaddexp.reduce(logits, k) - np.logaddexp.reduce(own, k) for k in (0, 1)])


def numpy_margin(u, v, means):
    cos = unit(u) @ unit(means).T
    losses = []
    for place, row in enumerate(cos):
        own = place % PEOPLE
        angle = np.arccos(np.clip(row[own], -1, 1))
        beyond = row[own] - OPTIONS.margin * np.sin(OPTIONS.margin)
        row[own] = np.cos(angle + OPTIONS.margin) if angle + OPTIONS.margin < np.pi else beyond
        losses.append(scipy.special.logsumexp(SCALE * row) - SCALE * row[own])
    return np.mean(losses)


def numpy_huber(u, v, means):
    bend = OPTIONS.delta * np.sqrt((v**2).mean())
    return scipy.special.huber(bend, u - v).sum(axis=1).mean()


ORACLES = {
    "squared": lambda u, v, means: np.mean([np.dot(a - b, a - b) for a, b in zip(u, v)]),
    "cosine": lambda u, v, means: np.mean([1 - a @ b / np.sqrt((a @ a) * (b @ b)) for a, b in zip(u, v)]),
    "huber": numpy_huber,
    "contrastive": numpy_contrastive,
    "margin": numpy_margin,
}


@pytest.mark.parametrize("name", LOSSES)
def test_loss_agrees_with_its_oracle(name):
    batches = [*map(batch, range(3))]
    if name == "margin":  # beyond π it goes on falling
        means = batches[0][2]
        batches.append((*[np.concatenate([-means, -means + 1e-3])] * 2, means))  # pyright: ignore[reportArgumentType]
    for u, v, means in batches:
        found = compiled(name)(on_device(u, v, means))
        np.testing.assert_allclose(found, ORACLES[name](u, v, means), rtol=2e-5)


@functools.partial(jax.jit, static_argnums=0)
def value_and_gradient(form, u, v, scale):
    """Of a contrastive loss, by rows and scale."""
    loss = lambda u, v, scale: form(losses.unit(u), losses.unit(v), scale)  # noqa: E731
    return jax.value_and_grad(loss, (0, 1, 2))(u, v, scale)


@pytest.mark.parametrize("form", [contrastive.plain, contrastive.fast])
@pytest.mark.parametrize("far", [False, True])  # each photograph is furthest from its own person's
@pytest.mark.parametrize("scale", [SCALE, 300.0])  # with the larger one sums of exponentials underflow
def test_contrastive_loss_and_its_gradient_by_central_differences(form, far, scale):
    u, v, _ = batch(4)
    v = -u if far else v
    given = [u, v, np.array(scale)]
    found = value_and_gradient(form, *(jnp.asarray(part, jnp.float32) for part in given))
    np.testing.assert_allclose(found[0], numpy_contrastive(u, v, None, scale), rtol=1e-5)
    for index, gradient in enumerate(found[1]):
        expected = np.zeros(given[index].shape)
        for entry in np.ndindex(expected.shape):
            ahead, behind = ([part.copy() for part in given] for _ in range(2))
            ahead[index][entry] += 1e-5
            behind[index][entry] -= 1e-5
            values = [numpy_contrastive(at[0], at[1], None, at[2]) for at in (ahead, behind)]
            expected[entry] = (values[0] - values[1]) / 2e-5
        np.testing.assert_allclose(gradient, expected, rtol=2e-3, atol=2e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_of_zero_rows_is_finite_and_an_overflow_is_not(name):
    u, v, means = (jnp.asarray(part, jnp.float32) for part in batch(1))

    def loss(u):
        return compiled(name)(Mapped(u, v, means, jnp.float32(SCALE)))

    assert np.isfinite(jax.jit(jax.grad(loss))(u.at[0].set(0))).all()
    if name != "huber":  # which grows slowly enough to stay a number
        assert not np.isfinite(loss(u * 1e30))


@pytest.mark.parametrize("name", ["cosine", "contrastive", "margin"])
def test_cosine_losses_do_not_see_lengths(name):
    loss = compiled(name)

    @given(scale=st.floats(0.01, 100), seed=st.integers(0, 50))
    @settings(max_examples=15, deadline=None)
    def same(scale, seed):
        u, v, means = batch(seed)
        expected = loss(on_device(u, v, means))
        np.testing.assert_allclose(loss(on_device(u * scale, v, means)), expected, rtol=1e-4)

    same()


@pytest.mark.parametrize("distance", [0.05, 0.6])  # the latter with singular values beyond √3
def test_polar_factor(distance):
    generator = np.random.default_rng(0)
    near = np.linalg.qr(generator.normal(size=(9, 4)))[0] + distance * generator.normal(size=(9, 4))
    np.testing.assert_allclose(polar(jnp.asarray(near, jnp.float32)), scipy.linalg.polar(near)[0], atol=2e-6)
    assert distance < 0.5 or np.linalg.norm(near, 2) > np.sqrt(3)


def test_orthogonality_is_zero_for_equal_orthogonal_columns_only():
    columns = np.linalg.qr(np.random.default_rng(0).normal(size=(9, 4)))[0]
    mixed = columns @ (np.eye(4) + 0.5 * np.eye(4, k=3))
    gram = mixed.T @ mixed
    gram *= 4 / np.trace(gram)
    found = [
        jax.jit(orthogonality)(jnp.asarray(factor, jnp.float32))
        for factor in (3 * columns, np.pad(columns, ((0, 0), (0, 2))), mixed)
    ]
    assert found[0] < 1e-10 and found[1] < 1e-10
    np.testing.assert_allclose(found[2], np.sum((gram - np.eye(4)) ** 2) / 4, rtol=1e-4)
