"""A store whose rows are mapped: against float64 numpy, whole or not at all, and what bad input gets."""

import pathlib
import shutil

import jax
import ml_dtypes
import numpy as np
import pytest

import jaxalign
from experiments import apply
from experiments.run import cli
from jaxalign import AffineMap
from jaxalign.core.errors import UserError
from jaxalign.core.rows import unit_rows
from jaxalign.data import EmbeddingStore
from jaxalign.gallery import move
from jaxalign.gallery.move import affine_transform, checksum, move_gallery
from jaxalign.gallery.stores import open_gallery

ROWS, WIDTH, OUT = 53, 6, 4
RNG = np.random.default_rng(0)
FACTOR, BIAS, CENTER = RNG.normal(size=(WIDTH, OUT)), RNG.normal(size=OUT), RNG.normal(size=WIDTH)
MAP = AffineMap((FACTOR,), BIAS, CENTER)  # pyright: ignore[reportArgumentType]
EPSILON = {"float16": 1e-3, "float32": 1e-6, "bfloat16": 8e-3}


@pytest.fixture
def store(tmp_path):
    formats = {"arc": np.float32, "half": np.float16, "brain": ml_dtypes.bfloat16}
    embeddings = {name: (RNG.normal(size=(ROWS, WIDTH)) + 2).astype(dtype) for name, dtype in formats.items()}
    embeddings["narrow"] = RNG.normal(size=(ROWS, 3)).astype(np.float32)
    people = [f"person{row % 9}" for row in range(ROWS)]
    columns = {"capture": [str(row) for row in range(ROWS)]}
    return EmbeddingStore.create(tmp_path / "store", embeddings, people, columns=columns, dataset="toy")


def translate(store, encoder, map, out, *, name=None, dtype="float16", **options):
    """Moves one encoder's rows to a new directory and opens it."""
    scaled = {key: options.pop(key) for key in ("normalize_input", "normalize") if key in options}
    gallery = open_gallery(f"{store.path}#{encoder}")
    transform = affine_transform(map, gallery, **scaled)
    note = {"checksum": checksum(map, scaled)}
    out = f"{out}#{name or encoder}"
    return move_gallery(gallery, out, transform, map.out_dim, note, dtype=dtype, **options).store  # pyright: ignore[reportAttributeAccessIssue]


def expected(rows):
    return (np.asarray(rows).astype(np.float64) - CENTER) @ FACTOR + BIAS


def unit(rows):
    wide = np.asarray(rows, np.float64)
    return wide / np.linalg.norm(wide, axis=1, keepdims=True)


@pytest.mark.parametrize("dtype", EPSILON)
@pytest.mark.parametrize("encoder", ["arc", "half", "brain"])
@pytest.mark.parametrize("chunk_rows", [None, 7, 1, ROWS - 1, ROWS, ROWS + 1])
def test_rows_are_mapped_and_samples_kept(store, tmp_path, encoder, dtype, chunk_rows):
    made = translate(store, encoder, MAP, tmp_path / "new", dtype=dtype, chunk_rows=chunk_rows)
    again = EmbeddingStore.open(tmp_path / "new")  # with its checksums
    assert made.encoders == again.encoders == (encoder,)
    assert again[encoder].dtype.name == dtype
    error = np.abs(again[encoder].astype(np.float64) - expected(store[encoder]))
    assert (error <= EPSILON[dtype] * (1 + np.abs(expected(store[encoder])))).all()
    assert again.dataset == "toy" and again.columns == store.columns
    for column in store.columns:
        np.testing.assert_array_equal(again.column(column), store.column(column))
    assert again.info[encoder]["translated_from"] == {"encoder": encoder, "sha256": store.checksums[encoder]}


def test_rows_are_scaled_before_and_after(store, tmp_path):
    options = {"dtype": "float32", "name": "new", "normalize_input": True, "normalize": True}
    made = translate(store, "arc", MAP, tmp_path / "new", **options)
    assert made.encoders == ("new",)
    np.testing.assert_allclose(made["new"], unit(expected(unit(store["arc"]))), atol=1e-6)
    np.testing.assert_array_equal(unit_rows(np.zeros((2, 3))), np.zeros((2, 3)))


