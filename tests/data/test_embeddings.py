"""EmbeddingStore: what is written is what is read, all of it or nothing."""

import hashlib
import json
import os
import threading

import ml_dtypes
import numpy as np
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from jaxalign.core.errors import UserError, UserNote
from jaxalign.core.names import normal_name
from jaxalign.data import EmbeddingStore
from jaxalign.data import arrays as array_files
from jaxalign.data import manifest as manifest_file
from jaxalign.data.atomic import locked

ROWS = 7
ZEROS = np.zeros((ROWS, 2))
IDENTITIES = ["ann", "bo", "ann", "cy", "bo", "ann", "cy"]
NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=8)
REAL_NAMES = NAMES.map(normal_name).filter(bool)


def clouds(rows=ROWS):
    random = np.random.RandomState(0)
    return {
        "arcface": random.standard_normal((rows, 5)).astype(np.float32),
        "clip-B.16": random.standard_normal((rows, 3)).astype(np.float16),
    }


@pytest.fixture
def store(tmp_path):
    return EmbeddingStore.create(tmp_path / "toy", clouds(), IDENTITIES)


def listing(path):
    """Every file below a directory with its content: what a failed write must leave as it was."""
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


@st.composite
def contents(draw):
    rows = draw(st.integers(1, 12))
    names = draw(
        st.lists(st.sampled_from(["a", "b-1", "C_c", "d.e+f@g", "9"]), min_size=1, max_size=3, unique=True)
    )
    dtypes = st.sampled_from([np.float16, np.float32])
    shapes = [(rows, draw(st.integers(1, 6))) for _ in names]
    embeddings = {name: draw(arrays.arrays(draw(dtypes), shape)) for name, shape in zip(names, shapes)}
    identities = draw(st.lists(REAL_NAMES, min_size=rows, max_size=rows))
    sample_ids = draw(st.lists(REAL_NAMES, min_size=rows, max_size=rows, unique=True))
    return embeddings, identities, sample_ids


@settings(deadline=None)  # a write waits for the disk
@given(contents())
def test_round_trip(tmp_path_factory, content):
    embeddings, identities, sample_ids = content
    path = tmp_path_factory.mktemp("round") / "store"
    EmbeddingStore.create(path, embeddings, identities, sample_ids=sample_ids)
    store = EmbeddingStore.open(path)
    assert store.identities.tolist() == identities
    assert store.sample_ids.tolist() == sample_ids
    assert store.encoders == tuple(embeddings)
    assert store.rows == len(identities)
    for name, array in embeddings.items():
        assert store[name].dtype == array.dtype
        assert store[name].tobytes() == array.tobytes()  # NaN and the sign of zero included


def test_bfloat16_is_kept_bit_by_bit_and_named_by_the_manifest(tmp_path):
    array = clouds()["arcface"].astype(ml_dtypes.bfloat16)
    array[0, 0], array[1, 1] = np.nan, -0.0
    store = EmbeddingStore.create(tmp_path / "toy", {"arcface": array}, IDENTITIES)
    assert isinstance(store["arcface"], np.memmap) and store["arcface"].dtype == ml_dtypes.bfloat16
    assert store["arcface"].tobytes() == array.tobytes()
    assert store.take([0, 3])["arcface"].dtype == ml_dtypes.bfloat16
    assert {name: rows.tolist() for name, rows in store.nonfinite_rows().items()} == {"arcface": [0]}
    manifest = json.loads((tmp_path / "toy" / "manifest.json").read_text())
    assert manifest["encoders"]["arcface"]["dtype"] == "bfloat16"
    plain = np.load(tmp_path / "toy" / "arcface.npy", mmap_mode="r")
    assert plain.dtype == np.dtype("V2") and plain.view(ml_dtypes.bfloat16).tobytes() == array.tobytes()
    assert EmbeddingStore.open(tmp_path / "toy")["arcface"].tobytes() == array.tobytes()
    added = store.add_encoder("half", array.astype(np.float16))
    assert [added[name].dtype.name for name in added.encoders] == ["bfloat16", "float16"]


