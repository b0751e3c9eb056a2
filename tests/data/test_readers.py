"""Files of other programs: what each holds is what is read, and a damaged one is one sentence."""

import json
import os
import pathlib
import zipfile

import ml_dtypes
import numpy as np
import pyarrow
import pyarrow.feather
import pyarrow.parquet
import pytest
import safetensors.numpy

from jaxalign import UserError
from jaxalign.data.readers import read_embeddings, read_samples

A = np.random.RandomState(0).standard_normal((6, 4)).astype(np.float32)
NAMES = [f"{person}/{row}.jpg" for row, person in enumerate("aabbcc")]
PEOPLE = list("aabbcc")
LISTS = pyarrow.array(A.tolist(), pyarrow.list_(pyarrow.float32()))
BY_NAME = dict(zip(NAMES, A))


def table(**columns):
    return pyarrow.table({"path": NAMES, "label": PEOPLE, "age": list(range(6)), **columns})


def lines(separator=",", header=True, kept=4):
    named = [separator.join(["file", "person", *(f"e{i}" for i in range(kept))])] if header else []
    rows = [separator.join([n, p, *map(repr, map(float, row))]) for n, p, row in zip(NAMES, PEOPLE, A)]
    return "\n".join([*named, *rows])


def write_torch(content):
    def write(path):
        torch = pytest.importorskip("torch")
        tensors = {k: torch.tensor(v) if isinstance(v, np.ndarray) else v for k, v in content.items()}
        torch.save(tensors if len(content) > 1 else tensors["x"], path)

    return write


