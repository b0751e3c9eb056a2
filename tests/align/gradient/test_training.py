"""The training loop on a toy whose course is known: one problem diverges, one stops early, the others go on."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign import device_mesh
from jaxalign.align.gradient import LowRank
from jaxalign.align.gradient.training import train


@dataclasses.dataclass(frozen=True)
class Parabola:
    """(w − 3)², which becomes NaN above a member's edge; people held out would rather have w at the member's wish."""

    chosen_by_held_out: bool
    shares_terms = False

    def batch(self, data, key):
        return None

    def held_out(self, data):
        return "held out" if self.chosen_by_held_out else None

    def loss(self, weights, member, data, batch):
        edge, wish = member
        goal = 3.0 if batch is None else wish
        return jnp.where(weights > edge, jnp.nan, (weights - goal) ** 2)

    def retract(self, weights):
        return weights


def fit(chosen_by_held_out, devices=1, double=False):
    edges, wishes = np.array([9, 1.0, 9, 9], np.float32), np.array([3, 3, 1.0, 3], np.float32)
    options = LowRank(steps=200, checks=50, patience=2, learning_rate=0.1).settled()
    mesh = device_mesh(jax.devices()[:devices], pairs=1)
    with jax.enable_x64(double):
        start, members = np.zeros(4, np.float32), (edges, wishes)
        return train(Parabola(chosen_by_held_out), options, start, members, np.zeros(()), mesh)


@pytest.mark.parametrize("devices", [1, 3])
def test_one_that_diverges_keeps_its_last_good_weights_and_others_go_on(devices):
    trained = fit(False, devices)
    assert trained.ok.tolist() == [True, False, True, True]
    np.testing.assert_allclose(trained.weights[[0, 2, 3]], 3, atol=1e-2)
    assert 0.5 < trained.weights[1] <= 1
    assert trained.steps.tolist()[::2] == [200, 200] and trained.steps[1] < 30
    assert np.isfinite(trained.losses[0]).all() and np.isnan(trained.losses[1, trained.steps[1] :]).all()


def test_one_that_gets_worse_on_people_held_out_stops_alone():
    trained = fit(True, double=True)
    assert trained.ok.tolist() == [True, False, True, True]
    np.testing.assert_allclose(trained.weights[[0, 3]], 3, atol=0.1)  # Adam swings past it, which is worse
    assert abs(trained.weights[2] - 1) < 0.3  # one check apart, steps of at most 0.1
    assert trained.steps[2] + 8 < trained.steps[0] == trained.steps[3]
    best = np.nanmin(trained.scores[2])
    assert best == (trained.weights[2] - 1) ** 2
