"""The doctor finds what was planted in a gallery, says nothing of a healthy one, and changes nothing."""

import json
import pathlib

import numpy as np
import pytest
from gallery_kinds import KINDS, NOTE, OUT, ROWS, transform

from experiments import doctor
from experiments.run import cli
from jaxalign.data import EmbeddingStore
from jaxalign.gallery.doctor import examine
from jaxalign.gallery.fingerprint import Fingerprint
from jaxalign.gallery.move import move_gallery
from jaxalign.gallery.stores import open_gallery

PEOPLE = np.repeat(np.arange(100), 5)
MIXING = {name: np.random.default_rng(seed).normal(size=(10, 16)) for seed, name in enumerate(("old", "new"))}


def rows_of(network, count=500, noise=0.3, seed=0):
    """Rows of a network: what people and photographs are, in its own coordinates."""
    rng = np.random.default_rng(100 + seed)
    latent = rng.normal(size=(count, 10))
    return (latent @ MIXING[network] + noise * rng.normal(size=(count, 16)) + 2).astype(np.float32)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def prints():
    kinds = {"source": "old", "target": "new"}
    of = {
        side: Fingerprint.of(rows_of(name), PEOPLE, encoder=name, normalize="l2")
        for side, name in kinds.items()
    }
    return of


def gallery(folder, rows):
    EmbeddingStore.create(folder / "g", {"e": rows}, np.arange(len(rows)))
    return open_gallery(str(folder / "g"))


def drive(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        cli.run(doctor.main, ["doctor", *map(str, arguments)], values=doctor.FLAGS, argument="The gallery")
    out, err = capsys.readouterr()
    return ended.value.code or 0, out, err


def test_what_was_planted_is_counted(tmp_path):
    rows = unit(rows_of("old")).astype(np.float16)
    rows[7], rows[9:11], rows[100], rows[200:203] = np.nan, 0, 3 * rows[100], rows[300]
    found = examine(gallery(tmp_path, rows))
    assert (found.rows, found.nonfinite, found.zero, found.duplicate) == (500, 1, 2, 3)
    assert found.unit == pytest.approx(496 / 497)
    assert [sentence.split()[0] for sentence in found.findings] == ["1", "2", "3", "1"]
    assert "(first: '007')" in found.findings[0] and "(first: '009')" in found.findings[1]


@pytest.mark.parametrize("scaled", [True, False])
def test_a_healthy_gallery_has_no_findings(tmp_path, prints, scaled):
    rows = rows_of("old")
    found = examine(gallery(tmp_path, unit(rows) if scaled else rows), prints)
    assert found.findings == () and found.unit == float(scaled)
    assert found.looks_like["old"] >= 490 and found.looks_like["new"] <= 1


def test_rows_of_two_networks_and_drift_are_told_apart(tmp_path, prints):
    for part in ("mixed", "drift"):
        (tmp_path / part).mkdir()
    mixed = examine(
        gallery(tmp_path / "mixed", np.concatenate([rows_of("old", 480), rows_of("new", 20)])), prints
    )
    assert len(mixed.findings) == 1 and "two networks are mixed" in mixed.findings[0]
    assert mixed.looks_like["new"] >= 18
    drifted = examine(gallery(tmp_path / "drift", rows_of("old", noise=1.5)), prints)
    assert len(drifted.findings) == 1 and "drifted" in drifted.findings[0]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.goes_on], ids=str)
def test_a_move_that_has_not_ended_is_found(kind, tmp_path):
    old, seen = kind.make(tmp_path), []

    def dies(rows):
        seen.append(len(rows))
        if len(seen) == 3:
            raise KeyboardInterrupt
        return transform(rows)

    with pytest.raises(KeyboardInterrupt), open_gallery(old) as given:
        move_gallery(given, None, dies, OUT, NOTE, chunk_rows=7)
    with open_gallery(old) as given:
        found = examine(given)
    assert found.rows == ROWS and len(found.findings) == 1 and f"14 of {ROWS}" in found.findings[0]


def test_the_command_prints_a_table_and_writes_json(tmp_path, capsys):
    healthy = gallery(tmp_path, unit(rows_of("old")))
    before = {path: path.read_bytes() for path in (tmp_path / "g").iterdir()}
    status, out, err = drive(capsys, tmp_path / "g", f"--json={tmp_path / 'found.json'}")
    assert (status, err) == (0, "") and "500 × 16 float32" in out and "found: nothing." in out
    written = json.loads((tmp_path / "found.json").read_text())
    assert written["gallery"] == healthy.place and written["findings"] == [] and written["unit"] == 1
    assert {path: path.read_bytes() for path in (tmp_path / "g").iterdir()} == before
    rows = np.zeros((3, 4), np.float32)
    EmbeddingStore.create(tmp_path / "zero", {"e": rows}, np.arange(3))
    status, out, _ = drive(capsys, tmp_path / "zero")
    assert status == 1 and "3 rows hold nothing but zeros" in out


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ([], "The gallery is missing"),
        (["nowhere"], "there is no store at nowhere"),
        (["g", "--json=found.json"], "exists and is left alone"),
        (["g", "--map=nothing"], "nothing is missing"),
    ],
)
def test_what_the_command_cannot_do_is_a_sentence(tmp_path, capsys, monkeypatch, flags, sentence):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("found.json").write_text("{}")
    EmbeddingStore.create("g", {"e": np.eye(3, dtype=np.float32)}, np.arange(3))
    status, out, err = drive(capsys, *flags)
    assert (status, out) == (2, "") and sentence in err and err.count("\n") == 1