def write_hdf5(path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        file.create_dataset("face/embeddings", data=A, compression="gzip")
        file["path"], file["label"] = NAMES, PEOPLE


def write_matlab(path):
    scipy_io = pytest.importorskip("scipy.io")
    scipy_io.savemat(path, {"x": A, "path": np.array(NAMES, object), "label": np.array(PEOPLE, object)})


def write_faiss(path):
    faiss = pytest.importorskip("faiss")
    index = faiss.IndexFlatIP(4)
    index.add(A)
    faiss.write_index(index, str(path))


def write_dataset(path):
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict({"path": NAMES, "label": PEOPLE, "embedding": A.tolist()}).save_to_disk(
        str(path)
    )


RECORDS = [{"path": n, "person": p, "normed_embedding": row.tolist()} for n, p, row in zip(NAMES, PEOPLE, A)]
BOTH, NO_PEOPLE, ROWS_ONLY = (NAMES, PEOPLE), (NAMES, None), (None, None)
FORMATS = {  # file: (what writes it, sample ids and people that it holds)
    "a.npy": (lambda path: np.save(path, A), ROWS_ONLY),
    "fortran.npy": (lambda path: np.save(path, np.asfortranarray(A)), ROWS_ONLY),
    "a.npz": (lambda path: np.savez_compressed(path, x=A, path=NAMES, label=PEOPLE), BOTH),
    "perkey.npz": (lambda path: np.savez(path, **BY_NAME), NO_PEOPLE),
    "a.safetensors": (lambda path: safetensors.numpy.save_file({"x": A}, path), ROWS_ONLY),
    "perkey.safetensors": (lambda path: safetensors.numpy.save_file(BY_NAME, path), NO_PEOPLE),
    "lists.parquet": (lambda path: pyarrow.parquet.write_table(table(x=LISTS), path), BOTH),
    "wide.parquet": (
        lambda path: pyarrow.parquet.write_table(table(**{f"e{i}": A[:, i] for i in (3, 1, 0, 2)}), path),
        BOTH,
    ),
    "lists.feather": (lambda path: pyarrow.feather.write_feather(table(x=LISTS), str(path)), BOTH),
    "a.csv": (lambda path: path.write_text(lines()), BOTH),
    "semicolon.csv": (lambda path: path.write_text("\ufeff" + lines(";")), BOTH),
    "a.tsv": (lambda path: path.write_text(lines("\t")), BOTH),
    "headless.csv": (
        lambda path: path.write_text("\n".join(",".join(map(repr, r)) for r in A.tolist())),
        ROWS_ONLY,
    ),
    "perkey.json": (
        lambda path: path.write_text(json.dumps({n: r.tolist() for n, r in BY_NAME.items()})),
        NO_PEOPLE,
    ),
    "columns.json": (
        lambda path: path.write_text(json.dumps({"path": NAMES, "label": PEOPLE, "x": A.tolist()})),
        BOTH,
    ),
    "records.json": (lambda path: path.write_text(json.dumps(RECORDS)), BOTH),
    "a.jsonl": (lambda path: path.write_text("\n".join(map(json.dumps, RECORDS))), BOTH),
    "a.pt": (write_torch({"x": A}), ROWS_ONLY),
    "lists.pth": (write_torch({"x": A, "path": NAMES, "label": PEOPLE}), BOTH),
    "perkey.pt": (write_torch(BY_NAME), NO_PEOPLE),
    "a.h5": (write_hdf5, BOTH),
    "a.mat": (write_matlab, BOTH),
    "a.faiss": (write_faiss, ROWS_ONLY),
    "saved": (write_dataset, BOTH),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_holds_the_same(tmp_path, name):
    write, (samples, people) = FORMATS[name]
    write(tmp_path / name)
    array, found = read_embeddings(tmp_path / name)
    assert np.array_equal(np.asarray(array, np.float32), A)
    assert (None if found.sample_ids is None else found.sample_ids.tolist()) == samples
    assert (None if found.identities is None else found.identities.tolist()) == people
    if "age" in found.columns:
        assert list(found.columns["age"]) == list(range(6))


def test_bfloat16_tensors_keep_their_type(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save(torch.tensor(A).bfloat16(), tmp_path / "a.pt")
    array, _ = read_embeddings(tmp_path / "a.pt")
    assert array.dtype == ml_dtypes.bfloat16
    assert np.array_equal(array, A.astype(ml_dtypes.bfloat16))


def outcome(read, path):
    """What is read, or None for a refusal in one sentence; any other exception passes through."""
    try:
        array, samples = read(path)
    except UserError as error:
        assert "\n" not in str(error)
        return None
    return np.asarray(array).tobytes(), str(samples.sample_ids), str(samples.identities)


MATRICES = {
    "f8": A.astype("f8"),
    "whole": np.arange(12.0).reshape(4, 3),
    "i2": (100 * A).astype("i2"),
    "complex": A + 1j * A,
    "three": np.arange(24.0).reshape(2, 3, 4),
    "row": np.arange(5.0)[None],
    "rows": np.array(["Äb ", "c  ", "dd€"]),
    "cells": np.array(["Äb", "", "dd€"], object),
}


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("name", MATRICES)
def test_matlab_files_are_read_as_scipy_reads_them(tmp_path, name, compressed):
    scipy_io = pytest.importorskip("scipy.io")
    scipy_io.savemat(tmp_path / "a.mat", {**MATRICES, "s": {"a": 1.0}}, do_compression=compressed)
    array, _ = read_embeddings(tmp_path / "a.mat", name)
    expected = scipy_io.loadmat(tmp_path / "a.mat")[name]
    if name == "cells":
        expected = np.array([str(np.squeeze(cell)) if cell.size else "" for cell in expected.ravel()])
    assert np.array_equal(array, np.squeeze(expected))
    with pytest.raises(UserError, match="'s' is neither a full matrix"):
        read_embeddings(tmp_path / "a.mat", "s")


def test_a_matlab_file_at_which_scipy_ends_the_process_is_refused(tmp_path):
    scipy_io = pytest.importorskip("scipy.io")
    scipy_io.savemat(tmp_path / "a.mat", {"emb": A})
    content = bytearray((tmp_path / "a.mat").read_bytes())
    place = content.index(b"emb") + 4
    assert content[place] == 7  # the type of the numbers, single
    content[place + 1] = 1
    (tmp_path / "a.mat").write_bytes(content)
    with pytest.raises(UserError, match="damaged or no .mat file"):
        read_embeddings(tmp_path / "a.mat")


CHECKED = ("a.npz", "perkey.npz", "a.pt", "lists.pth", "perkey.pt")  # zip files: a checksum of each member
FUZZED = [name for name in FORMATS if name not in ("saved", "a.h5", "a.faiss", "fortran.npy")]


@pytest.mark.parametrize("name", FUZZED)
@pytest.mark.filterwarnings("ignore")
def test_damage_is_one_sentence_or_the_same_rows(tmp_path, name):
    FORMATS[name][0](tmp_path / name)
    whole, path = (tmp_path / name).read_bytes(), tmp_path / f"damaged{pathlib.Path(name).suffix}"
    expected = outcome(read_embeddings, tmp_path / name)
    random = np.random.default_rng(0)
    for trial in range(150):
        content = bytearray(whole)
        if trial % 3 == 0:
            del content[random.integers(len(content)) :]
        else:
            for place in random.integers(len(content), size=1 + trial % 3):
                content[place] ^= 1 << random.integers(8)
        path.write_bytes(content)
        found = outcome(read_embeddings, path)
        if name in CHECKED and found is not None:
            assert found == expected


DAMAGED = {
    "bracket.npy": (lambda path: path.write_bytes(npy_with(b"(6, 4), }", b" 6, 4(, }")), "bracket.npy"),
    "short.npy": (lambda path: path.write_bytes(npy_with(b"(6, 4)", b"(5, 4)")), "announces"),
    "huge.npy": (
        lambda path: path.write_bytes(npy_with(b"(6, 4), }          ", b"(600000000000, 4)} ")),
        "huge.npy",
    ),
    "latin.csv": (lambda path: path.write_bytes("é,1,2".encode("latin-1")), "UTF-8"),
    "deep.json": (lambda path: path.write_text("[" * 100_000), "not JSON"),
    "digits.json": (lambda path: path.write_text('{"a": [' + "9" * 5000 + "]}"), "not JSON"),
    "half.json": (lambda path: path.write_text('{"\\ud800": [1.0]}'), "not JSON"),
    "ragged.json": (lambda path: path.write_text('{"a": [1.0], "b": [1.0, 2.0]}'), "different length"),
    "twice.parquet": (
        lambda path: pyarrow.parquet.write_table(pyarrow.table([LISTS, LISTS], ["x", "x"]), path),
        "two columns have one name: x",
    ),
    "latin.parquet": (
        lambda path: pyarrow.parquet.write_table(
            table(x=LISTS, name=pyarrow.array([b"\xff"] * 6).view(pyarrow.utf8())), path
        ),
        "damaged",
    ),
    "checksum.parquet": (
        lambda path: altered(path, write_checked, A[2].tobytes(), A[3].tobytes()),
        "damaged",
    ),
    "longer.faiss": (
        lambda path: altered(path, write_faiss, A.tobytes(), bytes(4) + A.tobytes()),
        "do not fill",
    ),
    "nul.csv": (lambda path: path.write_text(lines().replace("0.", "0.\0", 1)), r"a NUL character \(line \d"),
    "heap.h5": (lambda path: write_endless(path), "free space of no length"),
    "a.pkl": (lambda path: path.write_bytes(b"\x80\x04N."), "convert it: python -c"),
    "pipe.npy": (os.mkfifo, "a pipe"),
    "pipe.csv": (os.mkfifo, "a pipe"),
    "directory.npz": (lambda path: path.mkdir(), "a directory"),
    "directory": (lambda path: path.mkdir(), "save_to_disk"),
    "zero.npy": (lambda path: path.symlink_to("/dev/zero"), "a device"),
    "ivf.faiss": (lambda path: path.write_bytes(b"IwFl" + bytes(100)), "no flat FAISS index"),
    "many.npz": (lambda path: np.savez(path, **{f"k{i}": A for i in range(480)}), r"480 in all"),  # pyright: ignore[reportArgumentType]
}


def csv(*columns, header="file,e0,e1,e2,e3"):
    rows = [",".join(map(str, row)) for row in zip(*columns)]
    return lambda path: path.write_text("\n".join([header] * bool(header) + rows))


def wide(**changed):
    columns = {f"e{i}": A[:, i] for i in range(4)} | changed
    kept = {name: values for name, values in columns.items() if values is not None}
    return lambda path: pyarrow.parquet.write_table(pyarrow.table({"path": NAMES, **kept}), path)


E = [list(A[:, i]) for i in range(4)]
HOLE = [*E[0][:3], "", *E[0][4:]]
COMMAS = [";".join(str(value).replace(".", ",") for value in row) for row in A]
AMBIGUOUS = {  # file: (what writes it, what is told): each was read once, with a dimension too few or too many
    "hole.csv": (csv(NAMES, HOLE, *E[1:]), r"column 'e0' holds '' \(row 3\)"),
    "text.csv": (csv(NAMES, ["?"] * 6, *E[1:]), r"column 'e0' holds '\?' \(row 0\)"),
    "hole_headless.csv": (csv(HOLE, *E[1:], header=""), r"column 1 holds '' \(row 3\)"),
    "first_headless.csv": (csv(["", *E[0][1:]], *E[1:], header=""), r"column 1 holds '' \(row 0\)"),
    "empty_headless.csv": (csv(E[0], [""] * 6, *E[2:], header=""), "column 2 holds"),
    "gap.csv": (csv(*E, header="e0,e1,e3,e4"), "'e1' is followed by 'e3'"),
    "begin.csv": (csv(*E, header="e2,e3,e4,e5"), "begin with 'e2'"),
    "unnumbered.csv": (csv([0.5] * 6, *E, header="quality,x,y,z,w"), "quality, x, y, z, w"),
    "families.csv": (csv(*E, header="a0,a1,b0,b1"), "families.csv#a"),
    "label_headless.csv": (csv([0, 0, 1, 1, 2, 2], *E, header=""), "column 1 holds whole numbers"),
    "label_last.csv": (csv(*E, [0, 0, 1, 1, 2, 2], header=""), "column 5 holds whole numbers"),
    "repeated_headless.csv": (csv(PEOPLE, ["train"] * 6, *E, header=""), "both columns of text repeat"),
    "commas.csv": (lambda path: path.write_text("\n".join(COMMAS)), "decimal comma"),
    "commas_named.csv": (lambda path: path.write_text("\n".join(["a0;a1;a2;a3", *COMMAS])), "decimal comma"),
    "commas.tsv": (lambda path: path.write_text("\n".join(COMMAS).replace(";", "\t")), "decimal comma"),
    "lists.csv": (csv(NAMES, [f'"{row.tolist()}"' for row in A], header="path,emb"), "lists written as text"),
    "index.csv": (csv(NAMES, *E, header=",e0,e1,e2,e3"), "no name in the first line"),
    "gap.parquet": (wide(e2=None), "'e1' is followed by 'e3'"),
    "text.parquet": (wide(e2=list("abcdef")), r"column 'e2' holds 'a' \(row 0\)"),
    "bool.parquet": (wide(e2=[True] * 6), "column 'e2' holds bool"),
    "null.parquet": (wide(e2=[None, *E[2][1:]]), "column 'e2' has 1 rows without a number"),
    "both.parquet": (wide(box=[[1.0, 2.0]] * 6), "both.parquet#box"),
    "label.parquet": (wide(label=[0.5] * 6), "expected text or whole numbers"),
}


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_a_table_whose_dimensions_are_not_plain_is_refused(tmp_path, name):
    write, told = AMBIGUOUS[name]
    write(tmp_path / name)
    with pytest.raises(UserError, match=told) as caught:
        read_embeddings(tmp_path / name)
    assert "\n" not in str(caught.value)


LABELS = [0, 0, 1, 1, 10, 10]
PLAIN = {  # file: (what writes it, people)
    "label.csv": (csv(LABELS, *E, header="label,e0,e1,e2,e3"), ["0", "0", "1", "1", "10", "10"]),
    "zeros.csv": (csv(["01"] * 6, *E, header="label,e0,e1,e2,e3"), ["01"] * 6),
    "label.parquet": (wide(label=np.array(LABELS, float)), ["0", "0", "1", "1", "10", "10"]),
    "index.csv": (csv(range(6), *E, header=",0,1,2,3"), None),
    "named_index.csv": (csv(range(6), *E, header=",f0,f1,f2,f3"), None),
    "counted.csv": (csv(PEOPLE, *E, header="label,0,1,2,3"), PEOPLE),
    "savetxt.csv": (lambda path: np.savetxt(path, A), None),
    "quality.csv": (csv([0.5] * 6, *E, header="quality,e0,e1,e2,e3"), None),
    "ends.csv": (csv(*E, [""] * 6, header=""), None),
    "person_headless.csv": (csv(PEOPLE, *E, header=""), PEOPLE),
    "names_headless.csv": (csv(NAMES, *E, header=""), None),
    "names_person_headless.csv": (csv(NAMES, PEOPLE, *E, header=""), PEOPLE),
    "person_names_headless.csv": (csv(PEOPLE, *E, NAMES, header=""), PEOPLE),
}


@pytest.mark.parametrize("name", PLAIN)
def test_tables_as_programs_write_them(tmp_path, name):
    write, people = PLAIN[name]
    write(tmp_path / name)
    array, samples = read_embeddings(tmp_path / name)
    np.testing.assert_array_equal(np.asarray(array, np.float32), A)
    assert (None if samples.identities is None else samples.identities.tolist()) == people
    if "headless" in name:  # text that repeats is no name of a photograph
        named = None if samples.sample_ids is None else samples.sample_ids.tolist()
        assert named == (NAMES if "names" in name else None)
    assert len(samples.dimensions) == 4


def test_whole_numbers_among_the_dimensions_are_one_and_a_family_can_be_named(tmp_path):
    wide(e2=np.arange(6))(tmp_path / "a.parquet")
    assert read_embeddings(tmp_path / "a.parquet")[0][:, 2].tolist() == list(range(6))
    csv(*E, header="a0,a1,b0,b1")(tmp_path / "a.csv")
    np.testing.assert_array_equal(read_embeddings(tmp_path / "a.csv", "b")[0].astype(np.float32), A[:, 2:])


def write_checked(path):
    options = {"write_page_checksum": True, "compression": "none", "use_dictionary": False}
    pyarrow.parquet.write_table(table(x=LISTS), path, **options)


def write_endless(path):
    """HDF5 does not end on it, and nothing but SIGKILL stops it."""
    write_hdf5(path)
    content = bytearray(path.read_bytes())
    first = content.index(b"GCOL") + 16
    content[first : first + 16] = bytes(16)
    path.write_bytes(content)


def altered(path, write, old, new):
    write(path)
    assert path.read_bytes().count(old) == 1
    path.write_bytes(path.read_bytes().replace(old, new))


def npy_with(old, new):
    import io

    file = io.BytesIO()
    np.save(file, A)
    content = file.getvalue()
    assert old in content and len(old) == len(new)
    return content.replace(old, new)


@pytest.mark.parametrize("name", DAMAGED)
def test_what_cannot_be_read_is_one_sentence(tmp_path, name):
    write, told = DAMAGED[name]
    write(tmp_path / name)
    with pytest.raises(UserError, match=told) as caught:
        read_embeddings(tmp_path / name)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_only_the_array_that_is_named_is_read(tmp_path):
    """A file of a few kilobytes whose other array would take a thousand gigabytes."""
    path = tmp_path / "bomb.npz"
    np.savez(path, emb=A)
    head = npy_with(b"(6, 4), }             ", b"(250000000000,)}      "[:22].ljust(22))
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as file:
        file.writestr("cut.npy", head)
    with pytest.raises(UserError, match="cut.npy announces 1,000,000,000"):
        read_embeddings(path, "emb")
    zeros = tmp_path / "zeros.npz"
    np.savez_compressed(zeros, emb=A, zeros=np.zeros((50_000, 100)))
    array, _ = read_embeddings(zeros, "emb")
    assert np.array_equal(array, A)


def test_a_file_that_announces_more_than_memory_is_refused(tmp_path, monkeypatch):
    from jaxalign.core import files

    np.savez_compressed(tmp_path / "a.npz", emb=np.zeros((1000, 100)))
    pyarrow.parquet.write_table(table(x=LISTS), tmp_path / "a.parquet")
    people = pyarrow.array(["Ann"] * 1000).dictionary_encode()
    zeros = pyarrow.table({"x": np.zeros((1000, 100)).tolist(), "identity": people})
    pyarrow.feather.write_feather(zeros, str(tmp_path / "a.feather"))
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "state.json").write_text('{"_data_files": [{"filename": "a.arrow"}]}')
    packed = pyarrow.ipc.IpcWriteOptions(compression="zstd")
    with pyarrow.ipc.new_stream(tmp_path / "set" / "a.arrow", zeros.schema, options=packed) as stream:
        stream.write_table(zeros)
    for name in ("a.feather", "set"):
        monkeypatch.setattr(files, "available_memory", lambda: zeros.nbytes + 4096)
        assert read_embeddings(tmp_path / name)[0].shape == (1000, 100)
        monkeypatch.setattr(files, "available_memory", lambda: zeros.nbytes - 4096)
        with pytest.raises(UserError, match="GB of memory are free"):
            read_embeddings(tmp_path / name)
    monkeypatch.setattr(files, "available_memory", lambda: 100)
    for name in ("a.npz", "a.parquet"):
        with pytest.raises(UserError, match="GB of memory are free"):
            read_embeddings(tmp_path / name)


WRITTEN = {
    "semicolon": "\ufefffilename;label;pose\na\\1.jpg;Ann ;left\nb\\1.jpg;Bo;right\n",
    "tab": "image\tperson\tpose\na/1.jpg\tAnn\tleft\nb/1.jpg\t Bo\tright\n",
    "decomposed": "file_name,subject,pose\na/1.jpg,Ann\u200b,left\nb/1.jpg,Bo,right\n",
}


@pytest.mark.parametrize("content", WRITTEN.values(), ids=WRITTEN)
def test_lists_of_people_as_programs_write_them(tmp_path, content):
    (tmp_path / "people.csv").write_text(content, encoding="utf-8")
    samples = read_samples(tmp_path / "people.csv")
    assert samples.sample_ids.tolist() == ["a/1.jpg", "b/1.jpg"]  # pyright: ignore[reportOptionalMemberAccess]
    assert samples.identities.tolist() == ["Ann", "Bo"]  # pyright: ignore[reportOptionalMemberAccess]
    assert samples.columns["pose"].tolist() == ["left", "right"]
