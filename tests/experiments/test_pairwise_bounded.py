"""experiments.pairwise on rows that stay on disk, and on several devices: the same results."""

import csv

import numpy as np
import pytest

from experiments import pairwise
from experiments.run import cli, measuring
from jaxalign.biometrics import plan
from jaxalign.core import devices
from jaxalign.data import EmbeddingStore
from jaxalign.moments import accumulate


def drive(store, out, capsys, *more):
    flags = ["--methods=orthogonal,ridge", "--l2=0.1", "--seeds=7", "--controls=own,shuffled"]
    flags += ["--heatmaps=none", "--max_per_person=9", f"--store={store}", f"--out={out}", *more]
    with pytest.raises(SystemExit) as ended:
        cli.run(pairwise.main, ["pairwise", *flags], values=pairwise.FLAGS)
    assert not ended.value.code, capsys.readouterr().err
    with (out / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{name: row[name] for name in row if name not in ("threshold",)} for row in rows]


def test_results_do_not_depend_on_what_is_in_memory_nor_on_devices(tmp_path, capsys, monkeypatch):
    random = np.random.default_rng(0)
    identities = random.permutation(np.arange(300) % 30)
    latent = random.normal(size=(30, 8))[identities] + random.normal(size=(300, 8))
    rows = {
        name: (latent @ random.normal(size=(8, width))).astype(np.float16)
        for name, width in (("a", 9), ("b", 12))
    }
    EmbeddingStore.create(tmp_path / "store", rows, identities)
    expected = drive(tmp_path / "store", tmp_path / "one", capsys)
    monkeypatch.setattr(measuring, "TEST_BYTES", 0)
    monkeypatch.setattr(plan, "SORTED_SCORES", 0)
    monkeypatch.setattr(plan, "STRIP_ROWS", 16)
    monkeypatch.setattr(plan, "SEGMENT_ROWS", 16)
    monkeypatch.setattr(accumulate, "CHUNK_ELEMENTS", 500)
    monkeypatch.setattr(devices, "_least_pairs", lambda *_: 2)  # the matrix on two devices
    found = drive(tmp_path / "store", tmp_path / "two", capsys, "--devices=2")
    assert len(found) == len(expected) > 20
    for ours, theirs in zip(found, expected):
        assert {name: ours[name] for name in ("source", "target", "method", "measure", "comparisons")} == {
            name: theirs[name] for name in ("source", "target", "method", "measure", "comparisons")
        }
        np.testing.assert_allclose(*(np.float64(row["value"] or "nan") for row in (ours, theirs)), atol=1e-4)


@pytest.mark.parametrize("count", [0, 9])
def test_devices_that_are_not_there_are_refused(count, tmp_path, capsys):
    EmbeddingStore.create(tmp_path / "store", {"a": np.eye(8), "b": np.eye(8)}, np.arange(8) // 2)
    with pytest.raises(SystemExit) as ended:
        cli.run(
            pairwise.main,
            ["pairwise", f"--store={tmp_path / 'store'}", f"--out={tmp_path / 'out'}", f"--devices={count}"],
            values=pairwise.FLAGS,
        )
    assert ended.value.code == 2
    sentence = (
        f"error: --devices takes a whole number from 1 to 8, the cpu devices of this process; got {count}.\n"
    )
    assert capsys.readouterr().err.endswith(sentence)
    assert not (tmp_path / "out").exists()
