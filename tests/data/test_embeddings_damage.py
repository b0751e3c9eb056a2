"""A damaged store is one sentence that names the file, whatever is wrong with it; never a wrong number."""

import functools
import json
import operator
import pickle

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from jaxalign.core.errors import UserError
from jaxalign.data import EmbeddingStore
from jaxalign.data.manifest import Manifest

ROWS = 9
GOOD = np.arange(ROWS * 4, dtype=np.float32).reshape(ROWS, 4)
PEOPLE, ABC = list("aabbccdde"), list("abc")


@pytest.fixture
def store(tmp_path):
    embeddings = {"arcface": GOOD, "clip": GOOD[:, :3].astype(np.float16)}
    return EmbeddingStore.create(tmp_path / "toy", embeddings, PEOPLE).path


class Evil:
    """Unpickling this would leave a file behind."""

    def __reduce__(self):
        return (open, ("unpickled", "w"))


OBJECTS = np.full((ROWS, 4), Evil(), object)


def edit_manifest(change):
    """Changes the manifest's content in place, and writes it without a checksum, as one does who means it."""

    def damage(path):
        manifest = json.loads((path / "manifest.json").read_text())
        change(manifest)
        manifest.pop("checksum", None)
        (path / "manifest.json").write_text(json.dumps(manifest))

    return damage


def inside(manifest, keys):
    return functools.reduce(operator.getitem, keys, manifest)


def set_field(*keys_and_value):
    *keys, last, value = keys_and_value
    return edit_manifest(lambda manifest: inside(manifest, keys).update({last: value}))  # pyright: ignore[reportAttributeAccessIssue]


def drop_field(*keys):
    return edit_manifest(lambda manifest: inside(manifest, keys[:-1]).pop(keys[-1]))  # pyright: ignore[reportAttributeAccessIssue]


def rename_encoder(name):
    return edit_manifest(lambda manifest: manifest.update(encoders={name: manifest["encoders"]["arcface"]}))


def save(array, **options):
    return lambda path: np.save(path / "arcface.npy", array, **options)


def unlink(name):
    return lambda path: (path / name).unlink()


def overwrite(name, content):
    return lambda path: (path / name).write_bytes(content)


def cut(name, size):
    return lambda path: (path / name).write_bytes((path / name).read_bytes()[:size])


def lengthen(path):
    (path / "arcface.npy").write_bytes((path / "arcface.npy").read_bytes() + b"\0")


def make_directory(path):
    (path / "arcface.npy").unlink()
    (path / "arcface.npy").mkdir()


def flip(name, position):
    def damage(path):
        content = bytearray((path / name).read_bytes())
        content[position] ^= 1
        (path / name).write_bytes(content)

    return damage


def samples(**changed):
    """Replaces samples.parquet by one with other columns; None leaves a column out."""

    def damage(path):
        columns = {"sample_id": [str(row) for row in range(ROWS)], "identity": PEOPLE} | changed
        table = pyarrow.table({name: values for name, values in columns.items() if values is not None})
        pyarrow.parquet.write_table(table, path / "samples.parquet")

    return damage


