"""A damaged store is one sentence that names the file, whatever is wrong with it; never a wrong number."""

import json
import pickle

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from jaxalign.core.errors import UserError
from jaxalign.data import EmbeddingStore

ROWS = 9
GOOD = np.arange(ROWS * 4, dtype=np.float32).reshape(ROWS, 4)


@pytest.fixture
def store(tmp_path):
    embeddings = {"arcface": GOOD, "clip": GOOD[:, :3].astype(np.float16)}
    return EmbeddingStore.create(tmp_path / "toy", embeddings, list("aabbccdde")).path


class Evil:
    """Unpickling this would leave a file behind."""

    def __reduce__(self):
        return (open, ("unpickled", "w"))


def edit_manifest(path, change):
    manifest = json.loads((path / "manifest.json").read_text())
    change(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))


def set_field(*keys_and_value):
    *keys, last, value = keys_and_value

    def change(manifest):
        for key in keys:
            manifest = manifest[key]
        manifest[last] = value

    return lambda path: edit_manifest(path, change)


def drop_field(*keys):
    def change(manifest):
        for key in keys[:-1]:
            manifest = manifest[key]
        del manifest[keys[-1]]

    return lambda path: edit_manifest(path, change)


def rename_encoder(name):
    def change(manifest):
        manifest["encoders"] = {name: manifest["encoders"]["arcface"]}

    return lambda path: edit_manifest(path, change)


def save(array, **options):
    return lambda path: np.save(path / "arcface.npy", array, **options)


def cut(name, size):
    return lambda path: (path / name).write_bytes((path / name).read_bytes()[:size])


def flip(name, position):
    def damage(path):
        content = bytearray((path / name).read_bytes())
        content[position] ^= 1
        (path / name).write_bytes(content)

    return damage


def samples(**changed):
    """Replaces samples.parquet by one with other columns; None leaves a column out."""

    def damage(path):
        columns = {"sample_id": [str(row) for row in range(ROWS)], "identity": list("aabbccdde")} | changed
        table = pyarrow.table({name: values for name, values in columns.items() if values is not None})
        pyarrow.parquet.write_table(table, path / "samples.parquet")

    return damage


