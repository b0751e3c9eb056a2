"""Scores, and open-set identification by them, against the independent numbers of the real store."""

import jax
import pytest
from reference_meaning import reference

from jaxalign.biometrics import Cohort, EvaluationPlan, comparator, draw, evaluate, open_set


def test_agrees_with_the_independent_numbers_of_the_real_store(shared):
    known = reference(shared)
    sets, said = draw(known.identities), known.said["open_set_sets"]
    assert known.sample_ids[sets.gallery].tolist() == said["gallery"]
    assert sorted(known.sample_ids[sets.probes]) == sorted(said["mated_probes"] + said["non_mated_probes"])
    every = EvaluationPlan.of(known.identities)
    plan = EvaluationPlan.of(known.identities[sets.probes], known.identities[sets.gallery])
    compared = 0
    with jax.enable_x64(True):
        for case in known.cases():
            cohort = Cohort.of(case.cohort_probes, case.cohort_gallery, known.cohort_identities)
            assert len(cohort) == known.said["cohort"]["people"]
            for name, searched in (("cosine", "open_set"), ("cohort", "open_set_cohort")):
                score = comparator(name, cohort)
                rates = evaluate(case.probes, case.gallery, every, score=score, measures=("verification",))
                expected = case.expected[name]
                assert {measure: rates[measure] for measure in expected} == pytest.approx(expected, abs=1e-12)
                sides = case.probes[sets.probes], case.gallery[sets.gallery]
                found = open_set(*sides, plan, score=score, fpir=(0.01, 0.03, 0.1))
                expected = dict(case.expected[searched])
                investigation = found.fnir(), found.fnir(candidates=20)
                of_ranks = expected.pop("investigation_r1"), expected.pop("investigation_r20")
                assert investigation == pytest.approx(of_ranks, abs=1e-12)
                for point, (rate, numbers) in zip(found.points, expected.items(), strict=True):
                    assert rate == f"fpir={point.fpir:g}"
                    assert point.threshold == pytest.approx(numbers.pop("threshold"), abs=1e-6)
                    shares = point.achieved, point.fnir, point.fnir_candidates, point.sel
                    names = "achieved_fpir", "fnir_r1", "fnir_r20", "sel"
                    assert shares == pytest.approx([numbers[part] for part in names], abs=1e-12)
            compared += 1
    assert compared == 28
