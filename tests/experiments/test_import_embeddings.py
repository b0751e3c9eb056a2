"""The importer: every format gives the same store, rows are matched by name, nothing is unpickled or half written."""

import pathlib
import pickle
from collections.abc import Iterable

import commands
import ml_dtypes
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import safetensors.numpy
from processes import finished, start

from experiments import import_embeddings
from jaxalign.data import EmbeddingStore

ROWS = 6
PEOPLE = ["ann", "ann", "bo", "bo", "cy", "cy"]
SAMPLES = [f"{person}/{row}.jpg" for row, person in enumerate(PEOPLE)]
A = np.random.RandomState(0).standard_normal((ROWS, 4)).astype(np.float32)
B = np.random.RandomState(1).standard_normal((ROWS, 3)).astype(np.float16)
MIXED = [3, 0, 5, 1, 4, 2]


class Evil:
    """Unpickling this would leave a file behind."""

    def __reduce__(self):
        return (open, ("unpickled", "w"))


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs the importer in an empty directory; gives exit status, standard output and standard error."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        done = commands.run(import_embeddings, *arguments)
        return done.returncode, done.stdout, done.stderr

    return run


def write_csv(
    name="people.csv", header="sample_id,identity", order: Iterable[int] = range(ROWS), separator=","
):
    lines = [header] if header else []
    wide = separator in header
    lines += [f"{SAMPLES[row]}{separator}{PEOPLE[row]}" if wide else PEOPLE[row] for row in order]
    pathlib.Path(name).write_text("\n".join(lines) + "\n")


def write_parquet(name, order: Iterable[int] = range(ROWS), **columns):
    rows = list(order)
    names = {"path": [SAMPLES[row] for row in rows], "identity": [PEOPLE[row] for row in rows]}
    columns = {**names, "arc": A[rows].tolist(), **columns}
    pyarrow.parquet.write_table(pyarrow.table({k: v for k, v in columns.items() if v is not None}), name)


def save_safetensors(**arrays):
    safetensors.numpy.save_file(arrays, "a.safetensors")


FIXED = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(A.reshape(-1)), 4)
LISTS = pyarrow.array(A.tolist(), pyarrow.list_(pyarrow.float32()))
NAMELESS: dict = {"identity": None, "path": None}
FORMATS = {
    "a.npy": lambda: np.save("a.npy", A),
    "a.npz": lambda: np.savez("a.npz", features=A),
    "a.npz#features": lambda: np.savez_compressed("a.npz", other=B, features=A),
    "a.safetensors": lambda: save_safetensors(features=A),
    "a.safetensors#features": lambda: save_safetensors(features=A, other=B),
    "a.parquet": lambda: write_parquet("a.parquet", arc=LISTS, **NAMELESS),
    "a.parquet#arc": lambda: write_parquet(
        "a.parquet", arc=FIXED, other=B.astype(float).tolist(), **NAMELESS
    ),
}


@pytest.mark.parametrize("given", FORMATS)
def test_every_format_gives_the_same_store(run, given):
    write_csv()
    FORMATS[given]()
    status, out, err = run("--out=store", "--identities=people.csv", f"--embeddings=arc={given}")
    assert (status, err) == (0, "")
    assert out == "store: data set store, 6 samples of 3 people\n  arc: [6, 4] float32\n"
    store = EmbeddingStore.open("store")
    assert store.encoders == ("arc",)
    assert store["arc"].tobytes() == A.tobytes()
    assert store.identities.tolist() == PEOPLE
    assert store.sample_ids.tolist() == SAMPLES


def write(name, content):
    return lambda: pathlib.Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())


WHO = {  # how, the file, and what writes it
    "tsv": ("people.tsv", lambda: write_csv("people.tsv", "sample_id\tidentity", separator="\t")),
    "list": ("people.txt", write("people.txt", "\ufeff" + "\r\n".join(SAMPLES) + "\n\n")),
    "deep list": ("people.lst", write("people.lst", "\n".join(f"/data/faces/{name}" for name in SAMPLES))),
    "other names": ("people.csv", lambda: write_csv(header="Path,Subject")),
    "quoted": ("people.csv", lambda: write_csv(header='"sample_id", "identity"', separator=", ")),
    "parquet": ("people.parquet", lambda: write_parquet("people.parquet", arc=None)),
    "npz": ("people.npz", lambda: np.savez("people.npz", labels=PEOPLE, filenames=SAMPLES, extra=A)),
}