@pytest.mark.parametrize(("written", "claimed"), [(np.float16, "bfloat16"), (ml_dtypes.bfloat16, "float16")])
def test_two_bytes_are_not_taken_for_another_type(tmp_path, written, claimed):
    EmbeddingStore.create(tmp_path / "toy", {"a": clouds()["arcface"].astype(written)}, IDENTITIES)
    path = tmp_path / "toy" / "manifest.json"
    content = json.loads(path.read_text())
    content["encoders"]["a"]["dtype"] = claimed
    del content["checksum"]
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=f"manifest.json says {claimed}"):
        EmbeddingStore.open(tmp_path / "toy")


def test_files_are_as_the_format_says(tmp_path):
    path = tmp_path / "toy"
    embeddings = clouds()
    columns = {"capture": ["a", None, "b", "c", "d", "e", "f"], "quality": np.arange(7.0)}
    info = {"arcface": {"weights": "ir101", "year": 2019}}
    EmbeddingStore.create(path, embeddings, IDENTITIES, columns=columns, encoder_info=info)
    assert sorted(listing(path)) == ["arcface.npy", "clip-B.16.npy", "manifest.json", "samples.parquet"]
    manifest = json.loads((path / "manifest.json").read_text())
    digests = {name: hashlib.sha256((path / f"{name}.npy").read_bytes()).hexdigest() for name in embeddings}
    samples = hashlib.sha256((path / "samples.parquet").read_bytes()).hexdigest()
    own = json.dumps({key: manifest[key] for key in sorted(manifest) if key != "checksum"}, sort_keys=True)
    assert manifest.pop("checksum") == hashlib.sha256(own.encode()).hexdigest()
    assert manifest == {
        "format": "jaxalign-store",
        "version": 1,
        "dataset": "toy",
        "rows": 7,
        "encoders": {
            "arcface": {"dim": 5, "dtype": "float32", "sha256": digests["arcface"], **info["arcface"]},
            "clip-B.16": {"dim": 3, "dtype": "float16", "sha256": digests["clip-B.16"]},
        },
        "samples": {"sha256": samples},
    }
    for name, array in embeddings.items():
        loaded = np.load(path / f"{name}.npy", allow_pickle=False)
        assert loaded.flags.c_contiguous
        assert loaded.tobytes() == array.tobytes()
    table = pyarrow.parquet.read_table(path / "samples.parquet")
    assert table.column_names == ["sample_id", "identity", "capture", "quality"]
    assert table["identity"].to_pylist() == IDENTITIES
    assert table["sample_id"].to_pylist() == list("0123456")


def test_what_an_open_store_says(tmp_path):
    capture = ["a", None, "b", "c", "d", "e", "f"]
    columns = {"capture": capture, "quality": np.arange(7.0), "place": list("uvwxyzu")}
    info = {"arcface": {"weights": "ir101"}}
    store = EmbeddingStore.create(
        tmp_path / "toy", clouds(), IDENTITIES, dataset="Toy set", columns=columns, encoder_info=info
    )
    assert store.path == tmp_path / "toy"
    assert store.dataset == "Toy set"
    assert (store.rows, len(store)) == (7, 2)
    assert list(store) == ["arcface", "clip-B.16"]
    assert "arcface" in store
    assert "dino" not in store
    assert store.dims == {"arcface": 5, "clip-B.16": 3}
    assert store.info["arcface"] == {"weights": "ir101"}
    assert store.checksums["arcface"] == hashlib.sha256((store.path / "arcface.npy").read_bytes()).hexdigest()
    assert store.columns == ("sample_id", "identity", "capture", "quality", "place")
    assert store.column("capture").tolist() == capture
    assert store.column("quality").tolist() == list(range(7))
    assert store.column("place").dtype.kind == "U"
    assert "arcface [7, 5], clip-B.16 [7, 3]" in repr(store)
    with pytest.raises(UserError, match="no column 'pose'; there are sample_id, identity, capture"):
        store.column("pose")


