"""Choosing how to move a gallery, the verdict and the order of new enrolments, against NumPy and scikit-learn."""

import dataclasses
from typing import Any, cast

import numpy as np
import pytest
from planted import planted
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import Ridge

from jaxalign.biometrics import Sampled
from jaxalign.core.errors import UserError
from jaxalign.core.people import identity_folds
from jaxalign.core.rows import LazyRows
from jaxalign.gallery import Fingerprint, GalleryMap
from jaxalign.gallery.choose import CalibrationRows, Point, Way, choose, ways
from jaxalign.gallery.comparisons import ComparedFold, Pooled, everyone, require_support, sampled
from jaxalign.gallery.migration import Migration
from jaxalign.gallery.people_curve import people_curve
from jaxalign.gallery.reenrol import FALSE_ALARM, Losses, Signs, ordered
from jaxalign.gallery.verdict import Backfill, Evidence, decide

FMR = 0.02


def normalize(rows):
    rows = np.asarray(rows, np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def calibration():
    rows, people = planted(people=40, noise=0.6)
    old, new = (LazyRows.of(rows[name]).unit() for name in ("alpha", "gamma"))
    return CalibrationRows.of(("alpha", "gamma"), old, new, people, folds=4)


@pytest.fixture(scope="module")
def chosen(calibration):
    return choose(calibration, Point(FMR), ways(("ridge", "canonical")))


def blocks(people=9, seed=0):
    """Two folds of people with one to four photographs each."""
    random = np.random.default_rng(seed)
    person = np.repeat(np.arange(2 * people), random.integers(1, 5, 2 * people))
    rows = random.normal(size=(2 * people, 6))[person] + 0.8 * random.normal(size=(len(person), 6))
    gallery, probes = normalize(rows), normalize(rows + 0.4 * random.normal(size=rows.shape))
    folds = [person % 2 == k for k in range(2)]
    return [
        ComparedFold(gallery[of].astype("f4"), probes[of].astype("f4"), person[of], np.flatnonzero(of))
        for of in folds
    ]


def comparisons(given, drawn):
    """Genuine and impostor scores where a person who is drawn twice is there twice, each time another person."""
    genuine, impostor = [], []
    for block in given:
        scores = block.gallery @ block.probes.T
        for i, p in enumerate(block.people):
            for j, q in enumerate(block.people):
                if p != q:
                    impostor += [scores[i, j]] * int(drawn[p] * drawn[q])
                elif i != j:
                    genuine += [scores[i, j]] * int(drawn[p])
    return np.array(genuine), np.array(impostor)


def test_rates_of_resampled_people_are_those_of_people_who_are_there_so_often():
    given = blocks()
    pooled, weights = Pooled.of(given), everyone(18, 6, seed=3)
    assert (weights[0] == 1).all() and (weights.sum(axis=1) == 18).all()
    thresholds = pooled.thresholds(0.05, weights)
    found = pooled.shares(thresholds, weights)
    for drawn, threshold, share in zip(weights, thresholds, found):
        genuine, impostor = comparisons(given, drawn)
        achieved = np.mean(impostor[:, None] >= np.unique(impostor), axis=0)
        least = np.unique(impostor)[achieved <= 0.05][0]  # the lowest score that may be accepted
        below = np.unique(impostor)[achieved > 0.05][-1]
        assert below < threshold <= least
        assert share == pytest.approx(np.mean(genuine >= threshold))


def test_rows_with_a_large_common_mean_are_compared_in_float64():
    """Cosines of such rows differ in digits that float32 has not: against products in float64."""
    rows, people = planted(people=40, noise=0.6)
    old, new = (LazyRows.of(rows[name] + np.float32(300)).unit() for name in ("alpha", "gamma"))
    given = CalibrationRows.of(("alpha", "gamma"), old, new, people, folds=4)
    assert given.dtype == np.float64
    mover = next(given.movers(0, [Way("ridge", True)]))
    block, rows = given.compare(0, mover), given.compared[0]
    mapped = mover.gallery_map.apply_on_host(np.asarray(old, np.float64)[rows])
    oracle = normalize(mapped) @ normalize(np.asarray(new)[rows]).T
    spread = np.ptp(oracle)
    assert spread < 1e-4 and np.abs(block.scores() - oracle).max() < 1e-3 * spread
    pooled = given.own("gamma")
    found = pooled.shares(pooled.thresholds(FMR, everyone(40, 0)), everyone(40, 0))[0]
    genuine, impostor = comparisons(
        [given.block(k, *2 * (normalize(np.asarray(new)[of]),)) for k, of in enumerate(given.compared)],
        np.ones(40),
    )
    threshold = next(
        score for score in np.sort(impostor) if np.mean(impostor > score) <= FMR
    )  # no ties in float64
    assert found == pytest.approx(np.mean(genuine > threshold), abs=1e-12)
    assert len(np.unique(pooled.genuine)) > 0.4 * len(
        pooled.genuine
    )  # each of two photographs is scored twice


def misses(block, threshold, size):
    """How often each probe's search of ``size`` people fails, a mate enrolled by each of the other photographs."""
    scores, person, missed = block.gallery @ block.probes.T, block.people, []
    for j, p in enumerate(person):
        mates = [i for i in range(len(person)) if person[i] == p and i != j]
        others = [np.flatnonzero(person == q) for q in np.unique(person) if q != p]
        beaten = [np.mean([np.mean(scores[of, j] >= scores[i, j]) for of in others]) for i in mates]
        found = [(scores[i, j] >= threshold) * (1 - b) ** (size - 1) for i, b in zip(mates, beaten)]
        missed += [1 - np.mean(found)] if mates else []
    return missed


def test_searches_count_probes_and_people_who_beat_the_mate():
    given = blocks(seed=1)
    pooled, weights = Pooled.of(given), everyone(18, 0)
    threshold, size = 0.6, 4
    missed = [one for block in given for one in misses(block, threshold, size)]
    reached = pooled.shares(np.array([threshold]), weights, size)[0]
    assert 1 - reached == pytest.approx(np.mean(missed))
    few, many = (pooled.measured(threshold, size, people, everyone(18, 300)) for people in (4, 4000))
    assert few.estimate == many.estimate == pytest.approx(np.mean(missed))
    estimates = sampled(1 - pooled.shares(np.full(301, threshold), everyone(18, 300), size))
    spread = [of.interval()[1] - of.interval()[0] for of in (few, many, estimates)]
    assert spread[0] > 1.5 * spread[1] > 1.5 * 0.9 * spread[2]


def expected(calibration, fit, fmr=FMR):
    """TMR of old rows that a map of the other folds carries over, compared with new rows by cosine within a fold."""
    old, new = (np.asarray(side, np.float64) for side in (calibration.old, calibration.new))
    genuine, impostor = [], []
    for k in range(4):
        train, test = calibration.fold != k, calibration.fold == k
        mapped, probes = fit(old[train], new[train], old[test], new[test])
        scores = normalize(mapped) @ normalize(probes).T
        same = calibration.people[test][:, None] == calibration.people[test]
        genuine.append(scores[same & ~np.eye(len(scores), dtype=bool)])
        impostor.append(scores[~same])
    genuine, impostor = np.concatenate(genuine), np.sort(np.concatenate(impostor))
    return np.mean(genuine > impostor[-int(fmr * len(impostor)) - 1])


def test_candidates_are_measured_on_people_whom_their_maps_were_not_fitted_on(calibration, chosen):
    """Ridge with the penalty that each fold's fit chose, in the new network's own coordinates and centred."""
    movers = [next(calibration.movers(k, [Way("ridge", True)])) for k in range(4)]
    turn = iter(movers)

    def drop_in(x, y, x_new, y_new):
        mover = next(turn)
        weights = np.linalg.lstsq(x - x.mean(0), mover.gallery_map.apply_on_host(x) - y.mean(0))[0]
        scale = np.sqrt(np.var(y, axis=0).sum() / np.var((x - x.mean(0)) @ weights, axis=0).sum())
        assert scale == pytest.approx(1, abs=1e-5)  # the variance is the new network's
        return (x_new - x.mean(0)) @ weights + y.mean(0), y_new

    assert chosen.reached[Way("ridge", True)] == pytest.approx(expected(calibration, drop_in), abs=1e-9)

    def plain(x, y, x_new, y_new):
        return Ridge(alpha=1e-9).fit(x, y - y.mean(0)).predict(x_new), y_new - y.mean(0)

    fit = calibration.fit("linear", calibration.without(0)[0])
    assert fit.source.out_dim == 16
    linear = choose(calibration, Point(FMR), [Way("linear", False)])
    assert linear.reached[Way("linear", False)] == pytest.approx(expected(calibration, plain), abs=1e-9)


def test_the_best_of_either_kind_is_chosen(calibration, chosen):
    assert set(chosen.reached) == set(ways(("ridge", "canonical"))) and len(ways()) == 12
    for drop_in, way in chosen.best.items():
        kind = {other: value for other, value in chosen.reached.items() if other.drop_in == drop_in}
        assert way.drop_in == drop_in and chosen.reached[way] == max(kind.values())
        assert 0 <= chosen.optimism[drop_in] < 0.2
        assert len(chosen.movers[way]) == 4
    folds = identity_folds(calibration.identities, 4)
    assert (calibration.fold == folds).all()
    for mover in chosen.movers[chosen.best[True]]:
        assert len(mover.cohort) == 30


def test_the_way_back_is_measured_on_the_same_people_with_mapped_probes(calibration, chosen):
    resampled, rest = Sampled(0.0, np.zeros(50)), cast(Any, None)
    migration = Migration(
        calibration, Point(FMR), True, chosen, rest, rest, resampled, {}, rest, (), gallery_size=5
    )
    rates, (scores, natives) = migration.back.rates, migration.back.native
    way = chosen.best[True]
    assert migration.back.mover.gallery_map.out_dim == calibration.old.width
    names = {"names": ("gamma", "alpha"), "old": calibration.new, "new": calibration.old}
    turned = dataclasses.replace(calibration, **names)
    movers = iter([next(turned.movers(k, [way])) for k in range(4)])

    def back(x, y, x_new, y_new):
        return next(movers).gallery_map.apply_on_host(x_new), y_new

    rate = rates["tmr@fmr=0.02"]
    assert (
        rate.value == pytest.approx(expected(turned, back), abs=1e-9) and rate.low <= rate.value <= rate.high
    )
    missed, mapped, own = [], [], []
    for k, mover in enumerate(next(turned.movers(k, [way])) for k in range(4)):
        rows = calibration.compared[k]
        probes = normalize(mover.gallery_map.apply_on_host(np.asarray(calibration.new, np.float64)[rows]))
        gallery = normalize(np.asarray(calibration.old)[rows])
        missed += misses(ComparedFold(gallery, probes, calibration.people[rows], rows), -1, 5)
        others = ~np.eye(len(rows), dtype=bool)
        mapped.append((gallery @ probes.T)[others])
        own.append((gallery @ gallery.T)[others])
    assert rates["rank1"].value == pytest.approx(1 - np.mean(missed), abs=1e-6)
    curve = IsotonicRegression(out_of_bounds="clip").fit(np.concatenate(mapped), np.concatenate(own))
    at = np.linspace(-1, 1, 101)
    assert np.abs(np.interp(at, scores, natives) - curve.predict(at)).max() < 1e-3


def test_rows_of_both_networks_stand_in_one_gallery_and_are_compared_by_one_score(calibration):
    """The cosine less half of how near both lie to strangers, of the probes' side for whatever is enrolled."""
    (mover,) = calibration.movers(0, [Way("ridge", False, "cohort")])
    train, rows = np.flatnonzero(calibration.fold != 0), calibration.compared[0]
    old, new = (np.asarray(side, np.float64) for side in (calibration.old, calibration.new))
    old, new = normalize(mover.gallery_map.apply_on_host(old)), normalize(new - new[train].mean(axis=0))

    def near(side, strangers):
        people = [
            strangers[calibration.people == p].mean(axis=0) for p in np.unique(calibration.people[train])
        ]
        return np.sort(side[rows] @ normalize(people).T, axis=1)[:, -20:].mean(axis=1)

    new_rows = calibration.new.take(rows)
    probes = mover.probes(new_rows)
    sides = (mover.gallery(calibration.old.take(rows)), old), (mover.enrolled(new_rows), new)
    for enrolled, side in sides:
        expected = side[rows] @ new[rows].T - (near(side, new)[:, None] + near(new, old)) / 2
        assert np.abs(enrolled @ probes.T - expected).max() < 1e-5
    whole = (calibration.old.select(train), calibration.new.select(train))
    names = {"source": "alpha", "target": "gamma", "method": "ridge", "normalize": "l2", "score": "cohort"}
    options = {"options": {"top": 20}, "cohort": mover.cohort, "identities": calibration.identities[train]}
    saved = GalleryMap.of(mover.fit, rows=whole, **names, **options)
    assert np.abs(saved.vectors(new_rows, "gamma", enrolled=True) - mover.enrolled(new_rows)).max() < 1e-5
    assert np.abs(saved.vectors(new_rows, "gamma") - probes).max() < 1e-5


def test_more_people_do_not_hurt_and_the_last_size_is_everybody(calibration, chosen):
    way = chosen.best[True]
    sizes = list(people_curve(calibration, chosen.movers[way], Point(FMR), resamples=50))
    assert [size.people for size in sizes] == [2, 4, 8, 15, 30]
    assert sizes[-1].value == chosen.reached[way] > sizes[0].value
    assert all(size.low <= size.value <= size.high for size in sizes)


@pytest.mark.parametrize("way", ways(), ids=str)
def test_the_width_of_moved_rows_is_known_before_a_fit(calibration, way):
    """A server that refuses it is asked before minutes of fits."""
    (mover,) = calibration.movers(None, [way])
    assert mover.gallery(calibration.old.take(np.arange(3))).shape == (3, way.width(12, 16))


def test_usual_rows_are_compared_in_float32(calibration):
    assert calibration.dtype == np.float32 and calibration.own("gamma").genuine.dtype == np.float32


def test_too_few_people_are_told_how_many_are_needed(calibration):
    with pytest.raises(UserError, match=r"100,000 comparisons .* 40 people .* 5,760, about 167 people"):
        require_support(calibration.own("gamma"), 1e-4, "an operating point")
    with pytest.raises(UserError, match="needed"):
        choose(calibration, Point.of_search(0.001, 1000), [Way("ridge", True)])


def hits(value, spread=0.01):
    random = np.random.default_rng(0)
    return Sampled(value, value + spread * random.normal(size=1000))


@pytest.mark.parametrize(
    ("old", "new", "mapped", "optimism", "verdict"),
    [
        (0.80, 0.90, 0.85, 0.0, "map"),
        (0.80, 0.90, 0.785, 0.0, "map"),
        (0.80, 0.90, 0.785, 0.01, "map_and_reenrol"),
        (0.80, 0.90, 0.775, 0.0, "map_and_reenrol"),
        (0.80, 0.90, 0.50, 0.0, "reenrol"),
        (0.80, 0.90, 0.42, 0.0, "reenrol"),
        (0.90, 0.80, 0.95, 0.0, "stay"),
        (0.05, 0.90, 0.06, 0.0, "reenrol"),
    ],
)
def test_the_verdict(old, new, mapped, optimism, verdict):
    """The samples of all three share their chance, so differences are exact."""
    backfills = [Backfill(share, hits(mapped + share * (new - mapped)), mapped) for share in (0.1, 0.2, 0.5)]
    found = decide(Evidence(hits(old), hits(new), hits(mapped), optimism, backfills), 0.02)
    assert found.name == verdict
    assert found.margin == pytest.approx(mapped - old + 0.02 - optimism)
    assert found.share == {"map": 0, "stay": 0, "reenrol": 1, "map_and_reenrol": 0.1}[verdict]
    assert f"{100 * new:.1f} %" in found.reason


def test_an_interval_that_reaches_beyond_the_allowed_loss_fails_the_gate():
    loose = Sampled(0.8, 0.8 + 0.1 * np.random.default_rng(1).normal(size=1000))
    assert decide(Evidence(hits(0.8), hits(0.9), loose), 0.02).name == "reenrol"


@pytest.fixture(scope="module")
def losses():
    """A quarter of the old encoder's rows are spoilt by noise ten times the usual."""
    rows, people = planted(people=60, noise=0.2)
    spoilt = np.arange(len(people)) % 4 == 1
    noise = np.random.default_rng(5).normal(size=rows["alpha"].shape)
    old = np.where(spoilt[:, None], rows["alpha"] + 2 * noise, rows["alpha"])
    old, new = (LazyRows.of(side.astype("f4")) for side in (old, rows["gamma"]))
    calibration = CalibrationRows.of(("alpha", "gamma"), old, new, people, folds=4)
    movers = [next(calibration.movers(fold, [Way("ridge", True)])) for fold in range(4)]
    pooled = calibration.pooled(movers)
    found = Losses.of(calibration, movers, pooled, Point(FMR), "none")
    return found, np.concatenate([spoilt[rows] for rows in calibration.compared]), pooled


def test_a_loss_is_the_share_of_probes_that_a_new_enrolment_saves(losses):
    found, spoilt, pooled = losses
    threshold = pooled.thresholds(0.02, everyone(60, 0))[0]
    start = 0
    for fold, (block, mover) in enumerate(zip(pooled.blocks, found.movers)):
        new = found.calibration.new.take(found.calibration.compared[fold])
        unit = new / np.linalg.norm(new, axis=1, keepdims=True)
        same = (block.people[:, None] == block.people) & ~np.eye(len(new), dtype=bool)
        sides = block.gallery @ block.probes.T, unit @ unit.T
        missed = [np.sum(same & (scores < threshold), axis=1) / same.sum(axis=1) for scores in sides]
        lost = found.lost[start : start + len(new)]
        assert np.allclose(lost, missed[0] - missed[1]) and mover.probe_map is None
        start += len(new)
    assert found.lost[spoilt].mean() > 0.3 > 0.1 > found.lost[~spoilt].mean()


def test_spoilt_rows_come_first_and_their_new_enrolment_gains_most(losses):
    found, spoilt, _ = losses
    first = np.argsort(-found.expected)[: spoilt.sum()]
    assert spoilt[first].mean() > 0.8
    steps = list(found.backfills(everyone(60, 100)))
    assert [step.share for step in steps] == [0.05, 0.1, 0.2, 0.3, 0.5, 1.0]
    gains = {step.share: step.hits.estimate - step.at_random for step in steps}
    assert gains[0.2] > 0.05 and gains[1.0] == pytest.approx(0)
    assert steps[-1].hits.estimate == pytest.approx(
        Point(FMR).hits(found.calibration.own("gamma"), everyone(60, 0))[0]
    )


def test_nearness_is_to_equally_many_strangers_in_every_fold_and_for_the_gallery(losses):
    found, order = losses[0], losses[0].order()
    calibration, start = found.calibration, 0
    assert order.strangers == found.strangers == 45  # 60 people in four folds
    centroids = [
        normalize(calibration.new)[calibration.people == person].mean(axis=0) for person in range(60)
    ]
    final = next(calibration.movers(None, [Way("ridge", True)]))
    for fold, mover in [*enumerate(found.movers), (None, final)]:
        fitted = [
            p for p in range(60) if fold is None or p not in calibration.people[calibration.fold == fold]
        ]
        strangers = normalize([centroids[p] for p in fitted[:45]])
        rows = np.arange(240) if fold is None else calibration.compared[fold]
        old = normalize(mover.gallery_map.apply_on_host(np.asarray(calibration.old)[rows]))
        near = np.sort(old @ strangers.T, axis=1)[:, -20:].mean(axis=1)
        given = mover.nearness(calibration.old.take(rows), 45)
        assert np.abs(given - near).max() < 1e-5
        if fold is not None:
            assert np.abs(found.signs.hubness[start : start + len(rows)] - near).max() < 1e-5
            start += len(rows)
    of_folds = [np.quantile(found.signs.hubness[found.fold == fold], 0.99) for fold in range(4)]
    assert order.limits.hubness == pytest.approx(np.mean(of_folds))


def test_a_gallery_is_ordered_and_flagged_in_chunks(losses):
    found, _, _ = losses
    calibration, order = found.calibration, found.order()
    fingerprint = Fingerprint.of(calibration.old, calibration.identities, encoder="alpha", normalize="none")
    rows = np.asarray(calibration.old)
    far = 10 * np.random.default_rng(0).normal(size=(5, 12)).astype("f4")
    gallery = np.concatenate([rows, far])
    chunks = [
        (np.arange(start, min(start + 100, 245)), gallery[start : start + 100])
        for start in range(0, 245, 100)
    ]
    listed = ordered(order, found.movers[0], fingerprint, chunks)
    keys, losses_, _, flags = zip(*listed.lines())
    assert sorted(map(int, keys)) == list(range(245)) and (np.diff(losses_) <= 0).all()
    flagged = {int(key) for key, flag in zip(keys, flags) if "distance" in flag.split()}
    assert {240, 241, 242, 243, 244} <= flagged and len(flagged) <= 5 + 3 * FALSE_ALARM * 240
    signs = Signs.of(found.movers[0], fingerprint, rows, order.strangers)
    assert np.allclose(np.exp(signs.distance), fingerprint.distances(rows))
