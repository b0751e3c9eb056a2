"""Maps fitted by gradient: closed-form optima, planted spaces, many pairs as one, devices, divergence, refusals."""

import jax
import numpy as np
import pytest

from jaxalign import Moments, UserError, device_mesh, fit_joint_space, fit_low_rank
from jaxalign.align.gradient import LowRank
from jaxalign.moments.sharded import ShardedMoments

WIDTHS = {"a": 24, "b": 40, "c": 16}  # all of one padded width, so that programs are shared
PEOPLE, EACH = 200, 3
IDENTITIES = np.repeat(np.arange(PEOPLE), EACH)


def rows(seed=0, noise=0.3, people=PEOPLE):
    """Each encoder sees the same 6 traits of a person through loadings of its own, with noise and a mean."""
    generator = np.random.default_rng(seed)
    traits = np.repeat(generator.normal(size=(people, 6)), EACH, axis=0)
    traits = traits + 0.2 * generator.normal(size=traits.shape)
    return {
        name: (traits @ np.random.default_rng(width).normal(size=(6, width))
               + noise * generator.normal(size=(len(traits), width)) + 2.0).astype(np.float32)
        for name, width in WIDTHS.items()
    }  # fmt: skip


TRAIN, TEST = rows(0), rows(1)


def best_squared_error(x, y, rank):
    """‖Y − X W‖² of the best W of this rank, about the means: fitted values truncated, in float64."""
    x, y = (part.astype(np.float64) - part.astype(np.float64).mean(0) for part in (x, y))
    fitted = x @ np.linalg.lstsq(x, y, rcond=None)[0]
    left, values, right = np.linalg.svd(fitted, full_matrices=False)
    return np.sum((y - (left[:, :rank] * values[:rank]) @ right[:rank]) ** 2)


def squared_error(fit, x, y):
    return np.sum(
        (np.asarray(fit.source(x.astype(np.float64))) - np.asarray(fit.target(y.astype(np.float64)))) ** 2
    )


@pytest.fixture(scope="module")
def squared():
    return fit_low_rank(TRAIN, loss="squared", start="random", rank=4, steps=1000)


def test_squared_error_reaches_the_closed_form_from_a_random_start(squared):
    for (source, target), fit in squared.items():
        best = best_squared_error(TRAIN[source], TRAIN[target], 4)
        assert squared_error(fit, TRAIN[source], TRAIN[target]) <= best * (1 + 1e-4)
        assert fit.source.rank == 4 and bool(fit.ok)


def test_history_and_statistics_are_the_error(squared):
    for (source, target), fit in squared.items():
        centred = TRAIN[target].astype(np.float64) - TRAIN[target].astype(np.float64).mean(0)
        share = squared_error(fit, TRAIN[source], TRAIN[target]) / np.sum(centred**2)
        assert abs(float(fit.r2) - (1 - share)) < 1e-9
        losses = squared.history[source, target].losses
        assert abs(losses[0] - 1) < 0.05 and abs(losses[-1] - share) < 1e-4


def test_closed_form_start_is_kept():
    maps = fit_low_rank(TRAIN, loss="squared", rank=4, steps=1000)
    for (source, target), fit in maps.items():
        best = best_squared_error(TRAIN[source], TRAIN[target], 4)
        assert squared_error(fit, TRAIN[source], TRAIN[target]) <= best * (1 + 1e-6)


def rank1(fit, source, target):
    """How often the nearest other photograph under the other encoder is the same person's."""
    u, v = np.asarray(fit.source(TEST[source])), np.asarray(fit.target(TEST[target]))
    cos = (u / np.linalg.norm(u, axis=1, keepdims=True)) @ (v / np.linalg.norm(v, axis=1, keepdims=True)).T
    np.fill_diagonal(cos, -np.inf)
    return np.mean(IDENTITIES[cos.argmax(1)] == IDENTITIES)


CONTRASTIVE = {"rank": 5, "steps": 120, "people": 100, "learning_rate": 1e-2}


@pytest.fixture(scope="module")
def contrastive():
    return fit_low_rank(TRAIN, identities=IDENTITIES, start="random", **CONTRASTIVE)


