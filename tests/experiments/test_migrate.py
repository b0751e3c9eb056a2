"""A gallery is moved from an old network to a new one, or is not and the page says why."""

import json
import re
import signal

import numpy as np
import pyarrow.parquet
import pytest
from commands import read, run, succeed, value
from planted import planted, refused_with
from processes import finished, start
from sklearn.linear_model import LinearRegression

from experiments import migrate, pairwise
from experiments.benchmarks import migration as benchmark
from experiments.run.galleries import public
from jaxalign.core.people import published_split
from jaxalign.data import EmbeddingStore
from jaxalign.gallery.map_file import load_map

AT = ("--at_fmr=0.02", "--intervals=100", "--methods=ridge")
OLD_NEW = ("--old=alpha", "--new=gamma")


def normalize(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A store of all people, and one each of the published split's training and test people: alpha is the worse."""
    place = tmp_path_factory.mktemp("migrate")
    rows, people = planted(people=60, noise=0.2)
    random = np.random.default_rng(7)
    rows["alpha"] += 0.8 * random.normal(size=rows["alpha"].shape).astype("f4")
    rows["noise"] = random.normal(size=rows["alpha"].shape).astype("f4")
    split = published_split(people, 42)
    for name, part in (("all", slice(None)), ("people", np.sort(split.train)), ("gallery", split.test)):
        EmbeddingStore.create(
            place / name, {key: side[part] for key, side in rows.items()}, people[part], dataset=name
        )
    return place


@pytest.fixture(scope="module")
def moved(place):
    sides = f"--calibration={place / 'people'}", f"--gallery={place / 'gallery'}"
    succeed(migrate, *sides, *OLD_NEW, *AT, f"--out={place / 'moved'}")
    return place / "moved"


def content_of(out):
    return json.loads((out / "migration.json").read_text())


def test_the_output_is_the_moved_gallery_with_everything_beside_it(place, moved):
    content, gallery = content_of(moved), EmbeddingStore.open(place / "gallery")
    assert content["verdict"] == "map" and content["drop_in"] and content["score"] == "cosine"
    rates = content["rates"]["mapped"]["tmr@fmr=0.02"]
    assert rates["low"] <= rates["value"] <= rates["high"] and rates["threshold"] == content["threshold"]
    assert content["rates"]["old"]["tmr@fmr=0.0001"]["value"] is None  # too few comparisons
    store = EmbeddingStore.open(moved)
    assert store.encoders == ("gamma",) and store.sample_ids.tolist() == gallery.sample_ids.tolist()
    people = EmbeddingStore.open(place / "people")
    x, y, old = (
        normalize(np.asarray(of, np.float64)) for of in (people["alpha"], people["gamma"], gallery["alpha"])
    )
    map_ = load_map(moved / "maps" / "old_to_new.safetensors")
    assert (map_.source, map_.target, map_.drop_in) == ("alpha", "gamma", True)
    assert [at.fmr for at in map_.thresholds] == [0.01, 0.02]
    back = load_map(moved / "maps" / "new_to_old.safetensors")
    assert (back.source, back.target, back.drop_in) == ("gamma", "alpha", True)
    for of, found in ((map_, content["rates"]["mapped"]), (back, content["rates_keeping_gallery"])):
        known = {name: rate for name, rate in found.items() if name.startswith("tmr@") and rate["value"]}
        assert of.about["rates"] == known and set(known) == {"tmr@fmr=0.01", "tmr@fmr=0.02"}
        assert [at.threshold for at in of.thresholds] == sorted(
            (rate["threshold"] for rate in known.values()), reverse=True
        )
        assert of.native is not None
        scores, native = of.native
        assert np.corrcoef(scores, native)[0, 1] > 0.9 and -1 <= native[0] < native[-1] <= 1
    assert value(read(moved), source="gamma", target="alpha", measure="rank1") > 0.5
    # Either method comes near least squares here; the store holds what the map's file says, row by row.
    expected = normalize(np.asarray(map_.gallery.apply_on_host(old)))
    assert np.abs(np.asarray(store["gamma"], np.float64) - expected).max() < 1e-6
    plain = normalize(LinearRegression().fit(x, y).predict(old))
    assert np.einsum("nd,nd->n", plain, expected).mean() > 0.95
    listed = read(moved / "reenrol.csv")
    assert sorted(line["sample_id"] for line in listed) == sorted(gallery.sample_ids)
    losses = [float(line["expected_loss"]) for line in listed]
    assert max(len(line["expected_loss"]) for line in listed) <= len("0.123456")
    assert losses == sorted(losses, reverse=True) and all(0 <= loss <= 1 for loss in losses)
    flagged = sum("distance" in line["flags"].split() for line in listed)
    assert flagged == content["unlike"]["flagged"]["distance"] < len(listed) / 5
    assert "Map the gallery" in (moved / "report.html").read_text()


def test_numbers_on_the_gallerys_people_are_those_of_pairwise(place):
    """The split divides one store; pairwise measures the same maps on the same people."""
    flags = (
        f"--calibration={place / 'all'}",
        "--split=42",
        *OLD_NEW,
        *AT,
        "--nodrop_in",
        f"--out={place / 'both'}",
    )
    succeed(migrate, *flags)
    content, rows = content_of(place / "both"), read(place / "both")
    mapped = [row for row in rows if row["test_dataset"] and row["method"] == content["method"]]
    sides = (
        "--sources=alpha",
        "--targets=gamma",
        "--models=alpha,gamma",
        "--heatmaps=none",
        "--controls=none",
        "--fmr=0.01,0.02",
    )
    method = (
        f"--methods={content['method']}",
        f"--scores={content['score']}",
        "--nocurves",
        "--measures=verification",
    )
    succeed(pairwise, f"--store={place / 'all'}", *sides, *method, f"--out={place / 'pairwise'}")
    theirs = read(place / "pairwise")
    for measure in ("auc", "eer", "tmr@fmr=0.01", "tmr@fmr=0.02"):
        assert value(mapped, measure=measure) == pytest.approx(value(theirs, measure=measure), abs=1e-12)
    assert not content["drop_in"] and content["tested"]["people"] == 18
    low, high = content["tested"]["expected"]
    assert low <= content["tested"]["fnir"] <= high
    store = EmbeddingStore.open(place / "both")
    assert store.rows == 72 and store.encoders == ("alpha+gamma",)


def write_parquet(path, rows):
    column = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(np.ravel(rows)), rows.shape[1])
    pyarrow.parquet.write_table(pyarrow.table({"vector": column}), path)