@pytest.mark.parametrize("kind", WHO)
def test_every_way_to_say_who_is_on_a_row(run, kind):
    name, write_it = WHO[kind]
    write_it()
    np.save("a.npy", A)
    assert run("--out=store", f"--identities={name}", "--embeddings=a.npy")[::2] == (0, "")
    store = EmbeddingStore.open("store")
    assert store.encoders == ("a",)  # named after its file
    assert store.identities.tolist() == PEOPLE
    root = "/data/faces/" if kind == "deep list" else ""
    assert store.sample_ids.tolist() == [root + sample for sample in SAMPLES]


@pytest.mark.parametrize("header", ["identity", "Label", ""])
def test_identities_alone_give_numbered_samples(run, header):
    np.save("a.npy", A)
    pathlib.Path("people.csv").write_text("\n".join([header] * bool(header) + PEOPLE) + "\n")
    assert run("--out=store", "--identities=people.csv", "--embeddings=a.npy")[::2] == (0, "")
    store = EmbeddingStore.open("store")
    assert store.identities.tolist() == PEOPLE
    assert store.sample_ids.tolist() == list("012345")


def test_columns_can_be_named_and_the_others_are_kept(run):
    np.save("a.npy", A)
    lines = ["file,who,pose,identity", *(f"{s},{p},{i},x" for i, (s, p) in enumerate(zip(SAMPLES, PEOPLE)))]
    pathlib.Path("people.csv").write_text("\n".join(lines))
    who = ("--identities=people.csv", "--identity_column=who")
    assert run("--out=store", "--embeddings=a.npy", *who)[::2] == (0, "")
    store = EmbeddingStore.open("store")
    assert store.identities.tolist() == PEOPLE
    assert store.columns == ("sample_id", "identity", "pose", "original_identity")
    assert store.column("pose").tolist() == list("012345")
    assert store.column("original_identity").tolist() == ["x"] * 6


def test_several_encoders_and_settings(run):
    write_csv()
    np.save("a.npy", A.astype(np.float64))
    np.savez("b.npz", B)
    flags = ["--embeddings=arc=a.npy", "--embeddings=clip=b.npz", "--dataset=My faces", "--dtype=float16"]
    status, out, _ = run("--out=deep/store", "--identities=people.csv", *flags)
    assert status == 0
    assert out.splitlines()[0] == "deep/store: data set My faces, 6 samples of 3 people"
    store = EmbeddingStore.open("deep/store")
    assert store.encoders == ("arc", "clip")
    np.testing.assert_array_equal(store["arc"], A.astype(np.float64).astype(np.float16))
    np.testing.assert_array_equal(store["clip"], B)


def test_bfloat16_stays_bfloat16(run):
    write_csv()
    narrow = A.astype(ml_dtypes.bfloat16)
    safetensors.numpy.save_file({"features": narrow}, "a.safetensors")
    assert run("--out=store", "--identities=people.csv", "--embeddings=arc=a.safetensors")[0] == 0
    stored = EmbeddingStore.open("store")["arc"]
    assert stored.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(stored.astype(np.float32), narrow.astype(np.float32))


def test_a_file_that_names_its_samples_is_put_in_order(run):
    write_csv()
    write_parquet("a.parquet", MIXED)
    np.savez("b.npz", features=B[::-1], paths=np.array(SAMPLES[::-1]))
    flags = ["--embeddings=arc=a.parquet", "--embeddings=clip=b.npz"]
    assert run("--out=store", "--identities=people.csv", *flags)[::2] == (0, "")
    store = EmbeddingStore.open("store")
    assert store.sample_ids.tolist() == SAMPLES
    assert store["arc"].tobytes() == A.tobytes()
    assert store["clip"].tobytes() == B.tobytes()


def test_identities_from_the_file_of_an_encoder(run):
    write_parquet("a.parquet", MIXED, pose=list("uvwxyz"))
    np.savez("b.npz", features=B, paths=np.array(SAMPLES))
    assert run("--out=store", "--embeddings=clip=b.npz", "--embeddings=arc=a.parquet")[::2] == (0, "")
    store = EmbeddingStore.open("store")
    assert store.identities.tolist() == [PEOPLE[row] for row in MIXED]
    assert store.column("pose").tolist() == list("uvwxyz")
    np.testing.assert_array_equal(store["arc"], A[MIXED])
    np.testing.assert_array_equal(store["clip"], B[MIXED])


