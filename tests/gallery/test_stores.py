"""Galleries of every kind are moved whole and once, the old rows stay; read back by their own clients."""

import json

import datasets
import faiss
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from gallery_kinds import EXPECTED, FIXED, KEYS, KINDS, NOTE, OUT, ROWS, WIDTH, X, make_parquet, transform

from jaxalign.core.errors import UserError
from jaxalign.gallery.move import move_gallery, switch
from jaxalign.gallery.stores import open_gallery, parquet

PARQUET = next(kind for kind in KINDS if kind.name == "fixed")


@pytest.fixture(params=KINDS, ids=str)
def kind(request):
    return request.param


def close(kind, rows, wanted=EXPECTED):
    np.testing.assert_allclose(rows, wanted, rtol=kind.tolerance, atol=kind.tolerance)


def files(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def moved(kind, old, folder, transform=transform, note=NOTE, **options):
    with open_gallery(old) as gallery:
        made = move_gallery(gallery, kind.out(folder), transform, OUT, note, chunk_rows=7, **options)
        made.close()
        return made


def test_rows_are_moved_and_the_old_ones_stay(kind, tmp_path):
    old, done = kind.make(tmp_path), []
    before = kind.read(old)
    with open_gallery(old) as gallery:
        assert (gallery.rows, gallery.width, gallery.marker) == (ROWS, WIDTH, None)
        read = np.concatenate([rows for _, rows in gallery.chunks(10)])
        np.testing.assert_array_equal(read, before[1].astype(np.float32))
        np.testing.assert_array_equal(gallery.sample(ROWS), read)
        assert len(np.unique(gallery.sample(20, seed=1), axis=0)) == 20
        people = gallery.identities()
    assert people is None or people.tolist() == [f"p{key % 9}" for key in KEYS]
    made = moved(kind, old, tmp_path, progress=done.append)
    keys, rows = kind.read(made.specification)
    np.testing.assert_array_equal(keys, KEYS)
    close(kind, rows)
    assert (made.rows, made.width, done[-1]) == (ROWS, OUT, ROWS)
    assert made.marker is not None
    assert made.marker | NOTE | {"state": "complete"} == made.marker
    for one, other in zip(before, kind.read(old)):
        np.testing.assert_array_equal(one, other)


def test_a_run_that_died_is_ended_by_the_same_command(kind, tmp_path):
    """It dies in the fourth chunk; at the end every row has been mapped from an old row, and once."""
    old, seen = kind.make(tmp_path), []

    def dies(rows):
        seen.append(len(rows))
        if len(seen) == 4:
            raise KeyboardInterrupt
        return transform(rows)

    before = files(tmp_path) if not kind.goes_on else None
    with pytest.raises(KeyboardInterrupt):
        moved(kind, old, tmp_path, dies)
    if before is not None:
        assert files(tmp_path) == before
    died = sum(seen)
    made = moved(kind, old, tmp_path, dies)
    assert sum(seen) == ROWS + (seen[3] if kind.goes_on else died)
    keys, rows = kind.read(made.specification)
    np.testing.assert_array_equal(keys, KEYS)
    close(kind, rows)


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("fixed", ["new.parquet"]),
        ("ids", ["new.faiss", "new.faiss.jaxalign.json"]),
        ("directory", ["new"]),
    ],
)
def test_what_killed_runs_left_is_removed(tmp_path, name, files):
    kind = next(kind for kind in KINDS if kind.name == name)
    old = kind.make(tmp_path)
    for _ in range(2):  # the second run finds that the first one has ended
        for file in (*files, "another"):
            (tmp_path / f".{file}.0a1b2c3d.unfinished").write_bytes(b"half")
        (tmp_path / f".{files[0]}.lock").touch()
        moved(kind, old, tmp_path)
        assert [path.name for path in tmp_path.glob(".*")] == [".another.0a1b2c3d.unfinished"]


def test_nothing_is_mapped_twice(kind, tmp_path):
    old = kind.make(tmp_path)
    made = moved(kind, old, tmp_path)

    def never(rows):
        raise AssertionError("mapped again")

    assert moved(kind, old, tmp_path, never).marker == made.marker
    for note, folder, sentence in (
        (NOTE, tmp_path / "third", "moved already"),
        ({**NOTE, "checksum": "b" * 64}, tmp_path / "third", "was moved to new before"),
    ):
        with pytest.raises(UserError, match=sentence):
            moved(kind, made.specification, folder, never, note)
    with pytest.raises(UserError, match="another map|exists|holds a store"):
        moved(kind, old, tmp_path, never, {**NOTE, "checksum": "b" * 64})
    with pytest.raises(UserError, match="of another kind"), open_gallery(old) as gallery:
        move_gallery(gallery, "faiss:x" if kind.name == "directory" else "x", never, OUT, NOTE)


def test_files_have_no_name_to_switch(tmp_path):
    with pytest.raises(UserError, match="has no name to switch"):
        switch(PARQUET.make(tmp_path))