def test_arrays_are_mapped_and_cannot_be_written(store):
    assert isinstance(store["arcface"], np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        store["arcface"][0, 0] = 1
    for chunk in store.chunks(3):
        assert not chunk[0].flags.writeable


def test_only_the_encoders_asked_for_are_open_in_the_order_asked(store):
    opened = EmbeddingStore.open(store.path, encoders=["clip-B.16", "arcface"])
    assert opened.encoders == ("clip-B.16", "arcface")
    assert list(opened.take([0])) == ["clip-B.16", "arcface"]
    (store.path / "arcface.npy").unlink()
    assert EmbeddingStore.open(store.path, encoders=["clip-B.16"]).dims == {"clip-B.16": 3}


@pytest.mark.parametrize(
    ("encoders", "sentence"),
    [
        (["clap"], "store 'toy': there is no encoder 'clap'; there are arcface, clip-B.16."),
        ([], "store 'toy': no encoder is asked for; there are arcface, clip-B.16."),
        (["arcface", "arcface"], "store 'toy': an encoder is asked for twice: arcface, arcface."),
    ],
)
def test_encoders_that_cannot_be_opened(store, encoders, sentence):
    with pytest.raises(UserError) as refused:
        EmbeddingStore.open(store.path, encoders=encoders)
    assert str(refused.value) == sentence
    with pytest.raises(UserError, match="no encoder 'dino' open; there are arcface, clip-B"):
        store["dino"]


def test_take(store):
    mask = np.array([True, False, False, True, False, False, True])
    for rows in ([6, 0, 0, 3], np.array([2], np.int32), [], mask):
        taken = store.take(rows)
        for name, array in clouds().items():
            assert type(taken[name]) is np.ndarray
            assert taken[name].dtype == array.dtype
            np.testing.assert_array_equal(taken[name], array[np.asarray(rows, bool if rows is mask else int)])
            taken[name][:] = 0  # a copy, free to change


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([7], "rows 0 to 6, asked for 7"),
        ([0, -1], "rows 0 to 6, asked for -1"),
        ([0.5], r"whole numbers \[m\] or a mask \[7\], got float64 \[1\]"),
        ([[1]], r"got int64 \[1, 1\]"),
        ([True, False], r"got bool \[2\]"),
    ],
)
def test_rows_that_are_not_there(store, rows, sentence):
    with pytest.raises(UserError, match=sentence):
        store.take(rows)


@settings(deadline=None)
@given(st.integers(1, 20), st.one_of(st.none(), st.lists(st.integers(0, ROWS - 1), max_size=20)))
def test_chunks_side_by_side_are_the_rows(tmp_path_factory, size, rows):
    path = tmp_path_factory.getbasetemp() / "chunked"
    store = EmbeddingStore.open(path) if path.exists() else EmbeddingStore.create(path, clouds(), IDENTITIES)
    chunks = list(store.chunks(size, rows))
    expected = np.arange(ROWS) if rows is None else np.array(rows, int)
    lengths = [len(expected[start : start + size]) for start in range(0, len(expected), size)]
    assert [[len(part) for part in chunk] for chunk in chunks] == [[length, length] for length in lengths]
    for index, array in enumerate(clouds().values()):
        none = np.empty((0, array.shape[1]), array.dtype)
        joined = np.concatenate([none, *(chunk[index] for chunk in chunks)])
        np.testing.assert_array_equal(joined, array[expected])
        assert joined.dtype == array.dtype


def test_chunk_of_no_rows_is_refused(store):
    with pytest.raises(UserError, match="at least 1 row, got size 0"):
        next(store.chunks(0))