ENTRY = ("encoders", "arcface")
DAMAGES = {
    "manifest.json": {
        "missing": (unlink("manifest.json"), "toy is not a store: {file} is missing."),
        "empty": (cut("manifest.json", 0), "{file} is damaged: it is not JSON"),
        "half": (cut("manifest.json", 100), "{file} is damaged: it is not JSON"),
        "deep": (overwrite("manifest.json", b"[" * 100000), "{file} is damaged: it is not JSON"),
        "binary": (
            overwrite("manifest.json", b"\xff\xfe\x00"),
            "{file} is not the manifest of a store in UTF-8",
        ),
        "another JSON": (overwrite("manifest.json", b"[1]"), "is not the manifest of a store"),
        "format": (set_field("format", "zarr"), "{file} is not the manifest of a store"),
        "version": (set_field("version", 2), "{file} has version 2; this program reads version 1."),
        "no version": (drop_field("version"), "{file} has version None"),
        "dataset": (set_field("dataset", 5), '{file} is damaged: "dataset" must be a name, it is 5.'),
        "rows": (set_field("rows", "9"), "\"rows\" must be a whole number of 1 or more, it is '9'."),
        "no rows": (set_field("rows", 0), '"rows" must be a whole number of 1 or more, it is 0.'),
        "true rows": (set_field("rows", True), '"rows" must be a whole number of 1 or more, it is True.'),
        "no encoders": (set_field("encoders", {}), '"encoders" must name at least one encoder.'),
        "list of encoders": (
            set_field("encoders", ["arcface"]),
            '"encoders" must name at least one encoder.',
        ),
        "entry": (set_field(*ENTRY, None), "\"dim\" of encoder 'arcface' must be 1 or more, it is None."),
        "dim": (set_field(*ENTRY, "dim", -4), "\"dim\" of encoder 'arcface' must be 1 or more, it is -4."),
        "dtype": (
            set_field(*ENTRY, "dtype", "object"),
            "\"dtype\" of encoder 'arcface' must be one of float16,",
        ),
        "no checksum": (drop_field(*ENTRY, "sha256"), "\"sha256\" of encoder 'arcface' must be 64 hexa"),
        "odd samples": (set_field("samples", {"sha256": 5}), '"sha256" of "samples" must be 64 hexadecimal'),
        "upwards": (rename_encoder("../../arcface"), "an encoder cannot be called '../../arcface'"),
        "absolute": (rename_encoder("/etc/passwd"), "an encoder cannot be called '/etc/passwd'"),
        "backslash": (rename_encoder("..\\arcface"), "an encoder cannot be called '..\\\\arcface'"),
        "zero byte": (rename_encoder("arc\0face"), "an encoder cannot be called 'arc\\x00face'"),
        "empty name": (rename_encoder(""), "an encoder cannot be called ''"),
    },
    "arcface.npy": {
        "missing": (unlink("arcface.npy"), "encoder 'arcface' is in manifest.json, but {file} is missing."),
        "a directory": (make_directory, "{file} is not a file but a directory"),
        "empty": (cut("arcface.npy", 0), "is not a .npy file or its beginning is damaged"),
        "half a header": (cut("arcface.npy", 60), "is not a .npy file or its beginning is damaged"),
        "header alone": (cut("arcface.npy", 128), "is cut short: 9 rows of 4 take 272 bytes, it has 128"),
        "one byte less": (
            cut("arcface.npy", -1),
            "store 'toy': encoder 'arcface': {file} is cut short: 9 rows of 4 take 272 bytes, it has 271; its "
            "checksum in manifest.json does not match either. Embed again or restore arcface.npy.",
        ),
        "one byte more": (lengthen, "is too long: 9 rows of 4 take 272 bytes, it has 273"),
        "fewer rows": (save(GOOD[:-2]), "{file} has 7 rows, samples.parquet has 9; its checksum in"),
        "wider": (save(np.zeros((ROWS, 5), np.float32)), "{file} has shape [9, 5], expected [9, 4]"),
        "one axis": (save(GOOD.reshape(-1)), "{file} has shape [36], expected [9, 4]"),
        "half precision": (save(GOOD.astype(np.float16)), "holds float16, manifest.json says float32"),
        "integers": (save(GOOD.astype(np.int32)), "holds int32, manifest.json says float32"),
        "big-endian": (save(GOOD.astype(">f4")), "holds byte-swapped float32, manifest.json says"),
        "Fortran": (save(np.asfortranarray(GOOD)), "is in Fortran order, expected C order"),
        "objects": (save(OBJECTS, allow_pickle=True), "holds pickled Python objects, which are never read"),
        "bare pickle": (
            overwrite("arcface.npy", pickle.dumps(Evil())),
            "is not a .npy file or its beginning",
        ),
        "one bit": (flip("arcface.npy", 200), "was altered: its checksum is not the one in manifest.json."),
        "other numbers": (save(GOOD + 1), "was altered: its checksum is not the one in manifest.json."),
    },
    "samples.parquet": {
        "missing": (unlink("samples.parquet"), "store 'toy': {file} is missing."),
        "half": (cut("samples.parquet", 200), "{file} is damaged: it cannot be read as Parquet"),
        "empty": (cut("samples.parquet", 0), "{file} is damaged: it cannot be read as Parquet"),
        "no identity": (samples(identity=None), "lacks the column 'identity'; it has sample_id."),
        "no sample_id": (samples(sample_id=None), "lacks the column 'sample_id'; it has identity."),
        "numbers": (samples(identity=list(range(ROWS))), "column 'identity' must be text, it is int64."),
        "gaps": (samples(identity=["a", None, "", *"bccdde"]), "missing in 2 rows of 9 (first: row 1)."),
        "twice": (samples(sample_id=list("abcdefgha")), "1 sample id on more than one row (first: 'a')."),
        "fewer": (samples(sample_id=ABC, identity=ABC), "{file} has 3 rows, manifest.json says 9. Restore"),
        "other people": (samples(identity=list("bbaaccdde")), "was altered: its checksum is not the one in"),
    },
}
CASES = [(file, damage) for file, damages in DAMAGES.items() for damage in damages]
ONLY_BY_CHECKSUM = {"one bit", "other numbers", "other people"}


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize(("file", "damage"), CASES)
def test_damage_is_one_sentence_that_names_the_file(store, tmp_path, monkeypatch, file, damage, verify):
    monkeypatch.chdir(tmp_path)
    spoil, sentence = DAMAGES[file][damage]
    spoil(store)
    if damage in ONLY_BY_CHECKSUM and not verify:
        assert EmbeddingStore.open(store, verify=False).rows == ROWS
        return
    with pytest.raises(UserError) as refused:
        EmbeddingStore.open(store, verify=verify)
    assert str(store / file) in str(refused.value) and "\n" not in str(refused.value)
    assert sentence.format(file=store / file) in str(refused.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["toy"]  # nothing was unpickled


def test_rows_of_manifest_and_samples_may_agree_and_the_array_not(store):
    # The checksum of the array is right, so it is the others that were replaced.
    set_field("rows", 3)(store)
    samples(sample_id=ABC, identity=ABC)(store)
    drop_field("samples")(store)
    with pytest.raises(UserError, match=r"npy has 9 rows, samples.parquet has 3; its .* does match\."):
        EmbeddingStore.open(store)


def test_a_manifest_that_differs_in_one_bit_is_refused(store):
    """Wherever the bit is: fields that nothing else checks, such as the data set's name, have the checksum."""
    path = store / "manifest.json"
    content, before = path.read_bytes(), Manifest.read(store)
    for place in np.random.default_rng(0).choice(len(content), 100, replace=False):
        flip("manifest.json", place)(store)
        try:
            assert (
                Manifest.read(store) == before
            )  # where blanks between fields or the name of the checksum differ
        except UserError as error:
            assert "\n" not in str(error)
        path.write_bytes(content)
    path.write_text(json.dumps(json.loads(content), sort_keys=True))  # laid out otherwise
    assert Manifest.read(store) == before
    path.write_bytes(content.replace(b'"toy"', b'"tou"'))
    with pytest.raises(
        UserError, match='not as it was written: its checksum differs.* delete its field "checksum"'
    ):
        EmbeddingStore.open(store, verify=False)


def test_a_store_without_a_checksum_of_its_samples_opens(store):
    drop_field("samples")(store)
    assert EmbeddingStore.open(store).identities.tolist() == PEOPLE


def test_unknown_fields_and_columns_are_kept_out_of_the_way(store):
    set_field("made_by", "another program")(store)
    set_field("encoders", "arcface", "layer", 12)(store)
    drop_field("samples")(store)
    dictionary = pyarrow.array(PEOPLE).dictionary_encode()
    samples(identity=dictionary, pose=list(range(ROWS)))(store)
    opened = EmbeddingStore.open(store)
    assert opened.info["arcface"] == {"layer": 12}
    assert opened.identities.tolist() == PEOPLE
    assert opened.column("pose").tolist() == list(range(ROWS))


def test_what_is_no_store(store):
    for place, sentence in (
        (store / "nowhere", f"there is no store at {store}/nowhere."),
        (store / "manifest.json", f"{store}/manifest.json is a file; a store is a directory that holds"),
        (store.parent, f"is not a store: {store.parent}/manifest.json is missing."),
    ):
        with pytest.raises(UserError) as refused:
            EmbeddingStore.open(place)
        assert sentence in str(refused.value)


def test_damage_of_an_encoder_that_is_not_opened_does_not_matter(store):
    cut("arcface.npy", 10)(store)
    np.testing.assert_array_equal(EmbeddingStore.open(store, encoders=["clip"])["clip"], GOOD[:, :3])
