"""Makes a store from embeddings that you have, or adds an encoder to one.

  python -m experiments.import_embeddings --out=my_store --identities=people.csv \\
      --embeddings=arcface=arcface.npy --embeddings=clip=clip.npz#features

Row i of every array is the same photograph. The person of each row comes from --identities, or from an
encoder's file that says so (.npz, .parquet). Where a file names its samples, its rows are matched by name.

From a list of photographs in one folder per person (lines `person/photo.jpg`), in the order of the rows:

  python -m experiments.import_embeddings --out=my_store --identities=photos.txt \\
      --embeddings=arcface=arcface.npy

One more encoder for a store, its rows in any order, named by --identities or by its own file:

  python -m experiments.import_embeddings --out=my_store --add --embeddings=dino=dino.parquet
"""

import dataclasses
import pathlib

import numpy as np

from experiments.run import cli, flags
from experiments.run.doubts import doubts
from jaxalign.core.errors import UserError
from jaxalign.data import EmbeddingStore
from jaxalign.data.arrays import stored_dtype
from jaxalign.data.manifest import DTYPES
from jaxalign.data.readers import Names, Samples, read_embeddings, read_samples

FLAGS = flags.define(
    out=flags.Flag(None, "Directory of the store to make, or with --add to add to."),
    embeddings=flags.Flag(
        [],
        "An encoder and its file, as name=path: .npy, .npz, .safetensors, .parquet or .feather (a column of lists, "
        "or one for each dimension), .csv, .tsv, .json, .jsonl, .h5, .pt, .mat, .faiss, or a directory saved by "
        "datasets. Where a file holds several arrays, name=path#array; vectors by name of the photograph are one "
        "array. Float16, bfloat16 and float32 stay, float64 becomes float32. Files with pickled objects are refused. "
        "Example: --embeddings=arcface=arcface.npy",
    ),
    identities=flags.Flag(
        None,
        "Who is on each row: .csv or .tsv with a column `identity` and, better, `sample_id` (further columns are "
        "stored too); .txt with lines `person/photo.jpg`; .parquet, .feather, .jsonl or .npz. "
        "Example: --identities=people.csv",
    ),
    identity_column=flags.Flag(
        None,
        "Name of the column with the person. Without it, the first there is of identity, person, subject, label.",
    ),
    sample_column=flags.Flag(
        None,
        "Name of the column with the sample's name. Without it, the first there is of sample_id, path, file, "
        "filename, image.",
    ),
    dataset=flags.Flag(None, "Name of the data set. Without it, the directory's."),
    dtype=flags.Flag(
        "keep",
        "Type to store numbers in; float16 and bfloat16 take half the space.",
        choices=("keep", *DTYPES),
    ),
    add=flags.Flag(False, "Add the encoders to the store that --out holds."),
    overwrite=flags.Flag(False, "Replace the store that --out holds."),
)


