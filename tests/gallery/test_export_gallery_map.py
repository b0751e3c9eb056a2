"""The command that exports takes maps of galleries: either side, and the columns of their cohort."""

import contextlib
import io
import pathlib

import numpy as np
import onnx
import pytest
from exported import mapped, run, unit

from experiments import export
from experiments.run import cli
from jaxalign.gallery import load_map


@pytest.fixture(scope="module")
def place(planted, two_sided, tmp_path_factory) -> pathlib.Path:
    place = tmp_path_factory.mktemp("place")
    two_sided.save(place / "two")
    planted.map("ridge", drop_in=True).save(place / "drop_in")
    planted.map(score="snorm", options={"top": 5}).save(place / "snorm")
    return place


def drive(place: pathlib.Path, *given: str) -> tuple[int, str]:
    """Exit status and output of an export to map.onnx."""
    said = io.StringIO()
    command = [
        "export",
        f"--map={place / given[0]}",
        f"--out={place / 'map.onnx'}",
        "--overwrite",
        *given[1:],
    ]
    with (
        pytest.raises(SystemExit) as ended,
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(said),
    ):
        cli.run(export.main, command, values=export.FLAGS)
    return int(ended.value.code or 0), said.getvalue()


def test_inner_products_of_both_sides_are_the_cohorts_score(planted, two_sided, place) -> None:
    sides = {"gallery": planted.x[planted.test], "probes": planted.y[planted.test]}
    found, units = {}, {}
    for side, rows in sides.items():
        status, said = drive(place, "two", f"--side={side}", "--cohort")
        assert status == 0 and "thresholds" not in said
        found[side], units[side] = (
            run(place / "map.onnx", rows),
            unit(mapped(rows, getattr(two_sided, side))),
        )
    cohort = two_sided.cohort
    r = [
        np.sort(units[side] @ people.T, axis=1)[:, -5:].mean(axis=1)
        for side, people in (("gallery", cohort.target), ("probes", cohort.source))
    ]
    expected = units["gallery"] @ units["probes"].T - (r[0][:, None] + r[1]) / 2
    np.testing.assert_allclose(found["gallery"] @ found["probes"].T, expected, atol=5e-6)


def test_a_side_is_chosen_by_name_or_encoder(planted, two_sided, place) -> None:
    expected = mapped(planted.y, two_sided.probes)
    for flag in ("--side=probes", "--encoder=new"):
        status, said = drive(place, "two", flag)
        assert status == 0 and "rows of new" in said and "for its score cohort, not for cosines" in said
        np.testing.assert_allclose(run(place / "map.onnx", planted.y), expected, atol=5e-6)
    assert drive(place, "drop_in") == drive(place, "drop_in", "--side=gallery", "--encoder=old")
    whole = load_map(place / "drop_in")
    np.testing.assert_allclose(
        run(place / "map.onnx", planted.x), mapped(planted.x, whole.gallery), atol=5e-6
    )
    texts = {entry.key: entry.value for entry in onnx.load(place / "map.onnx").metadata_props}
    assert texts["jaxalign.checksum"] == whole.checksum and texts["jaxalign.source"] == "old"


@pytest.mark.parametrize(
    "given, message",
    [
        ("two", "choose --side=gallery for rows of old or --side=probes for rows of new"),
        ("two --side=probes --encoder=old", "--side=probes is new"),
        ("two --encoder=third", "takes no rows of 'third'"),
        ("two --side=gallery --normalize=none", "--normalize=none contradicts"),
        ("drop_in --side=probes", "leaves rows of new as they are"),
        ("drop_in --cohort", "holds no cohort"),
        ("snorm --side=gallery --cohort", "has the score snorm"),
    ],
)
def test_refusals(given, message, place) -> None:
    (place / "map.onnx").unlink(missing_ok=True)
    status, said = drive(place, *given.split())
    assert status == 2 and message in said and said.count("\n") == 1
    assert not (place / "map.onnx").exists()