HALVES = np.arange(2**16, dtype=np.uint16).view(np.float16)
HALVES = HALVES[np.isfinite(HALVES)].reshape(-1, 4)  # all finite ones, smallest ones in rows of their own
TINY = np.array([[0, 0, 0, 0], [1e-40, -2e-40, 0, 3e-45], [3e38, -3e38, 1, 0]], np.float32)


@pytest.mark.parametrize(
    "scaled", [{}, {"normalize_input": True}, {"normalize_input": True, "normalize": True}]
)
@pytest.mark.parametrize("rows", [HALVES, TINY], ids=["float16", "float32"])
def test_every_number_goes_through_the_program_as_numpy_would_take_it(tmp_path, rows, scaled):
    made = EmbeddingStore.create(tmp_path / "store", {"arc": rows}, np.arange(len(rows)))
    same = AffineMap((), np.zeros(4))  # pyright: ignore[reportArgumentType]
    found = affine_transform(same, open_gallery(str(made.path)), **scaled)(rows)
    expected = rows.astype(np.float64)
    for _ in scaled:
        expected = unit_rows(expected.astype(np.float32))
    if scaled or rows is HALVES:
        np.testing.assert_allclose(found, expected, rtol=1.2e-7, atol=1e-38)
    assert found.dtype == np.float32 and found.shape == rows.shape