@dataclasses.dataclass(frozen=True, eq=False)
class NewEncoder:
    """An encoder as its file has it: embeddings, shape [n, d], and what the file says of their rows."""

    name: str
    path: pathlib.Path
    array: np.ndarray
    samples: Samples

    def in_order_of(self, samples: Samples) -> np.ndarray:
        """The embeddings of these samples, in this order; as they are where this file does not name its rows."""
        ours, theirs = self.samples.sample_ids, samples.sample_ids
        in_order = np.arange(len(self.array))
        if ours is not None and theirs is not None:
            known, rows = ours, self._rows_of(ours, theirs)
        else:
            known, rows = (theirs if samples.identities is None else samples.identities), in_order
        count = 0 if known is None else len(known)
        if len(self.array) != count:
            headless = theirs is None and count == len(self.array) + 1
            hint = " Is its first line a header? Call it identity." if headless else ""
            raise self.mistake(f" has {len(self.array):,} rows, there are {count:,} samples.{hint}")
        people = self.samples.identities
        if people is not None and samples.identities is not None:
            self._require_people(people[rows], samples.identities)
        return self.array if np.array_equal(rows, in_order) else np.asarray(self.array)[rows]

    def _rows_of(self, ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
        """The row of each of their samples among ours."""
        row_of = {sample: row for row, sample in enumerate(ours.tolist())}
        if len(row_of) < len(ours):
            raise self.mistake(f": {len(ours) - len(row_of):,} names come twice.")
        missing = [sample for sample in theirs.tolist() if sample not in row_of]
        if missing:
            first = f"(first: {missing[0]!r}; its own first is {str(ours[0])!r})"
            raise self.mistake(f" lacks {len(missing):,} of {len(theirs):,} samples {first}.")
        return np.array([row_of[sample] for sample in theirs.tolist()])

    def _require_people(self, ours: np.ndarray, theirs: np.ndarray) -> None:
        """Refuses rows that are grouped into other people; a person may be called otherwise."""
        called = dict(zip(theirs.tolist(), ours.tolist()))
        rows = np.array([called[person] for person in theirs.tolist()])
        if len(set(called.values())) < len(called) or (rows != ours).any():
            raise self.mistake(
                " has other people on its rows than the identities say. Are the rows in another order? If its column "
                "is not the person, give --identity_column."
            )

    def converted(self, dtype: str) -> "NewEncoder":
        """The encoder in the type of number asked for."""
        floating = self.array.dtype.kind == "f" or self.array.dtype.name == "bfloat16"
        if dtype == "keep" or not floating or self.array.dtype.name == dtype:
            return self
        with np.errstate(over="ignore"):
            array = self.array.astype(stored_dtype(dtype))
        if (np.isinf(array) & np.isfinite(self.array)).any():
            raise self.mistake(f": some values are beyond what {dtype} holds; use --dtype=keep.")
        return dataclasses.replace(self, array=array)

    def mistake(self, what: str) -> UserError:
        """A sentence on this encoder's file."""
        return UserError(f"encoder {self.name!r}: {self.path}{what}")


def read_encoders(texts: list[str], names: Names) -> list[NewEncoder]:
    """Reads every file of --embeddings: ``name=path`` or ``name=path#array``; ``path`` alone is its own name."""
    if not texts:
        raise UserError("--embeddings is missing: give at least one encoder as --embeddings=name=path.")
    encoders: dict[str, NewEncoder] = {}
    for text in texts:
        name, equals, place = text.partition("=")
        place = place if equals else text
        file, hash_sign, key = place.rpartition("#")
        if not hash_sign or pathlib.Path(place).expanduser().exists():
            file, key = place, ""
        path = pathlib.Path(file)
        name = name if equals else path.stem
        if name in encoders:
            raise UserError(f"--embeddings names the encoder {name!r} twice.")
        encoders[name] = NewEncoder(name, path, *read_embeddings(path, key or None, names))
    return list(encoders.values())


def make(out: pathlib.Path, encoders: list[NewEncoder], samples: Samples | None) -> EmbeddingStore:
    """Makes a store; samples come from --identities, else from the first file that names people."""
    found = [encoder.samples for encoder in encoders if encoder.samples.identities is not None]
    origin = samples or (found[0] if found else Samples())
    people = origin.identities
    if people is None:
        raise UserError(
            "who is on each row is not known: give --identities=people.csv with a column 'identity'."
        )
    if origin.sample_ids is None:
        origin = dataclasses.replace(origin, sample_ids=_common_names(encoders))
    return EmbeddingStore.create(
        out,
        {encoder.name: encoder.in_order_of(origin) for encoder in encoders},
        people,
        sample_ids=origin.sample_ids,
        columns={name: values for name, values in origin.columns.items() if len(values) == len(people)},
        dataset=FLAGS.dataset,
        overwrite=FLAGS.overwrite,
    )


def add(out: pathlib.Path, encoders: list[NewEncoder], samples: Samples | None) -> EmbeddingStore:
    """Adds encoders to a store, rows matched by sample name where it is known."""
    store = EmbeddingStore.open(out)
    there = Samples(store.identities, store.sample_ids)
    for index, encoder in enumerate(encoders):
        if samples is not None and encoder.samples.sample_ids is None:
            own = dataclasses.replace(samples, dimensions=encoder.samples.dimensions)
            encoders[index] = dataclasses.replace(encoder, samples=own)
    return store.add_encoders({encoder.name: encoder.in_order_of(there) for encoder in encoders})


def _common_names(encoders: list[NewEncoder]) -> np.ndarray | None:
    """The samples' names that the encoders' files agree on; None where no file has names."""
    named = [encoder for encoder in encoders if encoder.samples.sample_ids is not None]
    for encoder in named[1:]:
        if not np.array_equal(encoder.samples.sample_ids, named[0].samples.sample_ids):  # pyright: ignore
            raise UserError(
                f"{named[0].path} and {encoder.path} name their samples in different orders, so the "
                "identities need names too: give --identities a column 'sample_id'."
            )
    return named[0].samples.sample_ids if named else None


def main(_: list[str]) -> None:
    """Reads the files, makes the store or adds to it, and says what it holds."""
    out = pathlib.Path(flags.required(FLAGS, "out")).expanduser()
    names = Names(FLAGS.identity_column, FLAGS.sample_column)
    if FLAGS.add and (FLAGS.overwrite or FLAGS.dataset):
        raise UserError("--add only adds encoders to the store; leave --overwrite and --dataset out.")
    samples = read_samples(pathlib.Path(FLAGS.identities), names) if FLAGS.identities else None
    encoders = [encoder.converted(FLAGS.dtype) for encoder in read_encoders(FLAGS.embeddings, names)]
    store = add(out, encoders, samples) if FLAGS.add else make(out, encoders, samples)
    people = len(np.unique(store.identities))
    print(f"{store.path}: data set {store.dataset}, {store.rows:,} samples of {people:,} people")
    nonfinite = store.nonfinite_rows()
    for name in store.encoders:
        bad = f", {len(nonfinite[name]):,} rows with NaN or infinity" if name in nonfinite else ""
        print(f"  {name}: [{store.rows}, {store.dims[name]}] {store[name].dtype}{bad}")
    for name in sorted({"nan", "none", "null", "na"} & {name.lower() for name in store.identities.tolist()}):
        print(f"note: a person is called {name!r}; is the identity missing on those rows?")
    if people == store.rows:
        print("note: nobody has two samples, so recognition cannot be measured; is the identity right?")
    read = lambda rows: {name: np.asarray(store[name])[rows] for name in store.encoders}  # noqa: E731
    for warning in doubts(read, np.asarray(store.identities), None):
        print(f"warning: {warning}")
    for encoder in encoders:
        if taken := encoder.samples.dimensions:
            print(f"note: {encoder.path}: took {len(taken):,} columns {taken[0]} … {taken[-1]}")
        if len(encoder.array) > store.rows:
            extra = len(encoder.array) - store.rows
            print(f"note: {extra:,} rows of {encoder.path} are of no sample of the store and were left out.")


if __name__ == "__main__":
    cli.run(main, values=FLAGS)
