"""What must hold for any test set: order of rows does not matter, nor any monotone change of the scores."""

import brute_force
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxalign import biometrics
from jaxalign.biometrics.templates import first_rows, pooled


def measures(left, right, labels, others, own=None):
    rows = biometrics.evaluate(left, right, labels, others, own=own, least_false_matches=0).measures()
    return {(row.own_photograph, row.measure): row.value for row in rows}


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 12))
def test_order_of_rows_does_not_matter(seed, people):
    random = np.random.default_rng(seed)
    labels = random.integers(0, people, 60)
    left, right = brute_force.signs(60, seed), brute_force.signs(60, seed + 1)
    probes, gallery = random.permutation(60), random.permutation(60)
    expected = measures(left, right, labels, labels, np.arange(60))
    place = np.argsort(gallery)
    found = measures(left[probes], right[gallery], labels[probes], labels[gallery], place[probes])
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-12, equal_nan=True)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_a_monotone_change_of_scores_changes_no_rate(seed):
    """192 coordinates common to all rows turn each cosine c into (c + 3) / 4, exactly."""
    labels = np.random.default_rng(seed).integers(0, 9, 60)
    left, right = brute_force.signs(60, seed), brute_force.signs(60, seed + 1)
    moved = [np.column_stack([side, np.ones((60, 192), np.float32)]) for side in (left, right)]
    expected, found = measures(left, right, labels, labels), measures(*moved, labels, labels)  # pyright: ignore[reportCallIssue]
    for name, value in expected.items():
        np.testing.assert_equal(found[name], value)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=30))
def test_galleries_of_one_row_a_person_hold_everybody_once(labels):
    rows = np.random.default_rng(0).standard_normal((len(labels), 4))
    templates, people = pooled(rows, labels)
    assert people.tolist() == list(dict.fromkeys(labels))
    assert np.array(labels)[first_rows(labels)].tolist() == people.tolist()
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    for template, person in zip(templates, people):
        np.testing.assert_allclose(template, unit[np.array(labels) == person].mean(axis=0))