def read_parquet(path):
    return np.stack(pyarrow.parquet.read_table(path)["vector"].to_numpy())


def test_a_gallery_of_files_is_moved_into_a_file_and_the_results_have_a_directory(place, moved):
    write_parquet(place / "gallery.parquet", EmbeddingStore.open(place / "gallery")["alpha"])
    flags = (
        f"--calibration={place / 'people'}",
        f"--gallery=parquet:{place / 'gallery.parquet'}",
        *OLD_NEW,
        *AT,
    )
    out = f"--out=parquet:{place / 'moved.parquet'}"
    assert "--results" in refused_with(run(migrate, *flags, out))
    succeed(migrate, *flags, out, f"--results={place / 'told'}")
    maps = [load_map(of / "maps" / "old_to_new.safetensors") for of in (moved, place / "told")]
    assert maps[0].checksum == maps[1].checksum  # so that a run that was killed goes on by the same map
    found = read_parquet(place / "moved.parquet")
    assert np.abs(found - np.asarray(EmbeddingStore.open(moved)["gamma"])).max() < 1e-6
    content = content_of(place / "told")
    assert content["gallery"]["people"] is None and content["tested"] is None and content["notes"]
    again = run(
        migrate,
        *flags[:1],
        f"--gallery=parquet:{place / 'moved.parquet'}",
        *OLD_NEW,
        *AT,
        f"--out={place / 'n'}",
    )
    assert "moved to gamma before" in refused_with(again)


KILLED = """
import os, signal, sys
from experiments import migrate
from experiments.run import cli
migrate.write_report = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)  # when the gallery is moved
cli.run(migrate.main, sys.argv, values=migrate.FLAGS)
"""


def test_a_run_killed_between_gallery_and_results_is_begun_again_by_the_same_command(place, moved, tmp_path):
    write_parquet(tmp_path / "gallery.parquet", EmbeddingStore.open(place / "gallery")["alpha"])
    flags = [
        f"--calibration={place / 'people'}",
        f"--gallery=parquet:{tmp_path / 'gallery.parquet'}",
        *OLD_NEW,
    ]
    flags += [*AT, f"--out=parquet:{tmp_path / 'out.parquet'}", f"--results={tmp_path / 'told'}"]
    (child,) = finished([start("-c", KILLED, *flags, cache=tmp_path / "cache")])
    assert child.returncode == -signal.SIGKILL, child.stderr
    written = (tmp_path / "out.parquet").stat()
    assert not (tmp_path / "told").exists()
    succeed(migrate, *flags)
    assert (tmp_path / "out.parquet").stat().st_mtime_ns == written.st_mtime_ns  # not mapped again
    np.testing.assert_array_equal(read_parquet(tmp_path / "out.parquet"), EmbeddingStore.open(moved)["gamma"])
    mine, theirs = content_of(tmp_path / "told"), content_of(moved)
    for name in ("verdict", "method", "threshold", "threshold_interval", "hits", "people"):
        assert mine[name] == theirs[name], name
    assert {path.name for path in tmp_path.iterdir()} <= {"cache", "gallery.parquet", "out.parquet", "told"}


