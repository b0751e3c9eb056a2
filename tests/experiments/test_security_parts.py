"""The parts keys, matching and attributes of the command, on planted networks, against NumPy."""

import numpy as np
import pytest
from commands import read, run, succeed, value
from planted import planted, refused_with

from experiments import security
from jaxalign.core.people import published_split
from jaxalign.data import EmbeddingStore

FLAGS = ("--models=alpha,beta", "--methods=orthogonal", "--intervals=20", "--fmr=0.05", "--at_fmr=0.05")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A store with attributes, and what the command writes for it."""
    place = tmp_path_factory.mktemp("security")
    rows, people = planted(people=60)
    EmbeddingStore.create(place / "store", rows, people, dataset="planted")
    store = EmbeddingStore.open(place / "store")
    high = rows["alpha"][:, 0] > np.median(rows["alpha"][:, 0])  # what a probe can read
    lines = [f"{name},{'yes' if one else 'no'}" for name, one in zip(store.sample_ids, high)]
    (place / "labels.csv").write_text("\n".join(["sample_id,beard", *lines]) + "\n")
    given = (f"--store={place / 'store'}", f"--attributes={place / 'labels.csv'}", f"--out={place / 'o'}")
    succeed(security, *given, *FLAGS, "--parts=keys,matching,attributes")
    return place


def test_keys_fall_to_as_many_pairs_as_their_width(place):
    rows = [row for row in read(place / "o") if row["source"] == row["target"] == "beta"]
    free = {"variant": "noise=0.0", "measure": "pairs_to_know_key"}
    for kind, least in (("orthogonal", 12), ("projection", 12)):
        assert value(rows, method=f"{kind}:least_squares", **free) == least
    assert value(rows, method="sign_permutation:assignment", **free) == 1
    (codes,) = [
        row
        for row in rows
        if row["method"] == "sign_codes:ridge"
        and row["measure"] == free["measure"]
        and row["variant"] == free["variant"]
    ]
    assert codes["value"] == "" and codes["reason"]
    here = {"axis": "known_pairs", "variant": "noise=0.0", "method": "orthogonal:procrustes"}
    assert value(rows, **here, measure="key_undetermined", at=11.0) == 1
    accepted = [row for row in rows if row["measure"] == "key_accepted@fmr=0.05"]
    assert accepted and all(
        float(row["low"]) <= float(row["value"]) <= float(row["high"]) for row in accepted
    )
    without, rotated = (
        value(rows, method=method, measure="key_d_sys") for method in ("none:cosine", "orthogonal:cosine")
    )
    assert rotated < 0.3 < 0.8 < without
    assert value(rows, method="orthogonal:pairs", measure="key_d_sys") == pytest.approx(without, abs=0.1)


def test_collections_are_matched_and_chance_stands_beside(place):
    rows = [row for row in read(place / "o") if (row["source"], row["target"]) == ("alpha", "beta")]
    assert value(rows, measure="matched_chance") == pytest.approx(1 / 18)  # 18 of 60 people are victims
    best = value(rows, measure="matched_rank1", method="all_pairs")
    seeded = {"method": "same_photographs", "pairs_owned": 20}
    assert value(rows, **seeded, measure="matched_rank1_chosen") > 0.9 * best > 0.5
    restarts = [
        float(row["value"])
        for row in rows
        if row["measure"] == "matched_rank1" and all(row[k] == str(v) for k, v in seeded.items())
    ]
    assert len(restarts) == 3
    assert value(rows, **seeded, measure="matched_success") == np.mean(
        [rate >= best / 2 for rate in restarts]
    )
    assert not [
        row for row in read(place / "o") if row["source"] == "beta" and row["measure"] == "matched_chance"
    ]


def test_attributes_are_read_in_either_network_and_across(place):
    rows = read(place / "o")
    here = {"source": "alpha", "target": "beta", "method": "orthogonal"}
    rates = {
        where: value(rows, **here, measure=f"attribute_{where}:beard")
        for where in ("source", "target", "across", "chance")
    }
    assert min(rates["source"], rates["target"], rates["across"]) > 0.8 > rates["chance"]
    labels = dict(line.split(",") for line in (place / "labels.csv").read_text().splitlines())
    store = EmbeddingStore.open(place / "store")
    split = published_split(store.identities, 42)
    train, test = (
        np.array([labels[name] for name in store.sample_ids[part]]) for part in (split.train, split.test)
    )
    usual = max(("no", "yes"), key=lambda word: np.mean(train == word))
    assert rates["chance"] == np.mean(test == usual)


def test_page_shows_each_part(place):
    page = (place / "o" / "report.html").read_text()
    for title in (
        "Keys: known pairs",
        "Collections without known pairs",
        "Attributes that cross",
        "Different people",
    ):
        assert title in page


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--parts=attributes"], "--attributes"),
        (["--attributes=none.csv"], "none.csv"),
        (["--attributes=constant.csv"], "'beard'"),
        (["--parts=magic"], "magic"),
    ],
)
def test_bad_input(place, monkeypatch, flags, words):
    monkeypatch.chdir(place)
    (place / "constant.csv").write_text((place / "labels.csv").read_text().replace(",yes", ",no"))
    sentence = refused_with(
        run(security, f"--store={place / 'store'}", f"--out={place / 'new'}", *FLAGS, *flags)
    )
    assert words in sentence and not (place / "new").exists()