def test_rows_of_no_sample_are_left_out_and_said(run):
    write_csv(order=[4, 1])
    write_parquet("a.parquet")
    status, out, _ = run("--out=store", "--identities=people.csv", "--embeddings=arc=a.parquet")
    assert status == 0
    assert "note: 4 rows of a.parquet are of no sample of the store and were left out." in out
    np.testing.assert_array_equal(EmbeddingStore.open("store")["arc"], A[[4, 1]])


def test_what_a_driver_will_ask_about_is_said(run):
    bad = A.copy()
    bad[[1, 4], 2] = np.nan
    np.save("a.npy", bad)
    pathlib.Path("people.txt").write_text("\n".join(f"person{row}/photo.jpg" for row in range(ROWS)))
    _, out, _ = run("--out=store", "--identities=people.txt", "--embeddings=arc=a.npy")
    assert "  arc: [6, 4] float32, 2 rows with NaN or infinity\n" in out
    assert "note: nobody has two samples" in out


def test_columns_taken_as_the_embedding_and_people_called_nan_are_said(run):
    pathlib.Path("people.csv").write_text("identity\n" + "\n".join(["nan", "nan", *PEOPLE[2:]]))
    pathlib.Path("a.csv").write_text("\n".join(["d0,d1,d2,d3", *(",".join(map(str, row)) for row in A)]))
    status, out, _ = run("--out=store", "--identities=people.csv", "--embeddings=arc=a.csv")
    assert status == 0
    assert "note: a.csv: took 4 columns d0 … d3\n" in out
    assert "note: a person is called 'nan'" in out


@pytest.fixture
def base(run):
    """A store with one encoder, and another encoder's file to add."""
    write_csv()
    np.save("a.npy", A)
    assert run("--out=store", "--identities=people.csv", "--embeddings=arc=a.npy")[0] == 0
    np.save("b.npy", B[MIXED])
    return pathlib.Path("store")


@pytest.mark.parametrize("way", ["own names", "list of names", "row order"])
def test_add_matches_rows_by_name(run, base, way):
    if way == "own names":
        write_parquet("b.parquet", MIXED, arc=B[MIXED].astype(np.float32).tolist(), identity=None)
        flags = ["--embeddings=clip=b.parquet", "--dtype=float16"]
    elif way == "list of names":
        pathlib.Path("order.txt").write_text("\n".join(SAMPLES[row] for row in MIXED))
        flags = ["--embeddings=clip=b.npy", "--identities=order.txt"]
    else:
        np.save("b.npy", B)
        flags = ["--embeddings=clip=b.npy"]
    status, out, err = run("--out=store", "--add", *flags)
    assert (status, err) == (0, "")
    assert out.splitlines()[1:] == ["  arc: [6, 4] float32", "  clip: [6, 3] float16"]
    store = EmbeddingStore.open(base)
    assert store["clip"].tobytes() == B.tobytes()
    assert store["arc"].tobytes() == A.tobytes()


def test_other_identities_of_the_same_people_are_no_contradiction(run, base):
    write_parquet("b.parquet", MIXED, identity=[{"ann": 7, "bo": 1, "cy": 3}[PEOPLE[row]] for row in MIXED])
    assert run("--out=store", "--add", "--embeddings=more=b.parquet")[::2] == (0, "")
    assert EmbeddingStore.open(base)["more"].tobytes() == A.tobytes()


def cut(name, source, size):
    return lambda: pathlib.Path(name).write_bytes(pathlib.Path(source).read_bytes()[:size])


def several():
    np.savez("s.npz", one=A, two=A)
    safetensors.numpy.save_file({"one": A, "two": A}, "s.safetensors")


def bad_magic():
    pathlib.Path("c.npz").write_bytes(pathlib.Path("b.npz").read_bytes().replace(b"NUMPY", b"LUMPY"))


def other_orders():
    write_csv("who.csv", "identity")
    write_parquet("m.parquet", identity=None)
    write_parquet("n.parquet", MIXED, identity=None)


def arrays(name, **arrays):
    return lambda: np.savez(name, **arrays)


def array(name, values):
    return lambda: np.save(name, values)


def parquet(name, *order, **columns):
    return lambda: write_parquet(name, *order, **columns)