NPY = "Embed again or restore arcface.npy."
DAMAGES = {
    # manifest.json
    "no manifest": (
        lambda path: (path / "manifest.json").unlink(),
        "toy is not a store: {path}/manifest.json is missing.",
    ),
    "empty manifest": (cut("manifest.json", 0), "{path}/manifest.json is damaged: it is not JSON"),
    "half a manifest": (cut("manifest.json", 100), "{path}/manifest.json is damaged: it is not JSON"),
    "deep manifest": (
        lambda path: (path / "manifest.json").write_text("[" * 100000),
        "{path}/manifest.json is damaged: it is not JSON",
    ),
    "binary manifest": (
        lambda path: (path / "manifest.json").write_bytes(b"\xff\xfe\x00"),
        "{path}/manifest.json is damaged: it is not JSON",
    ),
    "another JSON": (
        lambda path: (path / "manifest.json").write_text("[1]"),
        "manifest.json is not the manifest of a",
    ),
    "format": (set_field("format", "zarr"), "{path}/manifest.json is not the manifest of a store"),
    "version": (set_field("version", 2), "{path}/manifest.json has version 2; this program reads version 1."),
    "no version": (drop_field("version"), "{path}/manifest.json has version None"),
    "dataset": (
        set_field("dataset", 5),
        '{path}/manifest.json is damaged: "dataset" must be a name, it is 5.',
    ),
    "rows": (set_field("rows", "9"), "\"rows\" must be a whole number of 1 or more, it is '9'."),
    "no rows": (set_field("rows", 0), '"rows" must be a whole number of 1 or more, it is 0.'),
    "true rows": (set_field("rows", True), '"rows" must be a whole number of 1 or more, it is True.'),
    "no encoders": (set_field("encoders", {}), '"encoders" must name at least one encoder.'),
    "list of encoders": (set_field("encoders", ["arcface"]), '"encoders" must name at least one encoder.'),
    "entry": (
        set_field("encoders", "arcface", None),
        "\"dim\" of encoder 'arcface' must be 1 or more, it is None.",
    ),
    "dim": (
        set_field("encoders", "arcface", "dim", -4),
        "\"dim\" of encoder 'arcface' must be 1 or more, it is -4.",
    ),
    "dtype": (
        set_field("encoders", "arcface", "dtype", "object"),
        "\"dtype\" of encoder 'arcface' must be one of float16,",
    ),
    "no checksum": (
        drop_field("encoders", "arcface", "sha256"),
        "\"sha256\" of encoder 'arcface' must be 64 hexa",
    ),
    "odd samples": (
        set_field("samples", {"sha256": 5}),
        '"sha256" of "samples" must be 64 hexadecimal digits.',
    ),
    "upwards": (
        rename_encoder("../../arcface"),
        "manifest.json is damaged: an encoder cannot be called '../../arcface'",
    ),
    "absolute": (rename_encoder("/etc/passwd"), "an encoder cannot be called '/etc/passwd'"),
    "backslash": (rename_encoder("..\\arcface"), "an encoder cannot be called '..\\\\arcface'"),
    "zero byte": (rename_encoder("arc\0face"), "an encoder cannot be called 'arc\\x00face'"),
    "empty name": (rename_encoder(""), "an encoder cannot be called ''"),
    # The arrays
    "no array": (
        lambda path: (path / "arcface.npy").unlink(),
        "store 'toy': encoder 'arcface' is in manifest.json, but {path}/arcface.npy is missing.",
    ),
    "array is a directory": (
        lambda path: ((path / "arcface.npy").unlink(), (path / "arcface.npy").mkdir()),
        "store 'toy': {path}/arcface.npy cannot be read: Is a directory.",
    ),
    "empty array": (
        cut("arcface.npy", 0),
        "{path}/arcface.npy is not a .npy file or its beginning is damaged",
    ),
    "half a header": (
        cut("arcface.npy", 60),
        "{path}/arcface.npy is not a .npy file or its beginning is damaged",
    ),
    "header alone": (cut("arcface.npy", 128), "is cut short: 9 rows of 4 take 272 bytes, it has 128"),
    "one byte less": (
        cut("arcface.npy", -1),
        "store 'toy': encoder 'arcface': {path}/arcface.npy is cut short: 9 rows of 4 take 272 bytes, it has 271; its "
        "checksum in manifest.json does not match either. " + NPY,
    ),
    "one byte more": (
        lambda path: (path / "arcface.npy").write_bytes((path / "arcface.npy").read_bytes() + b"\0"),
        "{path}/arcface.npy is too long: 9 rows of 4 take 272 bytes, it has 273",
    ),
    "fewer rows": (
        save(GOOD[:-2]),
        "{path}/arcface.npy has 7 rows, samples.parquet has 9; its checksum in manifest.json does not match either.",
    ),
    "wider": (save(np.zeros((ROWS, 5), np.float32)), "{path}/arcface.npy has shape [9, 5], expected [9, 4]"),
    "one axis": (save(GOOD.reshape(-1)), "{path}/arcface.npy has shape [36], expected [9, 4]"),
    "half precision": (
        save(GOOD.astype(np.float16)),
        "{path}/arcface.npy holds float16, manifest.json says float32",
    ),
    "integers": (save(GOOD.astype(np.int32)), "{path}/arcface.npy holds int32, manifest.json says float32"),
    "big-endian": (
        save(GOOD.astype(">f4")),
        "{path}/arcface.npy holds byte-swapped float32, manifest.json says",
    ),
    "Fortran": (save(np.asfortranarray(GOOD)), "{path}/arcface.npy is in Fortran order, expected C order"),
    "objects": (
        save(np.full((ROWS, 4), Evil(), object), allow_pickle=True),
        "{path}/arcface.npy holds pickled Python objects, which are never read",
    ),
    "bare pickle": (
        lambda path: (path / "arcface.npy").write_bytes(pickle.dumps(Evil())),
        "{path}/arcface.npy is not a .npy file or its beginning is damaged",
    ),
    "one bit": (
        flip("arcface.npy", 200),
        "store 'toy': encoder 'arcface': {path}/arcface.npy was altered: its checksum is not the one in manifest.json. "
        + NPY,
    ),
    "other numbers": (
        save(GOOD + 1),
        "{path}/arcface.npy was altered: its checksum is not the one in manifest.json.",
    ),
    # samples.parquet
    "no samples": (
        lambda path: (path / "samples.parquet").unlink(),
        "store 'toy': {path}/samples.parquet is missing.",
    ),
    "half the samples": (
        cut("samples.parquet", 200),
        "store 'toy': {path}/samples.parquet is damaged: it cannot be read as Parquet",
    ),
    "empty samples": (
        cut("samples.parquet", 0),
        "{path}/samples.parquet is damaged: it cannot be read as Parquet",
    ),
    "no identity": (
        samples(identity=None),
        "{path}/samples.parquet lacks the column 'identity'; it has sample_id.",
    ),
    "no sample_id": (
        samples(sample_id=None),
        "{path}/samples.parquet lacks the column 'sample_id'; it has identity.",
    ),
    "numbers": (
        samples(identity=list(range(ROWS))),
        "samples.parquet: column 'identity' must be text, it is int64.",
    ),
    "gaps": (
        samples(identity=["a", None, "", *"bccdde"]),
        "{path}/samples.parquet: identity is missing in 2 rows of 9 (first: row 1).",
    ),
    "twice": (
        samples(sample_id=list("abcdefgha")),
        "{path}/samples.parquet: 1 sample id on more than one row (first: 'a').",
    ),
    "fewer samples": (
        samples(sample_id=list("abc"), identity=list("abc")),
        "store 'toy': {path}/samples.parquet has 3 rows, manifest.json says 9. Restore the file.",
    ),
    "other people": (
        samples(identity=list("bbaaccdde")),
        "store 'toy': {path}/samples.parquet was altered: its checksum is not the one in manifest.json.",
    ),
}
ONLY_BY_CHECKSUM = {"one bit", "other numbers", "other people"}


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_one_sentence_that_names_the_file(store, tmp_path, monkeypatch, damage, verify):
    monkeypatch.chdir(tmp_path)
    spoil, sentence = DAMAGES[damage]
    spoil(store)
    if damage in ONLY_BY_CHECKSUM and not verify:
        assert EmbeddingStore.open(store, verify=False).rows == ROWS
        return
    with pytest.raises(UserError) as refused:
        EmbeddingStore.open(store, verify=verify)
    assert sentence.format(path=store) in str(refused.value)
    assert "\n" not in str(refused.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["toy"]  # nothing was unpickled


def test_rows_of_manifest_and_samples_may_agree_and_the_array_not(store):
    # The checksum of the array is right, so it is the others that were replaced.
    set_field("rows", 3)(store)
    samples(sample_id=list("abc"), identity=list("abc"))(store)
    drop_field("samples")(store)
    with pytest.raises(
        UserError, match=r"arcface.npy has 9 rows, samples.parquet has 3; its .* does match\."
    ):
        EmbeddingStore.open(store)


def test_a_store_without_a_checksum_of_its_samples_opens(store):
    drop_field("samples")(store)
    assert EmbeddingStore.open(store).identities.tolist() == list("aabbccdde")


def test_unknown_fields_and_columns_are_kept_out_of_the_way(store):
    set_field("made_by", "another program")(store)
    set_field("encoders", "arcface", "layer", 12)(store)
    drop_field("samples")(store)
    dictionary = pyarrow.array(list("aabbccdde")).dictionary_encode()
    samples(identity=dictionary, pose=list(range(ROWS)))(store)
    opened = EmbeddingStore.open(store)
    assert opened.info["arcface"] == {"layer": 12}
    assert opened.identities.tolist() == list("aabbccdde")
    assert opened.column("pose").tolist() == list(range(ROWS))


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda path: path / "nowhere", "there is no store at {path}/nowhere."),
        (
            lambda path: path / "manifest.json",
            "{path}/manifest.json is a file; a store is a directory that holds",
        ),
        (lambda path: path.parent, "is not a store: {parent}/manifest.json is missing."),
    ],
)
def test_what_is_no_store(store, spoil, sentence):
    with pytest.raises(UserError) as refused:
        EmbeddingStore.open(spoil(store))
    assert sentence.format(path=store, parent=store.parent) in str(refused.value)


def test_damage_of_an_encoder_that_is_not_opened_does_not_matter(store):
    cut("arcface.npy", 10)(store)
    np.testing.assert_array_equal(EmbeddingStore.open(store, encoders=["clip"])["clip"], GOOD[:, :3])
