"""Identification and verification against brute force, on scores with and without ties."""

import brute_force
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import average_precision_score, top_k_accuracy_score

from jaxalign import UserError, biometrics
from jaxalign.biometrics import EvaluationPlan, kernels, plan
from jaxalign.biometrics.scores import Scorer

RATES = (1e-4, 1e-3, 1e-2, 0.1, 0.5, 1.0)
CUTOFF = 50


def identities(kind: str, rows: int, seed: int = 0) -> np.ndarray:
    """People of several distributions of photographs, in shuffled order."""
    random = np.random.default_rng(seed)
    if kind == "five each":
        labels = np.arange(rows) // 5
    elif kind == "one each but two":
        labels = np.append(np.arange(rows - 1), 0)
    elif kind == "one has most":
        labels = np.where(np.arange(rows) < 2 * rows // 3, 0, np.arange(rows))
    else:
        labels = random.zipf(1.6, rows) % 40
    return random.permutation(labels)


CASES = {
    # name: (kind of identities, probes, gallery rows (0: the same people as the probes), width)
    "edge below": ("five each", 63, 0, 64),
    "edge": ("five each", 64, 0, 64),
    "edge above": ("five each", 65, 0, 64),
    "singletons": ("one each but two", 64, 0, 64),
    "huge person": ("one has most", 128, 0, 64),
    "skewed": ("zipf", 300, 0, 64),
    "fine scores": ("zipf", 300, 0, 1024),
    "few ties": ("five each", 300, 0, 0),
    "more gallery": ("zipf", 64, 300, 64),
    "more probes": ("zipf", 300, 64, 64),
    "one probe": ("zipf", 1, 64, 64),
}
WAYS = {
    "sorted": {},  # small sets: every score sorted
    "strips": {"kept_scores": 0},  # large sets: scores never kept
    "tiles": {"kept_scores": 0, "gallery_rows": 64, "devices": jax.devices()[:3]},  # larger ones
}


def around_people(labels, seed=0):
    """Two sides of continuous rows, in float64."""
    random = np.random.default_rng(seed)
    people = random.standard_normal((labels.max() + 1, 64))
    return [people[labels] + random.standard_normal((len(labels), 64)) for _ in "ab"]


@pytest.fixture(params=WAYS, ids=str)
def way(request, monkeypatch):
    if request.param == "tiles":
        monkeypatch.setattr(plan, "STRIP_ROWS", 32)
        monkeypatch.setattr(plan, "SEGMENT_ROWS", 32)
    return dict(WAYS[request.param])


@pytest.fixture(params=CASES, ids=str)
def case(request):
    """Probes, gallery, their identities, same images and the scores, exact in float32."""
    kind, probes, gallery, width = CASES[request.param]
    labels = identities(kind, probes)
    if width == 0:  # continuous: the scores are what the kernel gives; counts on them are exact all the same
        left, right = (side.astype(np.float32) for side in around_people(labels))
        laid_out = EvaluationPlan.of(labels)
        scores = np.empty((probes, probes), np.float32)
        scores[laid_out.order] = Scorer(left, right, laid_out).run().scores
        assert np.allclose(scores, brute_force.cosines(left, right), atol=1e-6)
        return left, right, labels, None, np.arange(probes), scores
    left = brute_force.signs(probes, 1, width)
    if gallery:
        right, other = brute_force.signs(gallery, 2, width), identities(kind, gallery, 5)
        mated = labels[:, None] == other
        own = np.where((np.arange(probes) % 3 == 0) & mated.any(axis=1), mated.argmax(axis=1), -1)
        return left, right, labels, other, own, brute_force.cosines(left, right)
    flipped = np.random.default_rng(3).random(left.shape) < 0.3
    right = np.where(flipped, brute_force.signs(probes, 2, width), left)
    right[probes // 2 :: 7] = right[0]  # duplicates, of other people too
    return left, right, labels, None, np.arange(probes), brute_force.cosines(left, right)


def test_agrees_with_brute_force(case, way):
    left, right, labels, other, own, scores = case
    laid_out = EvaluationPlan.of(labels, other, own=own, kept_scores=way.pop("kept_scores", None))
    result = biometrics.evaluate(left, right, laid_out, fmr=RATES, least_false_matches=0, **way)
    mated = labels[:, None] == (labels if other is None else other)[None]
    check_identification(result, scores, mated, own)
    check_verification(result.verification, *brute_force.split(scores, mated, own))


def check_identification(result, scores, mated, own):
    for name, found in result.identification.items():
        expected = brute_force.ranked(scores, mated, own, name == "included")
        order = np.argsort(found.probe)
        assert found.probe[order].tolist() == expected.probe.tolist()
        assert found.rank[order].tolist() == expected.rank.tolist()
        for name in ("average_precision", "average_precision_50"):
            np.testing.assert_allclose(getattr(found, name)[order], getattr(expected, name), rtol=1e-12)
        if found.probes:
            assert found.cmc.tolist() == [np.mean(expected.rank <= k) for k in range(1, CUTOFF + 1)]
            assert found.rank_k == {k: np.mean(expected.rank <= k) for k in (1, 5, 10, 20)}


def check_verification(found, genuine, impostor):
    assert found.comparisons == (len(genuine), len(impostor))
    if not len(genuine) or not len(impostor):
        assert np.isnan([found.auc, found.eer]).all()
        assert not any(found.supported.values())
        return
    exact = brute_force.auc(genuine, impostor)
    assert abs(found.auc - exact) <= found.auc_error + 1e-12
    assert found.auc_error < 1e-4
    assert found.eer == pytest.approx(brute_force.eer(genuine, impostor), abs=1e-12)
    for fmr in RATES:
        threshold, matches, false = brute_force.operating_point(genuine, impostor, fmr)
        point = found.points[fmr]
        assert (point.false_matches, point.tmr) == (false, matches / len(genuine))
        assert point.achieved == false / len(impostor)
        assert point.threshold <= threshold
        assert np.sum(impostor >= point.threshold) == false
        if np.isfinite(point.threshold):
            below = np.nextafter(np.float32(point.threshold), np.float32(-2))
            assert np.sum(impostor >= below) / len(impostor) > fmr
    fmr, tmr, threshold = found.roc()
    assert (np.diff(fmr) >= 0).all() and (np.diff(tmr) >= 0).all()
    for k in range(0, len(fmr), 17):
        assert fmr[k] == np.mean(impostor >= threshold[k])
        assert tmr[k] == np.mean(genuine >= threshold[k])


def test_thresholds_are_found_in_two_passes(monkeypatch):
    passes, real = [], Scorer._pass
    monkeypatch.setattr(Scorer, "_pass", lambda self, *a, **o: passes.append(a[2]) or real(self, *a, **o))
    labels = np.random.default_rng(0).permutation(np.arange(1500) // 6)
    left, right = around_people(labels)
    by_sorting = biometrics.evaluate(left, right, EvaluationPlan.of(labels))
    assert not passes
    counted = biometrics.evaluate(left, right, EvaluationPlan.of(labels, kept_scores=0))
    assert [refinement is None for refinement in passes] == [True, False]
    assert by_sorting.verification is not None and counted.verification is not None
    assert counted.verification.rates.points == by_sorting.verification.rates.points
    assert counted.verification.eer == by_sorting.verification.eer
    for name in ("included", "excluded"):
        assert (counted.identification[name].rank == by_sorting.identification[name].rank).all()


def test_thresholds_among_scores_close_to_zero():
    """Bins there hold a billion floats: more than two passes, and the same numbers."""
    random = np.random.default_rng(0)
    rows = np.zeros((400, 256), np.float32)
    rows[np.arange(400), np.arange(400) % 100] = 1
    rows[:, 100:] = 1e-7 * random.standard_normal((400, 156)).astype(np.float32)
    labels = random.permutation(np.arange(400) // 4)
    found, expected = (
        biometrics.verify(rows, rows, EvaluationPlan.of(labels, kept_scores=k), fmr=RATES) for k in (0, None)
    )
    assert found.rates.points == expected.rates.points
    assert found.eer == expected.eer


def test_agrees_with_scikit_learn():
    labels = identities("five each", 300)
    left, right = around_people(labels)
    result = biometrics.evaluate(left, right, labels)
    scores = brute_force.cosines(left, right)
    mated = labels[:, None] == labels[None]
    expected = [average_precision_score(mated[i], scores[i]) for i in range(300)]
    assert result.identification["included"].map == pytest.approx(np.mean(expected), abs=1e-6)
    best = np.stack([scores[:, labels == person].max(axis=1) for person in range(60)], axis=1)
    top = top_k_accuracy_score(labels, best, k=1)
    assert result.identification["included"].rank_k[1] == pytest.approx(top, abs=1e-6)
    assert result.verification is not None
    auc = brute_force.auc(*brute_force.split(scores, mated, np.arange(300)))
    assert result.verification.auc == pytest.approx(auc, abs=1e-6)


def test_no_impostor_and_no_genuine_comparison():
    rows = brute_force.signs(5, 0)
    alone = biometrics.evaluate(rows, rows, [0, 0, 0, 0, 0])
    strangers = biometrics.evaluate(rows, rows, [0, 1, 2, 3, 4])
    assert alone.verification is not None and strangers.verification is not None
    assert np.isnan([alone.verification.auc, strangers.verification.eer]).all()
    assert alone.identification["included"].rank.tolist() == [1] * 5
    assert strangers.identification["excluded"].probes == 0
    assert np.isnan(strangers.identification["excluded"].map)
    for measure in [*alone.measures(), *strangers.measures()]:
        assert measure.value is not None


@pytest.mark.parametrize("wanted", ["included", "excluded"])
def test_identification_with_the_own_photograph_or_without_alone(wanted):
    rows, labels = brute_force.signs(40, 0), np.arange(40) // 4
    both = biometrics.evaluate(rows, rows, labels).identification
    found = biometrics.evaluate(rows, rows, labels, own_photograph=(wanted,)).identification
    assert list(both) == ["included", "excluded"] and list(found) == [wanted]
    np.testing.assert_array_equal(found[wanted].rank, both[wanted].rank)


def test_too_few_false_matches_are_no_number():
    rows, labels = brute_force.signs(40, 0), np.arange(40) // 2
    result = biometrics.verify(rows, rows, labels, fmr=(1e-3, 0.1))
    assert result.impostor == 40 * 38
    assert result.supported == {1e-3: False, 0.1: True}
    assert np.isnan([result.tmr[1e-3], result.threshold[1e-3], result.achieved[1e-3]]).all()
    assert biometrics.verify(rows, rows, labels, fmr=(1e-3,), least_false_matches=1.5).supported[1e-3]


def test_galleries_of_one_row_a_person(monkeypatch):
    labels = np.array(["b", "a", "b", "c", "a", "c", "c", "a"])
    left, right = brute_force.signs(8, 0), brute_force.signs(8, 1)
    first = np.array([0, 1, 3])
    own = np.array([0, 1, -1, 2, -1, -1, -1, -1])
    mated = labels[:, None] == labels[first][None]
    found = biometrics.evaluate(left, right, labels, templates="first")
    check_identification(found, brute_force.cosines(left, right[first]), mated, own)
    assert found.identification["excluded"].probes == 5
    pooled = np.stack([(right[labels == person] / 8).mean(axis=0) for person in "bac"])
    own = np.array([0, 1, 0, 2, 1, 2, 2, 1])
    scores = brute_force.cosines(left, pooled)
    for kept_scores in (0, 1 << 20):
        monkeypatch.setattr(plan, "SORTED_SCORES", kept_scores)
        found = biometrics.evaluate(left, right, labels, templates="pooled", least_false_matches=0)
        expected = brute_force.ranked(scores, mated, own, True)
        order = np.argsort(found.identification["included"].probe)
        assert found.identification["included"].rank[order].tolist() == expected.rank.tolist()
        others = [
            np.mean([right[j] / 8 for j in range(8) if labels[j] == labels[i] and j != i], axis=0)
            for i in range(8)
        ]
        without = scores.copy()
        without[mated] = [brute_force.cosines(left[i : i + 1], others[i][None])[0, 0] for i in range(8)]
        expected = brute_force.ranked(without, mated, np.full(8, -1), True)
        assert found.identification["excluded"].rank.tolist() == expected.rank.tolist()
        assert found.verification is not None
        assert found.verification.comparisons == (8, 16)
        assert found.verification.auc == pytest.approx(brute_force.auc(without[mated], without[~mated]))


@pytest.mark.parametrize("kept_scores", [0, 1 << 25])
def test_float64_where_the_caller_enabled_it(kept_scores):
    labels = identities("five each", 300)
    left, right = around_people(labels)
    with jax.enable_x64(True):
        laid_out = EvaluationPlan.of(labels, kept_scores=kept_scores)
        result = biometrics.evaluate(left, right, laid_out, fmr=RATES, least_false_matches=0)
    assert result.genuine_scores.dtype == np.float64
    scores = brute_force.cosines(left, right)
    mated = labels[:, None] == labels[None]
    genuine, impostor = brute_force.split(scores, mated, np.arange(300))
    assert result.verification is not None
    for fmr in RATES:
        _, matches, false = brute_force.operating_point(genuine, impostor, fmr)
        point = result.verification.points[fmr]
        assert (point.false_matches, point.tmr) == (false, matches / len(genuine))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8"])
def test_other_formats_are_compared_in_float32(dtype):
    rows, labels = brute_force.signs(60, 0), np.arange(60) // 3
    expected = [row.value for row in biometrics.evaluate(rows, rows, labels).measures()]
    other = jnp.asarray(rows).astype(dtype)
    found = [row.value for row in biometrics.evaluate(other, other, labels).measures()]
    np.testing.assert_equal(found, expected)


def test_compiles_once_for_test_sets_of_like_size():
    count = kernels.sweep._cache_size  # pyright: ignore[reportAttributeAccessIssue]
    for rows in (1000, 990, 1010):
        labels = np.random.default_rng(rows).permutation(np.arange(rows) // 4)
        before = count()
        sides = brute_force.signs(rows, 0), brute_force.signs(rows, 1)
        biometrics.evaluate(*sides, EvaluationPlan.of(labels, kept_scores=0))
    assert count() == before


@pytest.mark.parametrize("templates", ["all", "first", "pooled"])
def test_copies_of_the_probes_image_are_left_out_with_it(templates, way):
    """Half of the images are there twice or more; under another identity an equal image is an impostor's."""
    labels = identities("five each", 60)
    random = np.random.default_rng(4)
    images = labels // 2 * 10 + random.integers(
        0, 3, len(labels)
    )  # two people share the names of their images
    left, right = (side[np.unique(images, return_inverse=True)[1]] for side in around_people(labels))
    left = left + 1e-3 * random.standard_normal(left.shape)  # so that no scores tie
    same = (labels[:, None] == labels) & (images[:, None] == images)
    laid_out, kept = dict(gallery=right, probe_identities=labels, images=images), way.pop("kept_scores", None)
    if templates == "all":
        plan_ = EvaluationPlan.of(labels, images=images, kept_scores=kept)
        laid_out = dict(gallery=right, probe_identities=plan_)
    found = biometrics.evaluate(left, templates=templates, least_false_matches=0, **laid_out, **way)
    hits, genuine = [], []
    for probe, person in enumerate(labels):
        rows = np.arange(60)
        rows = (
            rows
            if templates == "all"
            else np.array([np.flatnonzero(labels == who)[0] for who in set(labels)])
        )
        if templates == "pooled":
            unit = right / np.linalg.norm(right, axis=1, keepdims=True)
            used = [(labels == who) & ~same[probe] for who in labels[rows]]
            gallery, there = (
                np.array([unit[one].sum(axis=0) for one in used]),
                np.array([one.any() for one in used]),
            )
        else:
            gallery, there = right[rows], ~same[probe, rows]
        mated = (labels[rows] == person) & there
        if mated.any():
            scores = brute_force.cosines(left[[probe]], gallery[there])[0]
            hits.append(mated[there][scores.argmax()])
            genuine += scores[mated[there]].tolist()
    excluded = found.identification["excluded"]
    assert excluded.probes == len(hits)
    assert excluded.rank_k[1] == pytest.approx(np.mean(hits))
    assert found.verification.comparisons[0] == len(genuine)  # pyright: ignore[reportOptionalMemberAccess]
    if templates == "all":
        exact = brute_force.auc(
            np.array(genuine), brute_force.cosines(left, right)[labels[:, None] != labels]
        )
        assert found.verification.auc == pytest.approx(exact, abs=1e-4)  # pyright: ignore[reportOptionalMemberAccess]


BAD = {
    "width": (dict(gallery=np.ones((4, 3))), "width"),
    "rows": (dict(probes=np.ones((3, 2))), "3"),
    "identities": (dict(probe_identities=[1, 2]), "expected 2 rows"),
    "nan": (dict(probes=np.array([[1, 0], [np.nan, 1], [1, 1], [2, 1]])), "1 of 4 rows are not finite.*: 1"),
    "zero": (dict(gallery=np.array([[1, 0], [0, 1], [1, 1], [0, 0]])), "1 of 4 rows are zero.*: 3"),
    "dimensions": (dict(probes=np.ones(4)), "shape"),
    "text": (dict(probes=np.full((4, 2), "x")), "numbers"),
    "own range": (dict(own=[0, 1, 2, 4]), "from −1 to 3"),
    "own length": (dict(own=[0, 1]), "own"),
    "own person": (dict(own=[1, 0, 3, 2], probe_identities=[0, 0, 1, 2]), "another person"),
    "images length": (dict(images=[0, 1]), "images: .* each of 4 rows"),
    "images missing": (dict(images=[0, 1, None, 2]), "images: expected a whole number or text"),
    "images and own": (dict(images=[0, 1, 2, 3], own=[0, 1, 2, 3]), "without own"),
    "rate": (dict(fmr=(0.0,)), "fmr"),
    "measure": (dict(measures=("speed",)), "speed"),
    "own photograph": (dict(own_photograph="excluded"), "own_photograph: .* included, excluded"),
    "rank": (dict(ranks=(0,)), "ranks"),
    "templates": (dict(templates="best"), "best"),
    "zero rows": (dict(zero_rows="drop"), "zero_rows"),
    "nobody": (dict(probe_identities=[]), "at least one"),
}


@pytest.mark.parametrize("name", BAD)
def test_refuses_in_one_sentence(name):
    change, words = BAD[name]
    good = dict(probes=np.eye(4)[:, :2] + 1, gallery=np.eye(4)[:, :2] + 1, probe_identities=[0, 0, 1, 1])
    with pytest.raises(UserError, match=words) as refused:
        biometrics.evaluate(**{**good, **change})
    assert "\n" not in str(refused.value)


def test_zero_rows_may_be_kept():
    rows = brute_force.signs(6, 0)
    rows[2] = 0
    result = biometrics.identify(rows, rows, [0, 0, 1, 1, 2, 2], zero_rows="keep")
    assert result["included"].probes == 6
