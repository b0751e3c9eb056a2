"""Maps fitted by gradient: closed-form optima, planted spaces, many pairs as one, devices, divergence, refusals."""

import jax
import numpy as np
import oracles
import pytest
from agreement import cosines

from jaxalign import FoldMoments, Moments, UserError, device_mesh, fit_joint_space, fit_low_rank, fit_pairs
from jaxalign.align.gradient import Joint, LowRank

WIDTHS = {"a": 24, "b": 40, "c": 16}  # all of one padded width, so that programs are shared
PEOPLE, EACH = 200, 3
IDENTITIES = np.repeat(np.arange(PEOPLE), EACH)


def rows(seed, noise=0.3):
    """Each encoder sees the same 6 traits of a person through loadings of its own, with noise and a mean."""
    generator = np.random.default_rng(seed)
    traits = np.repeat(generator.normal(size=(PEOPLE, 6)), EACH, axis=0)
    traits = traits + 0.2 * generator.normal(size=traits.shape)
    made = {}
    for name, width in WIDTHS.items():
        seen = traits @ np.random.default_rng(width).normal(size=(6, width)) + 2.0
        made[name] = (seen + noise * generator.normal(size=seen.shape)).astype(np.float32)
    return made


TRAIN, TEST = rows(0), rows(1)
DOUBLE = {name: array.astype(np.float64) for name, array in TRAIN.items()}
CONTRASTIVE = {"rank": 5, "steps": 120, "people": 100, "learning_rate": 1e-2}
SMALL = {"identities": IDENTITIES, "rank": 5, "steps": 10, "people": 100, "pairs": [("a", "b")]}


def best_squared_error(x, y, rank):
    """‖Y − X W‖² of the best W of this rank, about the means."""
    source, target = oracles.reduced_rank(x, y, l2=0.0, rank=rank)
    return np.sum((source(x) - target(y)) ** 2)


def squared_error(fit, x, y):
    return np.sum((np.asarray(fit.source(x)) - np.asarray(fit.target(y))) ** 2)


def rank1(fit, source, target):
    """How often the nearest other photograph under the other encoder is the same person's."""
    cos = cosines(fit.source, fit.target, TEST[source], TEST[target])
    np.fill_diagonal(cos, -np.inf)
    return np.mean(IDENTITIES[cos.argmax(1)] == IDENTITIES)


def factor_of(maps, source="a", target="b"):
    return maps[source, target].source.factors[0]


