"""Migrations between real networks on photographs of LFW, where they are: numbers are those of pairwise."""

import json

import pytest
from commands import read, run, succeed, value

from experiments import migrate, pairwise

NETWORKS = ("mobilefacenet", "dlib_resnet")
FAST = ("--methods=ridge", "--intervals=100", "--nodrop_in", "--at_fmr=0.001")
MEASURES = ("auc", "eer", "tmr@fmr=0.01", "tmr@fmr=0.001", "tmr@fmr=0.0001")


@pytest.fixture(scope="module")
def both(lfw_dev, tmp_path_factory):
    """The same maps by pairwise, both ways, fitted on training people and measured on test people."""
    out = tmp_path_factory.mktemp("real") / "pairwise"
    flags = (
        "--methods=ridge",
        "--scores=cosine,cohort",
        "--fmr=0.01,0.001,0.0001",
        "--measures=verification",
    )
    more = ("--nocurves", "--heatmaps=none", "--controls=none", f"--models={','.join(NETWORKS)}")
    succeed(pairwise, f"--store={lfw_dev}", *flags, *more, f"--out={out}")
    return read(out)


@pytest.mark.parametrize(("old", "new"), [NETWORKS, NETWORKS[::-1]])
def test_numbers_on_test_people_are_those_of_pairwise(lfw_dev, both, tmp_path, old, new):
    done = run(
        migrate,
        *(f"--calibration={lfw_dev}", "--split=42", f"--old={old}", f"--new={new}"),
        *(*FAST, f"--out={tmp_path / 'o'}"),
    )
    content = json.loads((tmp_path / "o" / "migration.json").read_text())
    assert done.returncode == (0 if content["verdict"] in ("map", "map_and_reenrol") else 3), done.stderr
    mine = [row for row in read(tmp_path / "o") if row["test_dataset"] and row["method"] == "ridge"]
    for measure in MEASURES:
        theirs = value(both, source=old, target=new, score=content["score"], measure=measure)
        assert value(mine, measure=measure) == pytest.approx(theirs, abs=1e-12), measure
    assert content["tested"]["people"] == 570