EVIL = np.array([Evil()] * ROWS, object)
RAGGED = [[1.0, 2.0]] * 4 + [[1.0]] + [[1.0, 2.0]]
OTHERS = np.roll(PEOPLE, 1)
HOLE = [[1.0]] * 3 + [None] + [[1.0]] * 2
MAKE = "--out=new --identities=people.csv --embeddings="
NEW = "--out=new --embeddings=a.npy --identities="
ADD = "--out=store --add --embeddings="
SEVEN = "sample_id,identity\n" + "".join(f"{row},ann\n" for row in range(7))
REFUSED = [
    (None, "", "--out is missing"),
    (None, "--out=new --identities=people.csv", "--embeddings is missing"),
    (None, "--out=new --embeddings=a.npy", "give --identities="),
    (None, MAKE + "a.npy --embedding=a.npy", "there is no flag --embedding. Did you mean --embeddings?"),
    # Files of embeddings.
    (None, MAKE + "x.npy", "x.npy is missing"),
    (lambda: pathlib.Path("d.npy").mkdir(), MAKE + "d.npy", "d.npy is not a file"),
    (write("a.pkl", pickle.dumps(Evil())), MAKE + "a.pkl", "a.pkl: embeddings are read from .npy"),
    (write("a.txt", "1 2"), MAKE + "a.txt", "a.txt: embeddings are read from .npy"),
    (array("evil.npy", EVIL), MAKE + "evil.npy", "evil.npy holds pickled Python objects"),
    (arrays("evil.npz", features=A, labels=EVIL), MAKE + "evil.npz", "evil.npz holds pickled Python objects"),
    (write("p.npy", pickle.dumps(Evil())), MAKE + "p.npy", "p.npy is damaged or no .npy"),
    (write("p.npz", pickle.dumps(Evil())), MAKE + "p.npz", "p.npz is damaged or no .npz"),
    (cut("c.npy", "a.npy", 150), MAKE + "c.npy", "c.npy is damaged or no .npy"),
    (cut("c.npz", "b.npz", 150), MAKE + "c.npz", "c.npz is damaged or no .npz"),
    (bad_magic, MAKE + "c.npz", "c.npz is damaged or no .npz"),
    (write("c.safetensors", "xy"), MAKE + "c.safetensors", "c.safetensors is damaged or no safetensors"),
    (write("c.parquet", "xy"), MAKE + "c.parquet", "c.parquet is damaged or no Parquet"),
    (several, MAKE + "s.npz", "it holds one, two"),
    (several, MAKE + "s.safetensors", "s.safetensors#name"),
    (several, MAKE + "s.npz#three", "s.npz holds no 'three'; it holds one, two"),
    (None, MAKE + "a.npy#x", "a.npy holds one array without a name"),
    (parquet("l.parquet", arc=None), MAKE + "l.parquet", "l.parquet"),
    (parquet("l.parquet"), MAKE + "l.parquet#path", "column 'path' must hold lists of floats"),
    (parquet("r.parquet", arc=RAGGED), MAKE + "r.parquet", "different length: 2 in row 0, 1 in row 4"),
    (parquet("g.parquet", arc=HOLE), MAKE + "g.parquet", "g.parquet: column 'arc'"),
    (array("f.npy", A[:4]), MAKE + "f.npy", "f.npy has 4 rows, there are 6 samples"),
    (array("o.npy", A * 1e6), MAKE + "o.npy --dtype=float16", "use --dtype=keep"),
    (array("i.npy", np.zeros((ROWS, 2), np.int8)), MAKE + "i.npy", "encoder 'i': expected float16"),
    (None, MAKE + "a=a.npy --embeddings=a=b.npy", "--embeddings names the encoder 'a' twice"),
    (None, MAKE + "../x=a.npy", "an encoder cannot be called '../x'"),
    # Files that say who is on a row.
    (None, NEW + "x.csv", "x.csv is missing"),
    (write("p.json", "{}"), NEW + "p.json", "p.json"),
    (lambda: write_csv("who.csv", "wer"), NEW + "who.csv", "7 samples. Is its first line a header?"),
    (write("who.csv", SEVEN), NEW + "who.csv", "a.npy has 6 rows, there are 7 samples.\n"),
    (write("who.csv", "a,b\n1,2\n"), NEW + "who.csv", "who.csv has no column 'identity'; it has a, b."),
    (None, NEW + "people.csv --identity_column=who --sample_column=what", "people.csv has no column 'who'"),
    (write("who.csv", "sample_id,identity\na,ann\nb,\n"), NEW + "who.csv", "identity is missing in 1 row"),
    (write("who.csv", "sample_id,identity\na,ann\nb\n"), NEW + "who.csv", "who.csv: record 3"),
    (write("who.csv", "identity,identity\na,ann\n"), NEW + "who.csv", "who.csv: two columns have one name"),
    (write("who.csv", b"\xff\xfe"), NEW + "who.csv", "who.csv is not a CSV file in UTF-8"),
    (write("e.csv", ""), NEW + "e.csv", "e.csv is empty"),
    (write("e.txt", "\n"), NEW + "e.txt", "e.txt is empty"),
    (write("l.txt", "ann/1.jpg\n./2.jpg\n"), NEW + "l.txt", "l.txt, line 2: expected person/photo.jpg"),
    (write("l.txt", "\n".join([*SAMPLES[:5], SAMPLES[0]])), NEW + "l.txt", "(first: 'ann/0.jpg')"),
    # Rows that do not belong together.
    (parquet("m.parquet", [0, 1, 2]), MAKE + "m.parquet", "lacks 3 of 6 samples (first: 'bo/3.jpg'"),
    (parquet("m.parquet", [0, 1, 2, 3, 4, 5, 5]), MAKE + "m.parquet", "m.parquet: 1 names come twice"),
    (arrays("o.npz", features=A, labels=OTHERS), MAKE + "o.npz", "o.npz has other people on its rows"),
    (arrays("o.npz", features=A, labels=["x"] * ROWS), MAKE + "o.npz", "o.npz has other people on its rows"),
    (other_orders, NEW.replace("a.npy", "m.parquet") + "who.csv --embeddings=n.parquet", "and n.parquet"),
    # Stores that are there, or not.
    (None, MAKE.replace("new", "store") + "a.npy", "store holds a store already"),
    (None, "--out=new --add --embeddings=a.npy", "there is no store at new"),
    (None, ADD + "arc=a.npy", "there is already an encoder 'arc'"),
    (array("f.npy", A[:4]), ADD + "f.npy", "f.npy has 4 rows"),
    (array("f.npy", A.astype(int)), ADD + "ok=a.npy --embeddings=f.npy", "encoder 'f': expected float16"),
    (arrays("o.npz", features=A, labels=OTHERS), ADD + "o.npz", "o.npz has other people on its rows"),
    (None, ADD + "a.npy --overwrite", "--add only adds encoders"),
]