def assert_same_maps(found, expected):
    for pair in found:
        np.testing.assert_allclose(factor_of(found, *pair), factor_of(expected, *pair), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("start", ["random", None])
def test_squared_error_reaches_the_closed_form(start):
    """With every row in every batch; statistics and history are then those of the error."""
    options = {"rank": 4, "steps": 1000, "people": 600, "learning_rate": 1e-2}
    options["pairs"] = [("a", "b"), ("b", "c"), ("c", "a")]
    maps = fit_low_rank(TRAIN, loss="squared", start=start, **options)
    for (source, target), fit in maps.items():
        best = best_squared_error(DOUBLE[source], DOUBLE[target], 4)
        error = squared_error(fit, DOUBLE[source], DOUBLE[target])
        assert error <= best * (1 + 1e-3) and fit.source.rank == 4 and bool(fit.ok)
        share = error / np.sum((DOUBLE[target] - DOUBLE[target].mean(0)) ** 2)
        assert abs(float(fit.r2) - (1 - share)) < 1e-9
        losses = maps.history[source, target].losses
        assert len(losses) == 1000 and abs(losses[-1] - share) < 1e-4
        assert start is None or abs(losses[0] - 1) < 0.05


def test_squared_error_of_rank_deficient_rows_and_fewer_rows_than_columns():
    thin = {name: np.repeat(array[:12], 2, axis=0) for name, array in TRAIN.items()}
    maps = fit_low_rank(thin, loss="squared", rank=4, steps=10)
    for (source, target), fit in maps.items():
        x, y = (thin[name].astype(np.float64) for name in (source, target))
        scale = np.sum((y - y.mean(0)) ** 2)
        assert squared_error(fit, x, y) <= best_squared_error(x, y, 4) + 1e-3 * scale and bool(fit.ok)


@pytest.fixture(scope="module", params=[fit_low_rank, fit_joint_space])
def contrastive(request):
    """The function, and its maps from a random start."""
    return request.param, request.param(TRAIN, identities=IDENTITIES, start="random", **CONTRASTIVE)


def test_contrastive_loss_finds_people_from_a_random_start(contrastive):
    fit_all, maps = contrastive
    for (source, target), fit in maps.items():
        assert rank1(fit, source, target) > 0.1  # chance is 2 / 599
        losses = maps.history[source, target].losses
        assert losses[-10:].mean() < 0.4 * losses[0] and fit.source.out_dim == 5
    closed = fit_all(TRAIN, identities=IDENTITIES, **{**CONTRASTIVE, "learning_rate": 1e-3})
    assert all(rank1(fit, *pair) > 0.5 for pair, fit in closed.items())


def test_directions_mirror_each_other_and_statistics_are_those_of_the_mapped_rows(contrastive):
    fit_all, maps = contrastive
    if fit_all is fit_joint_space:  # one map for each encoder
        np.testing.assert_array_equal(factor_of(maps), factor_of(maps, "a", "c"))
        np.testing.assert_array_equal(factor_of(maps), maps["c", "a"].target.factors[0])
    forth, back = maps["a", "b"], maps["b", "a"]
    np.testing.assert_array_equal(forth.source.factors[0], back.target.factors[0])
    np.testing.assert_array_equal(forth.target(TEST["b"]), back.source(TEST["b"]))
    for (source, target), fit in maps.items():
        u, v = np.asarray(fit.source(DOUBLE[source])), np.asarray(fit.target(DOUBLE[target]))
        np.testing.assert_allclose(fit.residual, ((u - v) ** 2).mean(0), rtol=1e-4)
        np.testing.assert_allclose(u.mean(0), 0, atol=1e-10 * np.abs(u).max())


@pytest.mark.parametrize("devices", [2, 4])  # three problems or terms: one too many, one too few
def test_many_devices_are_one_device(contrastive, devices):
    fit_all, expected = contrastive
    mesh = device_mesh(jax.devices()[:devices], pairs=1)
    sharded = fit_all(TRAIN, identities=IDENTITIES, start="random", mesh=mesh, **CONTRASTIVE)
    assert_same_maps(sharded, expected)
    losses = [maps.history["a", "b"].losses for maps in (sharded, expected)]
    np.testing.assert_allclose(*losses, rtol=1e-3)


def test_one_pair_alone_and_under_double_precision_is_the_same():
    every = fit_low_rank(TRAIN, identities=IDENTITIES, start="random", **CONTRASTIVE)
    with jax.enable_x64(True):
        alone = fit_low_rank(TRAIN, identities=IDENTITIES, start="random", pairs=[("a", "b")], **CONTRASTIVE)
    assert_same_maps(alone, every)


def test_seeds_repeat_and_moments_given_beside_the_rows_change_nothing():
    with jax.numpy_dtype_promotion("strict"):  # where JAX allows no promotion of formats
        small = fit_low_rank(TRAIN, seed=3, **SMALL)
    again, other = (factor_of(fit_low_rank(TRAIN, seed=seed, **SMALL)) for seed in (3, 4))
    np.testing.assert_array_equal(factor_of(small), again)
    assert np.abs(other - again).max() > 0
    mesh = device_mesh(jax.devices()[:2], pairs=2)
    for moments in (FoldMoments.of(TRAIN), Moments.of(TRAIN), Moments.of(TRAIN, mesh=mesh)):
        assert_same_maps(fit_pairs(TRAIN, "low_rank", moments=moments, seed=3, **SMALL), small)


def test_ranks_by_default_and_in_full():
    wide = {name: np.random.default_rng(k).normal(size=(40, 150 + k)) for k, name in enumerate("ab")}
    cheap = {"steps": 1, "start": "random", "loss": "cosine"}  # no rank depends on them
    for rank, expected in ((None, LowRank.RANK), ("full", 150)):
        maps = fit_low_rank(wide, rank=rank, people=10, pairs=[("a", "b")], **cheap)
        assert maps["a", "b"].source.rank == maps.settings["a", "b"]["rank"] == expected
    # The narrower width, and the sum of the widths.
    assert fit_low_rank(TRAIN, **{**SMALL, **cheap, "rank": None})["a", "b"].source.rank == 24
    assert fit_joint_space(TRAIN, **{**SMALL, **cheap, "rank": None})["a", "b"].source.out_dim == 64


FALLING = [
    {"loss": "cosine"}, {"loss": "cosine", "two_sided": False}, {"loss": "huber"}, {"loss": "margin"},
    {"loss": "contrastive", "orthogonality": 0.1, "learn_temperature": False}, {"loss": "squared", "orthogonal": True},
]  # fmt: skip


@pytest.mark.parametrize("options", FALLING, ids=str)
def test_every_loss_falls(options):
    more = {**CONTRASTIVE, "start": "random", "pairs": [("a", "b")]}
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
    options = {"rank": 5, "steps": 300, "checks": 60, "patience": 2, "people": 10, "learning_rate": 1e-2}
    maps = fit_low_rank(few, identities=IDENTITIES[: 20 * EACH], held_out=0.5, **options)
    for pair, history in maps.history.items():
        assert len(history.held_out) == 61
        best = int(np.nanargmin(history.held_out[: 1 + len(history.losses) // 5]))
        assert len(history.losses) == min(300, 5 * (best + 2)), pair  # two checks without a better one
        assert maps[pair].ok


def test_a_pair_that_diverges_keeps_its_last_good_weights():
    maps = fit_low_rank(TRAIN, learning_rate=1e30, **SMALL)
    fit, history = maps["a", "b"], maps.history["a", "b"]
    assert not bool(fit.ok) and not history.ok
    assert np.isfinite(fit.source.factors[0]).all() and len(history.losses) < 10
    assert rank1(fit, "a", "b") > 0.5  # the closed form that it started from


def test_whitened_axes_start_at_the_same_maps():
    still = {"learning_rate": 1e-12, **SMALL}
    plain, whitened = (fit_low_rank(TRAIN, whitening=w, **still)["a", "b"] for w in (0.0, 0.5))
    for side, name in (("source", "a"), ("target", "b")):
        found, expected = (getattr(fit, side)(TEST[name]) for fit in (whitened, plain))
        scale = np.linalg.norm(expected) / np.linalg.norm(found)  # lengths are of no matter to cosines
        np.testing.assert_allclose(found * scale, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


BROKEN = {**TRAIN, "b": np.where(np.arange(len(IDENTITIES))[:, None] == 3, np.nan, TRAIN["b"])}


@pytest.mark.parametrize(
    ("method", "given", "options", "sentence"),
    [
        ("low_rank", TRAIN, {"loss": "hinge"}, "loss: .* squared, cosine"),
        ("low_rank", TRAIN, {"loss": "squared", "two_sided": True}, "two_sided=True"),
        ("low_rank", TRAIN, {"orthogonal": True, "two_sided": False}, "two_sided=True"),
        ("low_rank", TRAIN, {"start": "reduced_rank"}, "start: .* canonical or random"),
        ("low_rank", TRAIN, {"rank": 17}, "rank: at most 16 for a → c"),
        ("low_rank", TRAIN, {"rank": 0}, "rank: .* at least 1"),
        ("low_rank", TRAIN, {"rank": "cv"}, "rank"),
        ("low_rank", TRAIN, {"steps": 0}, "steps: .* at least 1"),
        ("low_rank", TRAIN, {"people": 1}, "people: .* at least 2"),
        ("low_rank", TRAIN, {"learning_rate": 0.0}, "learning_rate: .* above 0"),
        ("low_rank", TRAIN, {"temperature": float("nan")}, "temperature: .* above 0"),
        ("low_rank", TRAIN, {"whitening": 1.5}, "whitening: .* at most 1"),
        ("low_rank", TRAIN, {"whitening": 0.5, "two_sided": False}, "whitening"),
        ("low_rank", TRAIN, {"margin": 2.0}, "margin: .* at most"),
        ("low_rank", TRAIN, {"held_out": 0.7}, "held_out: .* at most 0.5"),
        ("low_rank", TRAIN, {"seed": -1}, "seed"),
        ("low_rank", TRAIN, {"learning_rat": 1.0}, "'low_rank' takes loss, rank"),
        ("low_rank", TRAIN, {"l2": 1.0}, "'low_rank' takes no l2"),
        ("low_rank", TRAIN, {"weights": np.ones(600)}, "'low_rank' takes no weights"),
        ("low_rank", TRAIN, {"identities": np.zeros(600)}, "at least two people to fit on, got 1 of 1"),
        ("low_rank", TRAIN, {"identities": IDENTITIES[:-1]}, "identities: .* 600 rows"),
        ("low_rank", BROKEN, {}, "NaN or infinite values are in 'b' in 1 rows"),
        ("low_rank", BROKEN, {"start": "random"}, "NaN or infinite values are in 'b' in 1 rows"),
        ("low_rank", FoldMoments.of(TRAIN), {}, "'low_rank' .* rows"),
        ("low_rank", TRAIN, {"moments": TRAIN}, "moments: .* got dict"),
        ("joint", TRAIN, {"moments": Moments.of({"a": TRAIN["a"]})}, "moments: b, c"),
        ("joint", TRAIN, {"orthogonal": True}, "orthogonal=True"),
        ("joint", TRAIN, {"two_sided": False}, "two_sided=False"),
        ("joint", TRAIN, {"rank": "full"}, "rank"),
        ("joint", TRAIN, {"start_options": {"rank": 3}}, "start_options"),
    ],
    ids=str,
)
def test_refusals(method, given, options, sentence):
    with pytest.raises(UserError, match=sentence):
        fit_pairs(given, method, **{"identities": IDENTITIES, **options})


def test_options_are_filled_in():
    assert LowRank().settled() == LowRank(two_sided=True, start="canonical")
    assert LowRank(loss="huber").settled() == LowRank(loss="huber", two_sided=False, start="reduced_rank")
    assert Joint().settled().start == "canonical"
