"""Migrations between real networks on photographs of LFW, where they are: numbers are those of pairwise."""

import json

import numpy as np
import pytest
from commands import read, run, succeed, value

from experiments import migrate, pairwise
from jaxalign.data import EmbeddingStore

NETWORKS = ("mobilefacenet", "dlib_resnet")
PEOPLE = 500  # of 1,897, which take a minute of processor time
MEASURES = ("auc", "eer", "tmr@fmr=0.01", "tmr@fmr=0.001")


@pytest.fixture(scope="module")
def store(lfw_dev, tmp_path_factory):
    """All photographs of some people."""
    of = EmbeddingStore.open(lfw_dev, encoders=NETWORKS)
    rows = np.isin(of.identities, np.unique(of.identities)[:PEOPLE])
    place = tmp_path_factory.mktemp("real") / "store"
    EmbeddingStore.create(place, {name: np.asarray(of[name])[rows] for name in NETWORKS}, of.identities[rows])
    return place


@pytest.fixture(scope="module")
def both(store):
    """The same maps by pairwise, both ways, fitted on training people and measured on test people."""
    out = store.with_name("pairwise")
    flags = ("--methods=orthogonal", "--scores=cosine,cohort", "--fmr=0.01,0.001", "--measures=verification")
    succeed(
        pairwise,
        f"--store={store}",
        *flags,
        "--nocurves",
        "--heatmaps=none",
        "--controls=none",
        f"--out={out}",
    )
    return read(out)


@pytest.mark.parametrize(("old", "new"), [NETWORKS, NETWORKS[::-1]])
def test_numbers_on_test_people_are_those_of_pairwise(store, both, tmp_path, old, new):
    sides = f"--calibration={store}", "--split=42", f"--old={old}", f"--new={new}", f"--out={tmp_path / 'o'}"
    done = run(migrate, *sides, "--methods=orthogonal", "--intervals=100", "--nodrop_in", "--at_fmr=0.001")
    content = json.loads((tmp_path / "o" / "migration.json").read_text())
    assert done.returncode == (0 if content["verdict"] in ("map", "map_and_reenrol") else 3), done.stderr
    mine = [row for row in read(tmp_path / "o") if row["test_dataset"] and row["method"] == "orthogonal"]
    for measure in MEASURES:
        theirs = value(both, source=old, target=new, score=content["score"], measure=measure)
        assert value(mine, measure=measure) == pytest.approx(theirs, abs=1e-12), measure
    assert content["tested"]["people"] == 0.3 * PEOPLE