@pytest.mark.parametrize(("prepare", "arguments", "named"), REFUSED, ids=[named for _, _, named in REFUSED])
def test_refused_in_one_sentence_with_status_2_and_nothing_written(run, base, prepare, arguments, named):
    np.savez("b.npz", features=B)
    if prepare:
        prepare()
    before = {path: path.read_bytes() for path in pathlib.Path().rglob("*") if path.is_file()}
    status, out, err = run(*arguments.split())
    assert (status, out) == (2, "")
    assert err.startswith("error: ") and named in err and err.count("\n") == 1
    assert {path: path.read_bytes() for path in pathlib.Path().rglob("*") if path.is_file()} == before


def test_overwrite_replaces(run, base):
    flags = ["--identities=people.csv", "--embeddings=other=b.npy", "--overwrite"]
    assert run("--out=store", *flags)[::2] == (0, "")
    assert EmbeddingStore.open(base).encoders == ("other",)


def test_the_command_of_the_docstring(tmp_path):
    np.save(tmp_path / "arcface.npy", A)
    np.savez(tmp_path / "clip.npz", features=B)
    (tmp_path / "people.csv").write_text("identity\n" + "\n".join(PEOPLE))
    command = ["-m", "experiments.import_embeddings", "--out=my_store", "--identities=people.csv"]
    command += ["--embeddings=arcface=arcface.npy", "--embeddings=clip=clip.npz#features"]
    (done,) = finished([start(*command, cache=tmp_path, cwd=tmp_path)])
    assert (done.returncode, done.stderr) == (0, "")
    assert EmbeddingStore.open(tmp_path / "my_store").dims == {"arcface": 4, "clip": 3}
    shown = commands.succeed(import_embeddings, "--help").stdout
    assert "python -m experiments.import_embeddings --out=my_store --identities=people.csv" in shown
    for flag in ("embeddings=", "identities=", "[no]add", "[no]overwrite"):
        assert f"--{flag}" in shown
