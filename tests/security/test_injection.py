"""Attacks against counts by hand, and against the independent numbers of the real store."""

import numpy as np
import pytest
from reference_meaning import reference

from jaxalign.biometrics import Cohort, EvaluationPlan, Resampling
from jaxalign.core.errors import UserError
from jaxalign.data import EmbeddingStore
from jaxalign.security.injection import KINDS, System, pairs_needed, require_others
from jaxalign.security.linkability import linkability


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_agrees_with_the_independent_numbers_of_the_real_store(shared):
    known = reference(shared)
    store = EmbeddingStore.open(shared / "data" / "lfw_dev", verify=False)
    index = {name: row for row, name in enumerate(np.asarray(store.sample_ids))}
    test = [index[name] for name in known.sample_ids]
    rows = {name: unit(np.asarray(store[name][test], np.float64)) for name in known.said["models"]}
    mean = {name: rows[name][0] - known.rows[name][1][0] for name in rows}
    plan, same = EvaluationPlan.of(known.identities), known.identities[:, None] == known.identities
    mated = same & ~np.eye(len(test), dtype=bool)
    systems = {name: System.of(rows[name], plan, (1e-4, 1e-3, 1e-2)) for name in rows}
    train = {name: sides[0] for name, sides in known.rows.items()}
    grams = {name: x.T @ x + 0.1 * np.eye(x.shape[1]) for name, x in train.items()}
    crosses: dict = {}
    cases = []  # the template that is presented, and both sides as they are compared for linkability
    for row in known.said["rows"]:
        source, target = row["source"], row["target"]
        if row["method"] == "identity":
            width = max(rows[name].shape[1] for name in (source, target))
            x, y = (
                np.pad(rows[name], ((0, 0), (0, width - rows[name].shape[1]))) for name in (source, target)
            )
            cases.append((row, x[:, : rows[target].shape[1]], x, y))
        elif "attack" in row:
            cross = crosses.setdefault((source, target), train[source].T @ train[target])
            left, _, right = (
                np.linalg.svd(cross, full_matrices=False) if row["method"] == "orthogonal" else [None] * 3
            )
            weights = np.linalg.solve(grams[source], cross) if left is None else left @ right
            mapped = known.rows[source][1] @ weights
            cases.append((row, mapped + mean[target], mapped, known.rows[target][1]))
    assert len(cases) == 36
    for row, templates, *sides in cases:
        for attack in systems[row["target"]].attacked_by(templates):
            expected = row["attack"][f"fmr={attack.fmr:g}"]
            found = [attack.rates[kind].estimate for kind in KINDS]
            names = ("same_photograph", "other_photograph", "other_person")
            assert found == pytest.approx([expected[name] for name in names], abs=1e-6)
        scores = unit(sides[0]) @ unit(sides[1]).T
        of = linkability(scores[mated], scores[~same], permutations=2)
        expected = row["linkability"]["d_sys"], row["linkability"]["maximal_linkability"]
        assert (of.d_sys.value, of.maximal.value) == pytest.approx(expected, abs=1e-6)


@pytest.fixture(scope="module")
def made():
    """Photographs of 40 people under a network, and noisy templates of them that an attacker has."""
    random = np.random.default_rng(5)
    person = np.repeat(np.arange(40), 5)
    rows = random.normal(size=(40, 12))[person] + 0.8 * random.normal(size=(200, 12))
    return person, rows, rows + 0.7 * random.normal(size=rows.shape)


@pytest.mark.parametrize("score", ["cosine", "cohort"])
def test_rates_and_intervals_are_counts_of_comparisons(made, score):
    person, rows, templates = made
    images = np.arange(200)
    images[1] = images[0]  # a copy: the same image
    plan = EvaluationPlan.of(person, images=images)
    people, cohort = Resampling.of(plan, resamples=20), None
    scores, own = unit(templates) @ unit(rows).T, unit(rows) @ unit(rows).T
    if score == "cohort":
        others = np.random.default_rng(6).normal(size=(60, 12))
        cohort = Cohort.of(others, others, np.arange(100, 160))
        near = lambda side: np.sort(unit(side) @ unit(others).T, axis=1)[:, -20:].mean(axis=1)  # noqa: E731
        scores = scores - (near(templates)[:, None] + near(rows)) / 2
        own = own - (near(rows)[:, None] + near(rows)) / 2
    system = System.of(rows, plan, (0.01,), score=score, cohort=cohort, weights=people.weights)
    (attack,) = system.attacked_by(templates)
    same = person[:, None] == person
    copy = images[:, None] == images
    impostor = np.sort(own[~same])[::-1]
    assert (
        impostor[int(0.01 * len(impostor))]
        < attack.threshold
        <= impostor[int(0.01 * len(impostor)) - 1] + 1e-9
    )
    masks = {"same_image": np.eye(200, dtype=bool), "other_image": same & ~copy, "other_person": ~same}
    for kind, mask in masks.items():
        rate = attack.rates[kind]
        assert rate.estimate == pytest.approx((scores >= attack.threshold)[mask].mean(), abs=1e-12)
        assert attack.comparisons[kind] == mask.sum()
        for draw in range(3):
            m = people.weights[draw][person].astype(float)
            weight = (np.outer(m, m) if kind == "other_person" else np.tile(m[:, None], (1, 200)))[mask]
            expected = np.average((scores >= attack.threshold)[mask], weights=weight)
            assert rate.samples[draw] == pytest.approx(expected, rel=1e-5)
    native = system.native()[0].rates
    assert native["same_image"].estimate == 1 and native["other_person"].estimate == system[0.01].achieved


def test_pairs_needed_interpolates_in_the_logarithm():
    found = pairs_needed([10, 100, 1000], [[0.1, 0.3, 0.7], [0.6, 0.7, 0.8], [0.0, 0.1, 0.2]], 0.5)
    assert found == pytest.approx([10**2.5, 10, np.inf])


def test_bad_input(made):
    person, rows, _ = made
    plan = EvaluationPlan.of(person)
    with pytest.raises(UserError, match="2 of 3 victims"):
        require_others(["a", "b", "c"], ["b", "c", "c", "d"])
    with pytest.raises(UserError, match="0.0001"):
        System.of(rows, plan, (1e-4,))
    system = System.of(rows, plan, (0.01,))
    with pytest.raises(UserError, match="12"):
        system.attacked_by(rows[:, :3])
    with pytest.raises(UserError, match="finite"):
        system.attacked_by(np.full_like(rows, np.nan))
    with pytest.raises(UserError, match="cohort"):
        System.of(rows, plan, (0.01,), score="cohort", cohort=Cohort.of(rows, rows, person))