def test_nonfinite_rows_are_found_across_chunks(tmp_path):
    embeddings = {name: np.zeros((10000, 2), np.float32) for name in ("good", "bad")}
    for row, value in ((0, np.nan), (4095, np.inf), (4096, -np.inf), (9999, np.nan)):
        embeddings["bad"][row, 1] = value
    store = EmbeddingStore.create(tmp_path / "toy", embeddings, np.arange(10000))
    found = store.nonfinite_rows()
    assert list(found) == ["bad"]
    assert found["bad"].tolist() == [0, 4095, 4096, 9999]


def test_float64_becomes_float32_and_other_layouts_c_order(tmp_path):
    values = np.random.RandomState(0).standard_normal((ROWS, 4))
    embeddings = {
        "wide": values,
        "fortran": np.asfortranarray(values.astype(np.float32)),
        "big_endian": values.astype(">f4"),
        "strided": np.repeat(values.astype(np.float16), 2, axis=1)[:, ::2],
        "lists": values.tolist(),
    }
    EmbeddingStore.create(tmp_path / "toy", embeddings, IDENTITIES)
    store = EmbeddingStore.open(tmp_path / "toy")
    for name in store.encoders:
        assert store[name].dtype == (np.float16 if name == "strided" else np.float32)
        np.testing.assert_array_equal(store[name], values.astype(store[name].dtype))


def test_arrays_larger_than_a_chunk_of_writing(tmp_path, monkeypatch):
    monkeypatch.setattr(array_files, "CHUNK_BYTES", 64)
    values = np.random.RandomState(0).standard_normal((101, 3))
    embeddings = {"a": values, "b": np.zeros((101, 50), np.float16)}
    EmbeddingStore.create(tmp_path / "toy", embeddings, np.arange(101))
    np.testing.assert_array_equal(EmbeddingStore.open(tmp_path / "toy")["a"], values.astype(np.float32))


def test_whole_numbers_as_identities_are_text(tmp_path):
    store = EmbeddingStore.create(tmp_path / "toy", clouds(), np.array([10, 9, 10, 1, 1, 9, 9]))
    assert store.identities.tolist() == ["10", "9", "10", "1", "1", "9", "9"]


def named(name, array: np.ndarray = ZEROS):
    return {"embeddings": {name: array}}


def people(*names):
    return {"identities": list(names)}


