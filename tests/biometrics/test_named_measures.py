"""Results of an evaluation, read by name, as records and as a table."""

import builtins

import numpy as np
import pytest

import jaxalign
from jaxalign import UserError

RANDOM = np.random.default_rng(0)
PEOPLE = np.repeat(np.arange(12), 3)
ROWS = RANDOM.normal(size=(12, 8))[PEOPLE] + 0.6 * RANDOM.normal(size=(36, 8))
RESULT = jaxalign.evaluate(ROWS, ROWS, PEOPLE, fmr=[0.1])


def test_measures_by_name() -> None:
    rows = list(RESULT.measures())
    for row in rows:
        assert RESULT[row.measure, row.own_photograph] == row.value
        assert row._asdict() in RESULT.records()
    assert RESULT["rank1"] == RESULT["rank1", "excluded"] < RESULT["rank1", "included"] == 1
    assert RESULT["tmr@fmr=0.1"] == RESULT.verification.rates.points[0].tmr  # pyright: ignore[reportOptionalMemberAccess]
    for wrong in ("tmr@fmr=0.2", ("auc", "included")):
        with pytest.raises((UserError, KeyError), match=r"rank1.*tmr@fmr=0\.1"):
            RESULT[wrong]
    text = repr(RESULT)
    assert f"auc {RESULT['auc']:.4f}" in text and "same image excluded" in text and text.count("\n") < 10
    assert RESULT._repr_html_().count("<tr>") == len(rows)
    assert (RESULT == 3) is False and (RESULT == RESULT) is True


def test_a_gallery_without_the_probes_images_has_nothing_to_exclude() -> None:
    first = np.arange(36) % 3 == 0
    sides = ROWS[~first], ROWS[first], PEOPLE[~first], PEOPLE[first]
    found = jaxalign.evaluate(*sides, fmr=[0.1])
    assert list(found.identification) == ["absent"] and "same image absent" in repr(found)
    for wanted in ("included", "excluded"):
        one = jaxalign.evaluate(*sides, fmr=[0.1], own_photograph=[wanted])
        np.testing.assert_array_equal(one.identification["absent"].rank, found.identification["absent"].rank)
    own = np.full(24, -1)
    own[0] = 0  # of one probe
    assert list(jaxalign.evaluate(*sides, own=own).identification) == ["included", "excluded"]


def test_a_frame_needs_pandas(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = builtins.__import__

    def without(name: str, *given, **more):
        if name == "pandas":
            raise ImportError(name)
        return usual(name, *given, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"pandas.*records"):
        RESULT.to_frame()
    monkeypatch.undo()
    pandas = pytest.importorskip("pandas")
    assert isinstance(RESULT.to_frame(), pandas.DataFrame) and len(RESULT.to_frame()) == len(RESULT.records())