def test_other_columns_of_parquet_stay_and_rows_may_lack_a_vector(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "GROUP", 4)  # chunks of 7 rows
    old = PARQUET.make(tmp_path).removeprefix("parquet:")
    table = pyarrow.parquet.read_table(old)
    there = np.arange(ROWS) % 3 > 0
    values = [row if held else None for row, held in zip(table["vector"].to_pylist(), there)]
    table = table.set_column(1, "vector", pyarrow.array(values, FIXED))
    pyarrow.parquet.write_table(table, old, compression="gzip")
    made = moved(PARQUET, f"parquet:{old}", tmp_path)
    people = made.identities()
    assert made.rows == there.sum() and people is not None
    assert people.tolist() == [f"p{key % 9}" for key in KEYS[there]]
    new = pyarrow.parquet.read_table(tmp_path / "new.parquet")
    others = ["key", "nested", "person"]
    assert new.select(others).equals(table.select(others)) and new.schema.names == table.schema.names
    assert new.schema.field("vector").type == pyarrow.list_(pyarrow.float32(), OUT)
    np.testing.assert_array_equal(new["vector"].is_valid().to_numpy(), there)
    close(PARQUET, np.array(new["vector"].drop_null().to_pylist()), EXPECTED[there])
    with pyarrow.parquet.ParquetFile(tmp_path / "new.parquet") as file:
        assert file.metadata.row_group(0).column(0).compression == "GZIP"
        assert [file.metadata.row_group(at).num_rows for at in range(file.num_row_groups)] == [28, 25]
    assert np.concatenate([keys for keys, _ in made.chunks(9)]).tolist() == np.flatnonzero(there).tolist()


def test_hugging_face_data_sets_are_moved_and_loaded(tmp_path):
    features = datasets.Features(
        {"id": datasets.Value("int64"), "v": datasets.List(datasets.Value("float32"), WIDTH)}
    )
    rows = {"id": KEYS.tolist(), "v": X.astype(np.float32).tolist()}
    datasets.Dataset.from_dict(rows, features).to_parquet(tmp_path / "old.parquet")
    moved(PARQUET, f"parquet:{tmp_path / 'old.parquet'}", tmp_path)
    new = datasets.Dataset.from_parquet(str(tmp_path / "new.parquet"), cache_dir=str(tmp_path / "cache"))
    assert new.features["v"] == datasets.List(datasets.Value("float32"), OUT)
    assert new["id"][:] == KEYS.tolist()
    close(PARQUET, np.array(new["v"][:]))


def test_a_note_beside_faiss_belongs_to_its_index(tmp_path):
    kind = next(kind for kind in KINDS if kind.name == "flat")
    made = moved(kind, kind.make(tmp_path), tmp_path)
    path = made.specification.removeprefix("faiss:")
    faiss.write_index(faiss.IndexFlat(WIDTH, faiss.METRIC_L1), f"{path}.x")
    index = faiss.IndexFlat(WIDTH, faiss.METRIC_L1)
    index.add(X.astype(np.float32))
    faiss.write_index(index, path)
    again = open_gallery(made.specification)
    assert again.marker is None and again.width == WIDTH
    np.testing.assert_array_equal(again.sample(ROWS), X.astype(np.float32))


def two_columns(folder):
    make_parquet(FIXED)(folder)
    table = pyarrow.parquet.read_table(folder / "old.parquet")
    pyarrow.parquet.write_table(table.append_column("w", table["vector"]), folder / "two.parquet")


def uneven(folder):
    rows = pyarrow.array([[1.0, 2.0], [3.0]], pyarrow.list_(pyarrow.float32()))
    pyarrow.parquet.write_table(pyarrow.table({"v": rows}), folder / "uneven.parquet")
    empty = pyarrow.array([[], None], pyarrow.list_(pyarrow.float32()))
    pyarrow.parquet.write_table(pyarrow.table({"v": empty}), folder / "empty.parquet")


def damaged(folder):
    index = faiss.index_factory(WIDTH, "IVF2,Flat")
    faiss.write_index(index, str(folder / "ivf.faiss"))
    flat = faiss.IndexFlatL2(WIDTH)
    flat.add(X.astype(np.float32))
    faiss.write_index(flat, str(folder / "cut.faiss"))
    (folder / "cut.faiss").write_bytes((folder / "cut.faiss").read_bytes()[:-4])
    (folder / "cut.parquet").write_bytes(b"PAR1nothing")


@pytest.mark.parametrize(
    ("specification", "sentence"),
    [
        ("nowhere", "there is no store at"),
        ("parquet:nowhere", "is missing"),
        ("parquet:cut.parquet", "no Parquet file"),
        ("parquet:two.parquet", "parquet:.*#vector; there are vector, w"),
        ("parquet:two.parquet#key", "'key' is no column of lists"),
        ("parquet:uneven.parquet", "row 1 .* another width than 2"),
        ("parquet:empty.parquet", "holds no vector"),
        ("faiss:ivf.faiss", "no flat FAISS index"),
        ("faiss:cut.faiss", "do not fill its bytes"),
    ],
)
def test_what_cannot_be_opened_is_a_sentence(tmp_path, monkeypatch, specification, sentence):
    monkeypatch.chdir(tmp_path)
    for make in (two_columns, uneven, damaged):
        make(tmp_path)
    with pytest.raises(UserError, match=sentence):
        for _ in open_gallery(specification).chunks(5):
            pass


def test_what_does_not_fit_is_a_sentence_and_leaves_nothing(kind, tmp_path):
    old = kind.make(tmp_path)
    before = files(tmp_path)
    for options, sentence in (
        ({"note": {**NOTE, "about": object()}}, "must fit JSON"),
        ({"note": {}}, "needs the map's checksum"),
        ({"dtype": "int8"}, "dtype is one of"),
    ):
        with pytest.raises(UserError, match=sentence):
            moved(kind, old, tmp_path, **options)
    if kind.tolerance > 1e-3:
        with pytest.raises(UserError, match="beyond what float16 holds"):
            moved(kind, old, tmp_path, lambda rows: transform(rows) * 1e6)
    assert files(tmp_path) == before


def test_markers_are_json_in_the_schema(tmp_path):
    moved(PARQUET, PARQUET.make(tmp_path), tmp_path)
    noted = json.loads(pyarrow.parquet.read_schema(tmp_path / "new.parquet").metadata[b"jaxalign.gallery"])
    assert noted["column"] == "vector" and noted["marker"]["checksum"] == "a" * 64