BAD = {
    "rows": ({"embeddings": clouds(6)}, "encoder 'arcface' has 6 rows, there are 7 samples."),
    "one axis": (named("a", np.zeros(7)), "expected an array [rows, d] with no empty side, got [7]."),
    "no width": (named("a", np.zeros((7, 0))), "with no empty side, got [7, 0]."),
    "integers": (named("a", np.zeros((7, 2), int)), "float16, bfloat16, float32 or float64, got int64."),
    "objects": (named("a", np.full((7, 2), "x", object)), "hold no numbers"),
    "overflow": (named("a", np.full((7, 2), 1e300)), "beyond what float32 holds"),
    "none": ({"embeddings": {}}, "at least one encoder, got none"),
    "path": (named("../a"), "an encoder cannot be called '../a'"),
    "hidden": (named(".a"), "an encoder cannot be called '.a'"),
    "comma": (named("a,b"), "an encoder cannot be called 'a,b'"),
    "newline": (named("a\n"), "an encoder cannot be called 'a\\n'"),
    "long": (named("a" * 101), "100 at most"),
    "all": (named("all"), "cannot be called 'all'"),
    "case": ({"embeddings": dict.fromkeys(["a", "A"], ZEROS)}, "there is already an encoder 'a'"),
    "identity gap": (people("a", None, *"bcdef"), "identity is missing in 1 row of 7 (first: row 1)."),
    "identity blank": (people("a", " ", *"bcd", "", "f"), "is missing in 2 rows of 7 (first: row 1)"),
    "identity number": ({"identities": np.arange(7.0)}, "expected text or whole numbers, got float64."),
    "identity object": (people("a", b"b", 3, (), *"efg"), "expected text or whole numbers, got ()."),
    "identity zero byte": (people("a\0", *"bcdefg"), "identity: a name holds a NUL character."),
    "identity surrogate": (people("\ud800", *"bcdefg"), "column 'identity' cannot be stored"),
    "identity truth": (people(*[True] * 7), "identity: expected text or whole numbers, got True."),
    "identity bytes": (people(*[b"\xff"] * 7), "identity: b'\\xff' is not text in UTF-8."),
    "identity axes": ({"identities": np.array([["a"]] * 7)}, "one name per row, got shape [7, 1]."),
    "sample twice": ({"sample_ids": list("abcabfg")}, "2 sample ids on more than one row (first: 'a')."),
    "sample rows": ({"sample_ids": list("abc")}, "column 'identity' has 7 rows, there are 3 samples."),
    "column rows": ({"columns": {"pose": [1, 2]}}, "column 'pose' has 2 rows, there are 7 samples."),
    "column name": ({"columns": {"identity": IDENTITIES}}, "column 'identity' is given apart"),
    "column mixed": ({"columns": {"pose": [1, "a", *range(5)]}}, "column 'pose' cannot be stored"),
    "info unknown": ({"encoder_info": {"dino": {}}}, "names 'dino'; there are arcface, clip-B.16."),
    "info own": ({"encoder_info": {"arcface": {"dim": 4}}}, "dim is found out from the array"),
    "info object": ({"encoder_info": {"arcface": {"model": object()}}}, "what is noted of it must fit JSON"),
    "info nan": ({"encoder_info": {"arcface": {"loss": float("nan")}}}, "must fit JSON"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_stored_is_refused_and_leaves_nothing(tmp_path, case):
    changed, sentence = BAD[case]
    arguments = {"embeddings": clouds(), "identities": IDENTITIES} | changed
    with pytest.raises(UserError) as refused:
        EmbeddingStore.create(tmp_path / "deep" / "toy", **arguments)
    assert sentence in str(refused.value)
    assert not listing(tmp_path)
    assert not list(tmp_path.rglob("*unfinished*"))


def test_what_is_there_is_left_alone(tmp_path, store):
    before = listing(tmp_path)
    with pytest.raises(UserError, match="toy holds a store already; choose another path or"):
        EmbeddingStore.create(store.path, clouds(), IDENTITIES)
    assert listing(tmp_path) == before
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_text("mine")
    with pytest.raises(UserError, match="photos exists and is not a store, so it is left alone"):
        EmbeddingStore.create(tmp_path / "photos", clouds(), IDENTITIES, overwrite=True)
    with pytest.raises(UserError, match="is not a store, so it is left alone"):
        EmbeddingStore.create(tmp_path / "photos" / "a.jpg", clouds(), IDENTITIES, overwrite=True)
    assert listing(tmp_path) == before | {"photos/a.jpg": b"mine"}


def test_overwriting_replaces_the_whole_store_even_from_its_own_arrays(tmp_path, store):
    doubled = {"arcface": store["arcface"], "new": np.ones((ROWS, 2), np.float32)}
    replaced = EmbeddingStore.create(store.path, doubled, IDENTITIES[::-1], overwrite=True)
    assert EmbeddingStore.open(store.path).encoders == ("arcface", "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["toy"]
    assert sorted(listing(store.path)) == ["arcface.npy", "manifest.json", "new.npy", "samples.parquet"]
    np.testing.assert_array_equal(replaced["arcface"], clouds()["arcface"])
    assert replaced.identities.tolist() == IDENTITIES[::-1]


def test_an_empty_directory_and_a_link_are_filled(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    store = EmbeddingStore.create(tmp_path / "link", clouds(), IDENTITIES)
    assert store.dataset == "disk"
    assert (tmp_path / "link").is_symlink()
    assert EmbeddingStore.open(tmp_path / "disk").rows == ROWS


def stop(*_, **__):
    raise KeyboardInterrupt


def no_space(*_, **__):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(("failure", "error"), [(stop, KeyboardInterrupt), (no_space, UserError)])
@pytest.mark.parametrize("place", ["second array", "manifest", "rename"])
def test_a_stopped_write_leaves_what_was_there(tmp_path, store, monkeypatch, failure, error, place):
    before = listing(tmp_path)
    write, calls = array_files.write_array, []

    def second_fails(file, name, array):
        calls.append(name)
        if len(calls) == 2:
            file.write(b"half")
            failure()
        return write(file, name, array)

    if place == "second array":
        monkeypatch.setattr(array_files, "write_array", second_fails)
    elif place == "manifest":
        monkeypatch.setattr(manifest_file.Manifest, "write", failure)
    else:
        monkeypatch.setattr("jaxalign.data.atomic.os.rename", failure)
    more = {"x": np.zeros((ROWS, 2), np.float32), "y": np.zeros((ROWS, 2), np.float32)}
    writes = [
        lambda: EmbeddingStore.create(tmp_path / "new", more, IDENTITIES),
        lambda: EmbeddingStore.create(store.path, more, IDENTITIES, overwrite=True),
    ]
    if place != "rename":
        writes.append(lambda: store.add_encoders(more))
    for write_something in writes:
        calls.clear()
        with pytest.raises(error) as stopped:
            write_something()
        if error is UserError:
            assert "cannot be written: No space left on device." in str(stopped.value)
        assert listing(tmp_path) == before
        assert sorted(path.name for path in tmp_path.iterdir()) == ["toy"]


def test_a_failed_replacement_puts_the_old_store_back(tmp_path, store, monkeypatch):
    before, rename, calls = listing(tmp_path), os.rename, []

    def third_fails(source, target):
        calls.append(target)
        if len(calls) == 3:
            no_space()
        rename(source, target)

    monkeypatch.setattr("jaxalign.data.atomic.os.rename", third_fails)
    monkeypatch.setattr("ctypes.CDLL", lambda *_, **__: object())  # a system that cannot exchange two names
    with pytest.raises(UserError, match="No space left"):
        EmbeddingStore.create(store.path, clouds(), IDENTITIES[::-1], overwrite=True)
    assert len(calls) == 4
    assert listing(tmp_path) == before


def test_a_directory_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"below cannot be written: (Not a directory|File exists)"):
        EmbeddingStore.create(tmp_path / "file" / "below", clouds(), IDENTITIES)


def test_add_encoder(store):
    dino = np.random.RandomState(1).standard_normal((ROWS, 2))
    only = EmbeddingStore.open(store.path, encoders=["clip-B.16"])
    grown = only.add_encoder("dino", dino, weights="vitb14", source={"url": "here"})
    assert grown.encoders == ("clip-B.16", "dino")
    assert store.encoders == ("arcface", "clip-B.16")
    opened = EmbeddingStore.open(store.path)
    assert opened.encoders == ("arcface", "clip-B.16", "dino")
    assert opened.info["dino"] == {"weights": "vitb14", "source": {"url": "here"}}
    assert opened.checksums["dino"] == hashlib.sha256((store.path / "dino.npy").read_bytes()).hexdigest()
    np.testing.assert_array_equal(opened["dino"], dino.astype(np.float32))
    for name, array in clouds().items():
        np.testing.assert_array_equal(opened[name], array)


@pytest.mark.parametrize(
    ("name", "array", "info", "sentence"),
    [
        ("arcface", ZEROS, {}, "encoder 'arcface': there is already an encoder 'arcface'."),
        ("ArcFace", ZEROS, {}, "encoder 'ArcFace': there is already an encoder 'arcface'."),
        ("dino", np.zeros((6, 2)), {}, "encoder 'dino' has 6 rows, there are 7 samples."),
        ("../dino", ZEROS, {}, "an encoder cannot be called '../dino'"),
        ("dino", ZEROS, {"sha256": "0"}, "sha256 is found out from the array"),
        ("dino", np.full((ROWS, 2), 1e39), {}, "beyond what float32 holds"),
    ],
)
def test_an_encoder_that_cannot_be_added_changes_nothing(store, name, array, info, sentence):
    before = listing(store.path.parent)
    with pytest.raises(UserError) as refused:
        store.add_encoder(name, array, **info)
    assert sentence in str(refused.value)
    assert listing(store.path.parent) == before


def test_adding_to_a_store_that_was_replaced_is_refused(store):
    EmbeddingStore.create(store.path, clouds(3), IDENTITIES[:3], overwrite=True)
    with pytest.raises(UserError, match="was replaced since it was opened"):
        store.add_encoder("dino", ZEROS)


def test_two_that_add_at_once_wait_for_each_other(store):
    one, two = (EmbeddingStore.open(store.path) for _ in range(2))
    waiting = threading.Thread(target=two.add_encoder, args=("second", np.full((ROWS, 2), 2.0)))
    with locked(store.path):
        waiting.start()
        waiting.join(0.5)
        assert waiting.is_alive()
        assert not (store.path / "second.npy").exists()
    one.add_encoder("first", np.ones((ROWS, 2)))
    waiting.join(60)
    opened = EmbeddingStore.open(store.path)
    assert set(opened.encoders) == {"arcface", "clip-B.16", "first", "second"}
    assert (opened["first"][0, 0], opened["second"][0, 0]) == (1, 2)


@pytest.mark.parametrize(
    ("name", "rows", "people"), [("lfw_dev", 6114, 1897), ("att", 380, 38), ("att_reference", 380, 38)]
)
def test_real_stores_open(shared, name, rows, people):
    store = EmbeddingStore.open(shared / "data" / name)
    assert store.rows == rows
    assert len(np.unique(store.identities)) == people
    assert store.dims["faceres"] == 1024
    assert store.nonfinite_rows() == {}
    for encoder, width in store.dims.items():
        assert store[encoder].shape == (rows, width)
        array = np.load(store.path / f"{encoder}.npy", allow_pickle=False)
        np.testing.assert_array_equal(store[encoder], array)


def test_overwriting_leaves_a_store_with_other_files_in_it_alone(store):
    (store.path / "notes.txt").write_text("mine")
    before = listing(store.path)
    with pytest.raises(UserError, match="besides a store .notes.txt"):
        EmbeddingStore.create(store.path, clouds(), IDENTITIES, overwrite=True)
    assert listing(store.path) == before


def test_home_is_expanded_in_paths(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    made = EmbeddingStore.create("~/toy", clouds(), IDENTITIES)
    assert made.path == tmp_path / "toy"
    assert EmbeddingStore.open("~/toy").rows == ROWS


def test_names_are_stored_and_read_in_one_form(tmp_path):
    people = ["Zoë", "Zoe\u0308", "Zoë ", "Ann", "Ann\u200b", "Ann", "Ann"]
    with pytest.warns(UserNote, match="5 names .identity. are 2"):
        made = EmbeddingStore.create(tmp_path / "toy", clouds(), people)
    assert made.identities.tolist() == ["Zoë"] * 3 + ["Ann"] * 4


@pytest.mark.parametrize("people", [["a"] * 6 + [None], ["a"] * 6 + ["\u200b "], ["a"] * 6 + [10**5000]])
def test_people_that_are_missing_or_no_names_are_refused(tmp_path, people):
    with pytest.raises(UserError, match="identity"):
        EmbeddingStore.create(tmp_path / "toy", clouds(), people)
    assert not (tmp_path / "toy").exists()