def test_a_file_that_is_no_moved_gallery_is_left_alone(place, tmp_path):
    write_parquet(tmp_path / "out.parquet", EmbeddingStore.open(place / "gallery")["alpha"])
    before = (tmp_path / "out.parquet").read_bytes()
    sides = (
        f"--calibration={place / 'people'}",
        f"--gallery=parquet:{tmp_path / 'out.parquet'}",
        *OLD_NEW,
        *AT,
    )
    done = run(migrate, *sides, f"--out=parquet:{tmp_path / 'out.parquet'}", f"--results={tmp_path / 'told'}")
    assert "exists" in refused_with(done) and (tmp_path / "out.parquet").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["out.parquet"]


def test_where_the_gate_fails_nothing_is_moved_and_the_status_says_so(place, tmp_path):
    sides = (
        f"--calibration={place / 'people'}",
        f"--gallery={place / 'gallery'}",
        "--old=noise",
        "--new=gamma",
    )
    done = run(migrate, *sides, "--at_fpir=0.2", *AT[1:], f"--out={tmp_path / 'o'}")
    assert done.returncode == 3 and done.stdout.startswith("reenrol")
    content = content_of(tmp_path / "o")
    assert content["verdict"] == "reenrol" and content["reason"] in done.stdout and content["helps"]
    assert content["files"] == {} and content["operating_point"]["gallery"] == 18
    assert content["operating_point"]["fmr"] == pytest.approx(1 - 0.8 ** (1 / 18))
    assert not {"manifest.json", "maps", "gamma.npy"} & {path.name for path in (tmp_path / "o").iterdir()}
    assert "Enrol again" in (tmp_path / "o" / "report.html").read_text()


REFUSED = {
    "--old=delta": "there is no encoder 'delta'",
    "--old=gamma": "both gamma",
    "--at_fpir=0.1": "exclude each other",
    "--at_fmr=1.5": "between 0 and 1",
    "--max_tmr_loss=2": "from 0 to 1",
    "--methods=magic": "there is no method 'magic'",
    "--gallery=PLACE/people": "42 people are in --calibration and in the gallery",
    "--gallery=PLACE/wide": "width 16",
    "--gallery=PLACE/long --normalize=none": "of length",
    "--gallery=PLACE/gallery#gamma": "width 16",
    "--out=PLACE/gallery": "not results",
    "--out=parquet:new.parquet": "--results is missing",
    "--at_fmr=0.0001": "people are needed",
}


@pytest.mark.parametrize(("flag", "named"), REFUSED.items(), ids=REFUSED)
def test_a_mistake_is_one_sentence_and_nothing_is_written(place, tmp_path, flag, named):
    gallery = EmbeddingStore.open(place / "gallery")
    if not (place / "wide").exists():
        for name, rows in (("wide", gallery["gamma"]), ("long", 100 * np.asarray(gallery["alpha"]))):
            EmbeddingStore.create(place / name, {"alpha": rows}, gallery.identities)
    given = {"calibration": place / "people", "gallery": place / "gallery", "old": "alpha", "new": "gamma"}
    given |= {"at_fmr": 0.02, "out": tmp_path / "o", "methods": "ridge"}
    given |= dict(text.removeprefix("--").split("=") for text in flag.replace("PLACE", str(place)).split())
    done = run(migrate, *(f"--{key}={of}" for key, of in given.items()))
    assert named in refused_with(done)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def mixable(place):
    """Stores of two networks of one width, and galleries in which a share of the rows is the new one's."""
    rows, people = planted(people=120)
    # Means and spreads as different as real networks'.
    alpha = rows["alpha"] + np.r_[6, np.zeros(11)].astype("f4")
    beta = rows["beta"] * np.linspace(0.2, 2, 12).astype("f4") + np.r_[np.zeros(11), 6].astype("f4")
    EmbeddingStore.create(place / "cal", {"alpha": alpha[:320], "beta": beta[:320]}, people[:320])
    for share in (0, 1, 3, 6, 10):
        new = np.arange(160)[:, None] % 10 < share
        EmbeddingStore.create(
            place / f"mixed{share}", {"alpha": np.where(new, beta[320:], alpha[320:])}, people[320:]
        )
    return place