def test_memory_that_runs_out_gives_a_sentence_and_leaves_nothing(store, tmp_path, monkeypatch):
    def full(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    monkeypatch.setattr(move, "_mapped", full)
    with pytest.raises(UserError, match="width 6 to 4 do not fit .* 53 rows .* smaller chunk_rows"):
        translate(store, "arc", MAP, tmp_path / "other")
    assert not list(tmp_path.glob("*other*"))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"dtype": "int8"}, "dtype is one of float16, float32, bfloat16, got 'int8'"),
        ({"name": "a/b"}, "cannot be called"),
        ({"encoder": "no"}, "there is no encoder 'no'"),
        ({"map": AffineMap((), np.zeros(3))}, "the map takes rows of width 3, .*store#arc has width 6"),
        ({"map": AffineMap((), np.zeros((2, 6)))}, "got a stack of shape"),
        ({"chunk_rows": 0}, "chunk_rows: expected a whole number of at least 1"),
        ({"map": AffineMap((), np.full(6, 1e6))}, "beyond what float16 holds"),
    ],
)
def test_what_cannot_be_translated_is_a_sentence_and_leaves_nothing(store, tmp_path, change, sentence):
    arguments = {"encoder": "arc", "map": MAP, "out": tmp_path / "new", **change}
    with pytest.raises(UserError, match=sentence):
        translate(store, **arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_what_is_there_is_left_alone_unless_asked(store, tmp_path):
    with pytest.raises(UserError, match="is the store to translate"):
        translate(store, "arc", MAP, store.path, overwrite=True)
    translate(store, "arc", MAP, tmp_path / "new")
    with pytest.raises(UserError, match="holds a store already"):
        translate(store, "half", MAP, tmp_path / "new")
    made = translate(store, "half", MAP, tmp_path / "new", overwrite=True)
    assert made.encoders == ("half",)


def drive(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        cli.run(apply.main, ["apply", *map(str, arguments)], values=apply.FLAGS)
    out, err = capsys.readouterr()
    return ended.value.code or 0, out, err


@pytest.fixture
def maps(store, tmp_path):
    """Saved as experiments.pairwise does."""
    directory = tmp_path / "run" / "maps" / "seed42" / "ridge"
    fitted = jaxalign.fit_pairs({name: unit(store[name]) for name in ("arc", "half")}, "ridge", l2=0.1)
    fitted.save(directory, normalize="l2")
    return directory


def of_pair(store):
    """Ridge by numpy on rows of length 1: centred rows of arc, both means, the weights."""
    means = [unit(store[name]).mean(0) for name in ("arc", "half")]
    x, y = (unit(store[name]) - mean for name, mean in zip(("arc", "half"), means))
    weights = np.linalg.solve(x.T @ x + 0.1 * np.eye(WIDTH), x.T @ y)
    return x, y, means, weights


@pytest.mark.parametrize("said", [{}, {"encoder": "arc", "normalize": "none", "side": "source"}])
def test_driver_applies_a_file(store, tmp_path, capsys, said):
    MAP.save(tmp_path / "map.safetensors", {"method": "ridge", "source": "arc", "target": "x", **said})
    flags = [
        f"--store={store.path}",
        f"--map={tmp_path / 'map.safetensors'}",
        "--dtype=float32",
        "--name=moved",
    ]
    flags += [] if said else ["--encoder=arc", "--normalize=none"]
    status, out, err = drive(capsys, *flags, f"--out={tmp_path / 'new'}")
    unsaid = "" if said else "does not say whose rows it takes (encoder) nor where it leads (side)"
    assert status == 0 and (unsaid in err if unsaid else not err)
    assert "53 rows of arc, mapped from width 6 to 4" in out and "as moved in float32" in out
    made = EmbeddingStore.open(tmp_path / "new")
    np.testing.assert_allclose(made["moved"], expected(store["arc"]), rtol=1e-5, atol=1e-5)
    assert made.info["moved"]["map"]["method"] == "ridge"
    assert ("compared" in made.info["moved"]["leads_to"]) == bool(said)


@pytest.mark.parametrize("restored", [True, False])
def test_driver_applies_maps_of_a_pair_wherever_their_directory_is(store, maps, tmp_path, capsys, restored):
    """The index says how rows were scaled, so copied and linked directories give the same rows."""
    shutil.copytree(maps, tmp_path / "copied")
    (tmp_path / "linked").symlink_to(maps)
    x, y, means, weights = of_pair(store)
    mapped = x @ weights
    scale = np.sqrt(y.var(0).sum() / mapped.var(0).sum()) if restored else 1
    for number, directory in enumerate((maps, tmp_path / "copied", tmp_path / "linked")):
        flags = [f"--store={store.path}", f"--maps={directory}", "--source=arc", "--target=half"]
        flags += ["--dtype=float32", f"--out={tmp_path / f'new{number}'}"]
        status, out, err = drive(capsys, *flags, *([] if restored else ["--norestore_variance"]))
        assert (status, err) == (0, "")
        assert "scaled to length 1 first" in out and "half's own coordinates" in out
        made = EmbeddingStore.open(tmp_path / f"new{number}")
        np.testing.assert_allclose(made["arc"], scale * mapped + means[1], atol=1e-5)
        assert made.info["arc"]["leads_to"] == "half's own coordinates"


def test_a_side_and_its_file_give_the_same_rows(store, maps, tmp_path, capsys):
    x, _, _, weights = of_pair(store)
    ways = [[f"--maps={maps}", "--source=arc", "--target=half", "--side=source"]]
    ways += [[f"--map={maps / '00000.source.safetensors'}"]]
    for number, way in enumerate(ways):
        flags = [f"--store={store.path}", *way, "--dtype=float32", f"--out={tmp_path / f'new{number}'}"]
        status, _, err = drive(capsys, *flags)
        assert (status, err) == (0, "")
        made = EmbeddingStore.open(tmp_path / f"new{number}")
        np.testing.assert_allclose(made["arc"], x @ weights, atol=1e-5)
        assert made.info["arc"]["leads_to"] == "the space where arc → half is compared by ridge"


def test_a_fit_saved_with_names_needs_no_flags(store, tmp_path, capsys):
    rows = {name: unit(store[name]) for name in ("arc", "half")}
    fitted = jaxalign.fit_affine(rows["arc"], rows["half"], l2=0.1)
    fitted.save(tmp_path / "map", source="arc", target="half", side="to_target", normalize="l2")
    status, _, err = drive(
        capsys, f"--store={store.path}", f"--map={tmp_path / 'map'}", f"--out={tmp_path / 'new'}"
    )
    assert (status, err) == (0, "")
    made = EmbeddingStore.open(tmp_path / "new")
    np.testing.assert_allclose(np.float32(made["arc"]), fitted(rows["arc"]), atol=2e-3)
    assert made.info["arc"]["leads_to"] == "half's own coordinates"


@pytest.mark.parametrize("side", ["to_target", "source", "target"])
def test_moved_rows_are_nobodys_but_the_targets(store, maps, tmp_path, capsys, side):
    """Rows that were moved, into own coordinates or a compared space, are not taken for those of the name they keep."""
    flags = [f"--maps={maps}", "--source=arc", "--target=half"]
    moved = [f"--side={side}", f"--out={tmp_path / 'moved'}"]
    assert drive(capsys, f"--store={store.path}", *flags, *moved)[0] == 0
    encoder = "half" if side == "target" else "arc"
    AffineMap(MAP.factors[:0], np.ones(store.dims["half"])).save(
        tmp_path / "next", source=encoder, target="x", side="to_target", normalize="none"
    )
    again = [f"--store={tmp_path / 'moved'}", f"--map={tmp_path / 'next'}", f"--out={tmp_path / 'again'}"]
    status, _, err = drive(capsys, *again)
    space = "half" if side == "to_target" else "arc+half"
    assert status == 2 and f"was moved to {space} before, and this map takes rows of {encoder}" in err


MAPPED, FILE = "--store={store} --out=new --maps={maps}", "--store={store} --out=new --map={map}"
PAIR = f"{MAPPED} --source=arc --target=half"


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ("", "--store is missing"),
        ("--store={store}", "--out is missing"),
        ("--store={store} --out=new", "one map is needed"),
        (MAPPED, "give --source and --target"),
        (f"{MAPPED} --source=arc --target=x", "holds no map arc → x"),
        (
            "--store={store} --out=new --maps=nowhere --source=a --target=b",
            "--maps=nowhere holds no maps.json",
        ),
        ("--store={store} --out=new --map=nothing.safetensors --encoder=arc", "nothing.safetensors"),
        ("--store={store} --out=new --map={maps} --encoder=arc", "a directory"),
        (FILE, "--encoder is missing"),
        (f"{FILE} --encoder=arc", "--normalize is missing"),
        (f"{FILE} --encoder=x --normalize=none", "there is no encoder 'x'"),
        (f"{FILE} --encoder=narrow --normalize=none", "takes rows of width 6"),
        (
            "--store=nowhere --out=new --map={map} --encoder=arc --normalize=l2",
            "there is no store at nowhere",
        ),
        ("--store={store} --out={store} --map={map} --encoder=arc --normalize=l2", "holds a store already"),
        (f"{FILE} --encoder=arc --dtype=int8", "--dtype takes"),
        (f"{FILE} --encoder=arc --rank=2", "choose among --maps"),
        (f"{FILE} --encoder=arc --norestore_variance", "choose among --maps"),
        (f"{FILE} --encoder=arc --side=source", "choose among --maps"),
        ("--store={store} --out=new --map={named} --encoder=half", "--encoder=half contradicts"),
        ("--store={store} --out=new --map={named} --normalize=none", "--normalize=none contradicts"),
        (f"{PAIR} --encoder=half", "--encoder=half contradicts"),
        (f"{PAIR} --normalize=none", "--normalize=none contradicts"),
        (f"{PAIR} --side=source --restore_variance", "own coordinates"),
        ("--store={store} --out=new --maps={silent} --source=arc --target=half", "--normalize is missing"),
    ],
)
def test_driver_says_what_is_wrong_in_one_sentence(
    store, maps, tmp_path, capsys, monkeypatch, flags, sentence
):
    monkeypatch.chdir(tmp_path)
    MAP.save(tmp_path / "map.safetensors")
    named = tmp_path / "named.safetensors"
    MAP.save(named, source="arc", target="half", side="to_target", normalize="l2")
    silent = tmp_path / "silent"
    jaxalign.fit_pairs({name: store[name] for name in ("arc", "half")}, "ridge", l2=0.1).save(silent)
    places = {"store": store.path, "maps": maps, "map": tmp_path / "map.safetensors", "silent": silent}
    places["named"] = named
    status, out, err = drive(capsys, *(flag.format(**places) for flag in flags.split()))
    assert (status, out) == (2, "")
    assert err.startswith("error: ") and sentence in err and err.count("\n") == 1
    assert not pathlib.Path("new").exists()