def test_contrastive_loss_finds_people_from_a_random_start(contrastive):
    for (source, target), fit in contrastive.items():
        assert rank1(fit, source, target) > 0.1  # chance is 2 / 599
        losses = contrastive.history[source, target].losses
        assert losses[-10:].mean() < 0.3 * losses[0]


def test_directions_of_a_pair_mirror_each_other(contrastive):
    forth, back = contrastive["a", "b"], contrastive["b", "a"]
    np.testing.assert_array_equal(forth.source.factors[0], back.target.factors[0])
    np.testing.assert_array_equal(forth.target(TEST["b"]), back.source(TEST["b"]))


def test_all_pairs_at_once_are_each_pair_alone(contrastive):
    alone = fit_low_rank(TRAIN, identities=IDENTITIES, start="random", pairs=[("a", "b")], **CONTRASTIVE)[
        "a", "b"
    ]
    np.testing.assert_allclose(
        alone.source.factors[0], contrastive["a", "b"].source.factors[0], rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("devices", [2, 3, 4])  # three problems: one too many, as many, one too few
def test_many_devices_are_one_device(contrastive, devices):
    spread = fit_low_rank(
        TRAIN, identities=IDENTITIES, start="random", mesh=device_mesh(jax.devices()[:devices]), **CONTRASTIVE
    )
    for pair, fit in spread.items():
        np.testing.assert_allclose(
            fit.source.factors[0], contrastive[pair].source.factors[0], rtol=1e-3, atol=1e-4
        )


SMALL = {"identities": IDENTITIES, "rank": 5, "steps": 10, "people": 100, "pairs": [("a", "b")]}


@pytest.fixture(scope="module")
def small():
    """The program that several tests share, traced where JAX allows no promotion of formats."""
    with jax.numpy_dtype_promotion("strict"):
        return fit_low_rank(TRAIN, seed=3, **SMALL)


def test_seeds_repeat(small):
    first, again, other = (maps["a", "b"].source.factors[0] for maps in (
        small, fit_low_rank(TRAIN, seed=3, **SMALL), fit_low_rank(TRAIN, seed=4, **SMALL)))  # fmt: skip
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0


@pytest.mark.parametrize(
    "options",
    [
        {"loss": "cosine"},
        {"loss": "cosine", "two_sided": False},
        {"loss": "huber"},
        {"loss": "margin"},
        {"loss": "contrastive", "orthogonality": 0.1, "learn_temperature": False},
        {"loss": "squared", "orthogonal": True},
    ],
    ids=str,
)
def test_every_loss_falls(options):
    more = {
        "rank": 5,
        "steps": 120,
        "people": 100,
        "learning_rate": 1e-2,
        "start": "random",
        "pairs": [("a", "b")],
    }
    maps = fit_low_rank(TRAIN, identities=IDENTITIES, **more, **options)
    losses, fit = maps.history["a", "b"].losses, maps["a", "b"]
    assert np.isfinite(losses).all() and losses[-10:].mean() < 0.7 * losses[:3].mean()
    assert bool(fit.ok) and fit.source.rank == 5
    if options.get("orthogonal"):
        for map_ in (fit.source, fit.target):
            gram = map_.factors[0].T @ map_.factors[0]
            np.testing.assert_allclose(gram / gram[0, 0], np.eye(5), atol=1e-5)


def test_early_stopping_keeps_the_best_weights():
    """With a tenth of the people to fit on, a large rate soon makes people held out worse."""
    few = {name: array[: 20 * EACH] for name, array in rows(2, noise=3.0).items()}
    maps = fit_low_rank(
        few, identities=IDENTITIES[: 20 * EACH], held_out=0.5, rank=5, steps=300, checks=60, patience=2, people=10,
        learning_rate=1e-2,
    )  # fmt: skip
    for pair, history in maps.history.items():
        assert len(history.held_out) == 61
        made = history.held_out[: 1 + len(history.losses) // 5]
        best = int(np.nanargmin(made))
        assert len(history.losses) == min(300, 5 * (best + 2)), pair  # two checks without a better one
        assert maps[pair].ok


def test_a_pair_that_diverges_keeps_its_last_good_weights(small):
    maps = fit_low_rank(TRAIN, learning_rate=1e30, **SMALL)
    fit, history = maps["a", "b"], maps.history["a", "b"]
    assert not bool(fit.ok) and not history.ok
    assert np.isfinite(fit.source.factors[0]).all() and len(history.losses) < 10
    assert rank1(fit, "a", "b") > 0.5  # the closed form that it started from


@pytest.fixture(scope="module")
def joint():
    return fit_joint_space(TRAIN, identities=IDENTITIES, start="random", **CONTRASTIVE)


def test_joint_space(joint):
    maps = joint
    assert {fit.source.out_dim for fit in maps.values()} == {5}
    np.testing.assert_array_equal(maps["a", "b"].source.factors[0], maps["a", "c"].source.factors[0])
    np.testing.assert_array_equal(maps["a", "b"].source.factors[0], maps["c", "a"].target.factors[0])
    for (source, target), fit in maps.items():
        assert rank1(fit, source, target) > 0.1
    closed = fit_joint_space(TRAIN, identities=IDENTITIES, **{**CONTRASTIVE, "learning_rate": 1e-3})
    for (source, target), fit in closed.items():
        assert rank1(fit, source, target) > 0.5


@pytest.mark.parametrize("devices", [2, 3, 4])  # three pairs of encoders: one too many, as many, one too few
def test_joint_space_of_many_devices_is_that_of_one(joint, devices):
    spread = fit_joint_space(
        TRAIN, identities=IDENTITIES, start="random", mesh=device_mesh(jax.devices()[:devices]), **CONTRASTIVE
    )
    for pair, fit in spread.items():
        np.testing.assert_allclose(fit.source.factors[0], joint[pair].source.factors[0], rtol=1e-3, atol=1e-4)
    losses = [maps.history["a", "b"].losses for maps in (spread, joint)]
    np.testing.assert_allclose(*losses, rtol=1e-4)


def test_whitened_axes_start_at_the_same_maps(small):
    plain, whitened = (
        fit_low_rank(TRAIN, whitening=w, learning_rate=1e-12, **SMALL)["a", "b"] for w in (0.0, 0.5)
    )
    for side in ("source", "target"):
        found, expected = (
            getattr(fit, side)(TEST["a" if side == "source" else "b"]) for fit in (whitened, plain)
        )
        scale = np.linalg.norm(expected) / np.linalg.norm(found)  # lengths are of no matter to cosines
        np.testing.assert_allclose(found * scale, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


def test_callers_double_precision_changes_nothing(contrastive):
    with jax.enable_x64(True):
        again = fit_low_rank(TRAIN, identities=IDENTITIES, start="random", **CONTRASTIVE)
    np.testing.assert_array_equal(again["a", "c"].source.factors[0], contrastive["a", "c"].source.factors[0])


def test_statistics_of_a_random_start_are_those_of_the_mapped_rows(contrastive):
    """No moments of pairs are taken there."""
    for (source, target), fit in contrastive.items():
        u, v = (np.asarray(side(TRAIN[name].astype(np.float64)))
                for side, name in ((fit.source, source), (fit.target, target)))  # fmt: skip
        np.testing.assert_allclose(fit.residual, ((u - v) ** 2).mean(0), rtol=1e-4)
        np.testing.assert_allclose(u.mean(0), 0, atol=1e-10 * np.abs(u).max())


def test_a_random_start_of_more_rows_than_are_mapped_at_once():
    many = {name: np.concatenate([TRAIN[name], TEST[name]])[:1100] for name in ("a", "b")}
    fit = fit_low_rank(many, start="random", rank=5, steps=1, people=100, pairs=[("a", "b")])["a", "b"]
    u, v = (
        np.asarray(side(many[n].astype(np.float64))) for side, n in ((fit.source, "a"), (fit.target, "b"))
    )
    np.testing.assert_allclose(fit.residual, ((u - v) ** 2).mean(0), rtol=1e-4)


def test_moments_over_a_mesh_are_gathered(small):
    moments = Moments.of(TRAIN, mesh=device_mesh(jax.devices()[:2], pairs=2))
    assert isinstance(moments, ShardedMoments)
    maps = fit_low_rank(TRAIN, moments=moments, loss="squared", rank=4, steps=10)
    for (source, target), fit in maps.items():
        best = best_squared_error(TRAIN[source], TRAIN[target], 4)
        assert squared_error(fit, TRAIN[source], TRAIN[target]) <= best * (1 + 1e-6)
    spread = fit_low_rank(TRAIN, moments=moments, seed=3, **SMALL)["a", "b"]
    np.testing.assert_allclose(
        spread.source.factors[0], small["a", "b"].source.factors[0], rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("fit", [fit_low_rank, fit_joint_space])
def test_moments_of_another_kind_are_refused(fit):
    with pytest.raises(UserError, match="moments: expected those of the training rows, got dict"):
        fit(TRAIN, moments=TRAIN)
    with pytest.raises(UserError, match="moments: b, c is not among its encoders a"):
        fit(TRAIN, moments=Moments.of({"a": TRAIN["a"]}))


@pytest.mark.parametrize("start", ["random", "canonical"])
def test_rows_that_are_not_finite_are_refused(start):
    broken = {**TRAIN, "b": TRAIN["b"].copy()}
    broken["b"][3, 1] = np.nan
    with pytest.raises(UserError, match="NaN or infinite values are in 'b' in 1 rows"):
        fit_low_rank(broken, identities=IDENTITIES, start=start)


def test_rank_deficient_rows_and_fewer_rows_than_columns():
    thin = {name: np.repeat(array[:12], 2, axis=0) for name, array in TRAIN.items()}
    maps = fit_low_rank(thin, loss="squared", rank=4, steps=10)
    for (source, target), fit in maps.items():
        best = best_squared_error(thin[source], thin[target], 4)
        assert squared_error(fit, thin[source], thin[target]) <= best * (1 + 1e-4) + 1e-6


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"loss": "hinge"}, "loss: expected one of squared, cosine"),
        ({"loss": "squared", "two_sided": True}, "smallest where both maps are zero"),
        ({"orthogonal": True, "two_sided": False}, "it needs two_sided=True"),
        ({"start": "reduced_rank"}, "two-sided maps start from canonical or random"),
        ({"rank": 17}, "rank: at most 16 for a → c"),
        ({"rank": 0}, "rank: expected an integer of at least 1"),
        ({"steps": 0}, "steps: expected a whole number of at least 1"),
        ({"people": 1}, "people: expected a whole number of at least 2"),
        ({"learning_rate": 0.0}, "learning_rate: expected a number above 0"),
        ({"temperature": float("nan")}, "temperature: expected a number above 0"),
        ({"whitening": 1.5}, "whitening: expected a number of at least 0 and at most 1"),
        ({"whitening": 0.5, "two_sided": False}, "whitening: of use for two-sided maps"),
        ({"margin": 2.0}, "margin: expected a number of at least 0 and at most"),
        ({"held_out": 0.7}, "held_out: expected a number of at least 0 and at most 0.5"),
        ({"loss": "squared", "held_out": 0.1}, "leave held_out at 0"),
        ({"seed": -1}, "seed: expected a whole number"),
        ({"learning_rat": 1.0}, "method 'low_rank' takes loss, rank"),
        ({"identities": np.zeros(len(IDENTITIES))}, "at least two people to fit on, got 1 of 1"),
        ({"identities": IDENTITIES[:-1]}, "identities: expected one identity for each of 600 rows"),
    ],
    ids=str,
)
def test_refusals(options, sentence):
    with pytest.raises(UserError, match=sentence):
        fit_low_rank(TRAIN, **{"identities": IDENTITIES, **options})


def test_settings_are_filled_in():
    assert LowRank().settled() == LowRank(two_sided=True, start="canonical", learning_rate=3e-4)
    assert LowRank(loss="huber").settled().start == "reduced_rank"
    with pytest.raises(UserError, match="orthogonal=True is for pairs"):
        fit_joint_space(TRAIN, identities=IDENTITIES, orthogonal=True)