def of_mixed(mixable, gallery, out, *more):
    sides = f"--calibration={mixable / 'cal'}", f"--gallery={gallery}", "--old=alpha", "--new=beta"
    return run(migrate, *sides, *AT, "--max_tmr_loss=0.9", f"--out={out}", *more)


@pytest.fixture(scope="module")
def unmixed(mixable):
    """The move of the gallery without a row of the new network."""
    done = of_mixed(mixable, mixable / "mixed0", mixable / "unmixed", "--license=research only")
    assert done.returncode == 0, done.stderr
    return mixable / "unmixed"


@pytest.mark.parametrize("share", [1, 3, 6, 10])
def test_a_gallery_with_rows_of_the_new_network_is_refused(mixable, tmp_path, share):
    refusal = refused_with(of_mixed(mixable, mixable / f"mixed{share}", tmp_path / "o"))
    if share == 10:
        assert "look like rows of beta, not of alpha" in refusal
    else:
        found = re.search(
            r"mixed: (\d+) like rows of alpha and (\d+) like rows of beta, of 160 rows", refusal
        )
        assert found is not None, refusal
        counts = [int(count) for count in found.groups()]
        assert counts == pytest.approx([16 * (10 - share), 16 * share], abs=10) and sum(counts) <= 160
        assert "doctor" in refusal and "--mixed=continue" in refusal
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("rows", ["new", "mapped"])
@pytest.mark.parametrize("share", [1, 3, 6])
def test_a_mixed_gallery_is_continued_and_no_row_is_mapped_twice(mixable, unmixed, tmp_path, share, rows):
    gallery, whole = mixable / f"mixed{share}", np.asarray(EmbeddingStore.open(unmixed)["beta"])
    there, new = np.asarray(EmbeddingStore.open(gallery)["alpha"]), np.arange(160) % 10 < share
    if rows == "mapped":  # what a move that left no marker has written
        old, gallery = EmbeddingStore.open(mixable / "mixed0"), tmp_path / "half"
        there = np.where(new[:, None], whole, np.asarray(old["alpha"]))
        EmbeddingStore.create(gallery, {"alpha": there}, old.identities)
    done = of_mixed(mixable, gallery, tmp_path / "o", "--mixed=continue")
    assert done.returncode == 0, done.stderr
    expected = np.where(new[:, None], normalize(there.astype(np.float64)) if rows == "new" else there, whole)
    found, mixed = EmbeddingStore.open(tmp_path / "o"), content_of(tmp_path / "o")["mixed"]
    flags = {line["sample_id"]: line["flags"].split() for line in read(tmp_path / "o" / "reenrol.csv")}
    kept = np.array(["kept" in flags[name] for name in found.sample_ids])
    assert np.sum(kept != new) <= 1 and mixed["kept"] == kept.sum()
    assert all("unclear" in flags[name] for name in found.sample_ids[kept != new])  # never without a word
    right = kept == new
    np.testing.assert_allclose(np.asarray(found["beta"])[right], expected[right], atol=1e-6)
    if rows == "mapped":
        np.testing.assert_array_equal(np.asarray(found["beta"])[kept], there[kept])
    assert set(mixed["wrong"]) == {"old", "new", "mapped"} and mixed["wrong"]["old"]["rows"] == 320
    assert found.info["beta"]["mixed"] == mixed
    assert (
        "of 320 of alpha (at most 0.9" in done.stderr and f"{mixed['kept']} look like beta's" in done.stderr
    )


def test_a_mixed_gallery_of_networks_that_cannot_be_told_apart_is_not_continued(mixable, tmp_path):
    """alpha and a network of the same moments: what stands on which side would be chance."""
    store = EmbeddingStore.open(mixable / "cal")
    alpha = np.asarray(store["alpha"])
    turned = alpha.mean(axis=0) + 1.01 * (alpha - alpha.mean(axis=0))
    EmbeddingStore.create(tmp_path / "cal", {"alpha": alpha, "beta": turned}, store.identities)
    sides = (
        f"--calibration={tmp_path / 'cal'}",
        f"--gallery={mixable / 'mixed0'}",
        "--old=alpha",
        "--new=beta",
    )
    refusal = refused_with(run(migrate, *sides, *AT, "--mixed=continue", f"--out={tmp_path / 'o'}"))
    assert re.search(r"cannot tell the rows apart.* \d+ of 320 of alpha \(at most \d\d", refusal), refusal
    assert not (tmp_path / "o").exists()
    flags = ("--mixed=continue", "--nodrop_in")
    assert "needs a drop-in map" in refused_with(
        of_mixed(mixable, mixable / "mixed3", tmp_path / "o", *flags)
    )
    for gallery, named in (("mixed10", "alpha"), ("mixed0", "beta")):  # all of one network, but for mistakes
        refusal = refused_with(of_mixed(mixable, mixable / gallery, tmp_path / "o", "--mixed=continue"))
        assert re.search(rf"[01] of 160 rows drawn look like {named}'s", refusal), refusal


def test_a_gallery_of_old_rows_alone_is_not_taken_for_a_mixed_one(mixable, unmixed):
    text = "research only"
    map_ = load_map(unmixed / "maps" / "old_to_new.safetensors")
    assert map_.about["license"] == text and f"license: {text}" in repr(map_)
    assert map_.about["checksums"] == EmbeddingStore.open(mixable / "cal").checksums
    shares = [
        rate[key]
        for system in content_of(unmixed)["rates"].values()
        for rate in system.values()
        for key in ("value", "low", "high")
        if rate[key] is not None
    ]
    assert min(shares) >= 0 and max(shares) <= 1


def test_three_people_are_too_few_and_the_sentence_says_how_many_are_needed(place, tmp_path):
    few, gallery = EmbeddingStore.open(place / "people"), place / "gallery"
    EmbeddingStore.create(
        tmp_path / "few", {name: np.asarray(few[name])[:12] for name in few.encoders}, few.identities[:12]
    )
    sides = f"--calibration={tmp_path / 'few'}", f"--gallery={gallery}", *OLD_NEW
    refusal = refused_with(run(migrate, *sides, "--at_fmr=1e-3", f"--out={tmp_path / 'o'}"))
    found = re.search(r"about (\d+) people are needed", refusal)
    assert found is not None, refusal
    needed = int(found[1])
    per_fold = needed / 5  # of 4 photographs each
    assert "3 people" in refusal and 5 * 16 * per_fold * (per_fold - 1) == pytest.approx(10_000, rel=0.02)
    assert not (tmp_path / "o").exists()


def test_passwords_are_not_written():
    shown = public("postgres://me:secret@host:5432/db#faces.v"), public("postgres:host=h password=secret#t.v")
    assert shown == ("postgres://me:***@host:5432/db#faces.v", "postgres:host=h password=***#t.v")
    assert public("qdrant:http://localhost:6333#faces/old") == "qdrant:http://localhost:6333#faces/old"


def test_a_point_of_searches_that_the_probes_cannot_support(place, tmp_path):
    sides = (
        f"--calibration={place / 'people'}",
        f"--gallery={place / 'gallery'}",
        *OLD_NEW,
        f"--out={tmp_path / 'o'}",
    )
    assert "needs 5,000 probes" in refused_with(run(migrate, *sides, "--at_fpir=0.001"))


def test_the_benchmark_counts_promises_that_come_true(place, tmp_path):
    flags = (
        f"--store={place / 'all'}",
        *OLD_NEW,
        "--at_fpir=0.2",
        "--splits=3",
        "--methods=ridge",
        "--resamples=100",
    )
    succeed(benchmark, *flags, f"--out={tmp_path / 'f.json'}")
    figures = json.loads((tmp_path / "f.json").read_text())["migration"]
    assert figures["splits"] == 3 and figures["FNIR inside its interval, share of splits"] in (
        1 / 3,
        2 / 3,
        1,
    )
    assert figures["people enrolled, mean"] == 9


def test_candidates_of_a_small_cohort_are_left_out_with_a_note(tmp_path):
    rows, people = planted(people=36)
    for name, part in (("people", slice(0, 96)), ("gallery", slice(96, None))):  # 24 people, 19 beside a fold
        EmbeddingStore.create(
            tmp_path / name, {of: side[part] for of, side in rows.items()}, people[part], dataset=name
        )
    sides = f"--calibration={tmp_path / 'people'}", f"--gallery={tmp_path / 'gallery'}"
    done = run(
        migrate,
        *sides,
        *OLD_NEW,
        "--at_fmr=0.05",
        "--methods=ridge",
        "--intervals=100",
        f"--out={tmp_path / 'o'}",
    )
    assert done.returncode in (0, 3)
    content = content_of(tmp_path / "o")
    note = "a cohort takes 20 training people or more, and there are 19 beside one of the folds"
    assert any(note in told for told in content["notes"]) and note in done.stderr
    assert {candidate["score"] for candidate in content["candidates"]} == {"cosine"}
