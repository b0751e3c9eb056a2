"""EmbeddingStore: one data set under many encoders."""

import copy
import dataclasses
import functools
import os
import pathlib
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from jaxalign.core.errors import UserError
from jaxalign.core.rows import LazyRows
from jaxalign.data import arrays, samples
from jaxalign.data.atomic import UNFINISHED, locked, new_directory, remove_left, write_atomically, writing
from jaxalign.data.manifest import FILE as MANIFEST
from jaxalign.data.manifest import EncoderEntry, Manifest, check_info, check_new_names

if TYPE_CHECKING:
    import pyarrow


class EmbeddingStore:
    """A directory with the embeddings of the same samples under several encoders.

    ::

      <store>/manifest.json      format, data set, rows; width, type and checksum of every encoder
      <store>/samples.parquet    sample_id, identity, and any other columns
      <store>/<encoder>.npy      [n, d] float16, bfloat16 or float32, rows as in samples.parquet

    The arrays are memory-mapped: opening a store reads none of them into memory (checksums are taken in passing), and
    ``store[name]`` costs nothing until its rows are used. NaN and infinity may be stored, see ``nonfinite_rows``.
    Make one with ``create`` or ``python -m experiments.import_embeddings``, open it with ``open``.

    Attributes:
      path: of the directory.
      dataset: name of the data set.
      rows: number of samples n.
      encoders: names of the opened encoders, in the order asked for, or in the manifest's.
      dims: width of each opened encoder.
      checksums: sha256 of each opened encoder's file.
      info: what else the manifest notes of each opened encoder.
      sample_ids: name of each row, text, shape [n].
      identities: person of each row, text, shape [n].
      table: samples.parquet as a pyarrow table.
    """

    def __init__(
        self, path: pathlib.Path, manifest: Manifest, table: "pyarrow.Table", mapped: Mapping[str, np.memmap]
    ):
        self.path = path
        self.dataset = manifest.dataset
        self.rows = manifest.rows
        self.encoders = tuple(mapped)
        self.dims = {name: manifest.encoders[name].dim for name in mapped}
        self.checksums = {name: manifest.encoders[name].sha256 for name in mapped}
        self.info = types.MappingProxyType({name: manifest.encoders[name].info for name in mapped})
        self.sample_ids = samples.names(table, "sample_id")
        self.identities = samples.names(table, "identity")
        self.table = table
        self._mapped = dict(mapped)

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], *, encoders: Sequence[str] | None = None, verify: bool = True
    ) -> "EmbeddingStore":
        """Opens a store and checks it.

        Args:
          path: of the directory.
          encoders: names of those to open, in this order; None for all.
          verify: compare checksums, which reads every opened file once. Shapes, types and counts are always compared.
            Without it altered numbers or people are not noticed: for names and notes alone, or for files that this
            process has written or compared just before.

        Raises:
          UserError: a file is missing, cut short or altered, or there is no such encoder.
        """
        path = pathlib.Path(path).expanduser()
        manifest = Manifest.read(path)
        store = f"store {manifest.dataset!r}"
        names = _chosen(encoders, manifest, store)
        table = samples.read_table(path, manifest.rows, store)
        expected = manifest.samples_sha256
        if verify and expected and arrays.sha256(path / samples.FILE) != expected:
            raise UserError(
                f"{store}: {path / samples.FILE} was altered: its checksum is not the one in {MANIFEST}. "
                "Restore the file, or make the store again from it if the change was meant."
            )
        mapped = {
            name: arrays.open_array(path, name, manifest.encoders[name], manifest.rows, store, verify)
            for name in names
        }
        return cls(path, manifest, table, mapped)

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        embeddings: Mapping[str, ArrayLike],
        identities: ArrayLike | Sequence[str],
        *,
        sample_ids: ArrayLike | Sequence[str] | None = None,
        dataset: str | None = None,
        columns: Mapping[str, Any] | None = None,
        overwrite: bool = False,
        encoder_info: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> "EmbeddingStore":
        """Writes and opens a new store; it is there whole or not at all.

        Args:
          path: of the directory to make.
          embeddings: an array [n, d] per encoder, float16, bfloat16, float32 or float64 (stored as float32).
          identities: person of each row, text or whole numbers, shape [n].
          sample_ids: name of each row, none twice; without it, row numbers.
          dataset: name of the data set; without it, the directory's.
          columns: other columns of samples.parquet, such as template, capture, path, split, each of n values.
          overwrite: replace a store that is there.
          encoder_info: what to note of an encoder in the manifest, such as its weights.

        Raises:
          UserError: the arrays do not fit each other, something is there already, or the disk refuses.
        """
        path = pathlib.Path(path).expanduser()
        check = functools.partial(require_free, path, overwrite)
        check()
        people = samples.text_column(identities, "identity")
        if not embeddings:
            raise UserError("a store needs the embeddings of at least one encoder, got none.")
        check_new_names(embeddings)
        for name in encoder_info or {}:
            if name not in embeddings:
                raise UserError(f"encoder_info names {name!r}; there are {', '.join(embeddings)}.")
        given = _storable(embeddings, len(people), encoder_info or {})
        names = _numbered(len(people)) if sample_ids is None else samples.text_column(sample_ids, "sample_id")
        samples.require_unique(names, "sample_ids")
        table = samples.make_table(names, people, columns or {})
        dataset = dataset or os.path.basename(os.path.realpath(path))
        with writing(path), new_directory(path, check=check, overwrite=overwrite) as directory:
            entries = {name: _write_encoder(directory, name, *given[name]) for name in given}
            finish_store(directory, dataset, table, entries)
        return cls.open(path, verify=False)

    def add_encoder(self, name: str, array: ArrayLike, **info: Any) -> "EmbeddingStore":
        """Adds an encoder to the store on disk; until its file is whole, nothing points to it.

        Args:
          name: of the new encoder.
          array: its embeddings, shape [n, d], rows as in ``sample_ids``.
          **info: what to note of it in the manifest.

        Returns:
          The store with the new encoder open as well as those open here.

        Raises:
          UserError: there is such an encoder already, the array does not fit, or the disk refuses.
        """
        return self.add_encoders({name: array}, {name: info})

    def add_encoders(
        self,
        embeddings: Mapping[str, ArrayLike],
        encoder_info: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> "EmbeddingStore":
        """Adds several encoders at once, all or none; see ``add_encoder`` and ``create``."""
        given = _storable(embeddings, self.rows, encoder_info or {})
        with writing(self.path), locked(self.path) as alone:
            if alone:
                remove_left(self.path)
            manifest = Manifest.read(self.path)
            check_new_names(given, manifest.encoders)
            if manifest.rows != self.rows or manifest.dataset != self.dataset:
                raise UserError(f"store {self.dataset!r} at {self.path} was replaced since it was opened.")
            entries = dict(manifest.encoders)
            try:
                for name in given:
                    entries[name] = _write_encoder(self.path, name, *given[name])
                dataclasses.replace(manifest, encoders=entries).write(self.path)
            except BaseException:
                for name in given.keys() - Manifest.read(self.path).encoders.keys():
                    (self.path / f"{name}.npy").unlink(missing_ok=True)
                raise
        return self.open(self.path, encoders=(*self.encoders, *given), verify=False)

    def only(self, encoders: Sequence[str]) -> "EmbeddingStore":
        """The same store with only these of its open encoders."""
        chosen = copy.copy(self)
        chosen._mapped = {name: self[name] for name in encoders}
        chosen.encoders = tuple(chosen._mapped)
        chosen.dims = {name: self.dims[name] for name in encoders}
        chosen.checksums = {name: self.checksums[name] for name in encoders}
        return chosen

    def __getitem__(self, name: str) -> np.memmap:
        """The embeddings of one encoder, memory-mapped and read-only, shape [n, d]."""
        if name not in self._mapped:
            there = ", ".join(self.encoders)
            raise UserError(f"store {self.dataset!r}: there is no encoder {name!r} open; there are {there}.")
        return self._mapped[name]

    def __contains__(self, name: object) -> bool:
        return name in self._mapped

    def __iter__(self) -> Iterator[str]:
        return iter(self.encoders)

    def __len__(self) -> int:
        """How many encoders are open."""
        return len(self.encoders)

    def __repr__(self) -> str:
        encoders = ", ".join(f"{name} [{self.rows}, {dim}]" for name, dim in self.dims.items())
        return f"EmbeddingStore({str(self.path)!r}: {self.dataset}: {encoders})"

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of samples.parquet."""
        return tuple(self.table.column_names)

    def column(self, name: str) -> np.ndarray:
        """One column of samples.parquet, shape [n]; a text column with gaps has objects, None in the gaps."""
        if name not in self.table.column_names:
            raise UserError(
                f"store {self.dataset!r}: there is no column {name!r}; there are {', '.join(self.columns)}."
            )
        return samples.column(self.table, name)

    def take(self, rows: ArrayLike) -> dict[str, np.ndarray]:
        """The chosen rows of every open encoder, by row numbers [m] or a mask [n], in memory, type as stored."""
        chosen = self._row_numbers(rows)
        return {name: np.asarray(array)[chosen] for name, array in self._mapped.items()}

    def chunks(self, size: int = 2048, rows: ArrayLike | None = None) -> Iterator[tuple[np.ndarray, ...]]:
        """Goes through the rows (all, or row numbers [m] or a mask [n]) a chunk at a time, all open encoders together.

        Yields an array [size, d] per encoder, in the order of ``encoders``, type as stored; read-only views of the
        files where ``rows`` is None. The last chunk has what is left.
        """
        if size < 1:
            raise UserError(f"a chunk has at least 1 row, got size {size}.")
        chosen = None if rows is None else self._row_numbers(rows)
        for start in range(0, self.rows if chosen is None else len(chosen), size):
            part = slice(start, start + size) if chosen is None else chosen[start : start + size]
            yield tuple(np.asarray(array)[part] for array in self._mapped.values())

    def nonfinite_rows(self) -> dict[str, np.ndarray]:
        """Numbers of the rows with NaN or infinity, int64, for every open encoder that has some."""
        found = {}
        for name, array in self._mapped.items():
            pieces = LazyRows.of(array).pieces(4096)
            bad = [start + np.flatnonzero(~np.isfinite(rows).all(axis=1)) for start, rows in pieces]
            found[name] = np.concatenate(bad)
        return {name: numbers for name, numbers in found.items() if len(numbers)}

    def _row_numbers(self, rows: ArrayLike) -> np.ndarray:
        numbers = np.asarray(rows)
        if numbers.dtype == bool and numbers.shape == (self.rows,):
            return np.flatnonzero(numbers)
        if numbers.ndim != 1 or (numbers.size and numbers.dtype.kind not in "iu"):
            found = f"{numbers.dtype} {list(numbers.shape)}"
            raise UserError(f"rows must be whole numbers [m] or a mask [{self.rows}], got {found}.")
        outside = numbers[(numbers < 0) | (numbers >= self.rows)]
        if len(outside):
            raise UserError(f"store {self.dataset!r}: rows 0 to {self.rows - 1:,}, asked for {outside[0]}.")
        return numbers.astype(np.int64)


def _chosen(encoders: Sequence[str] | None, manifest: Manifest, store: str) -> tuple[str, ...]:
    if encoders is None:
        return tuple(manifest.encoders)
    if isinstance(encoders, str):
        encoders = (encoders,)
    there = f"there are {', '.join(manifest.encoders)}."
    if not encoders:
        raise UserError(f"{store}: no encoder is asked for; {there}")
    for name in encoders:
        if name not in manifest.encoders:
            raise UserError(f"{store}: there is no encoder {name!r}; {there}")
    if len(set(encoders)) < len(encoders):
        raise UserError(f"{store}: an encoder is asked for twice: {', '.join(encoders)}.")
    return tuple(encoders)


def require_free(path: pathlib.Path, overwrite: bool) -> None:
    """Refuses to write over what is there, except over a store with nothing else in it, if asked to."""
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not (path / MANIFEST).is_file():
        raise UserError(f"{path} exists and is not a store, so it is left alone; choose another path.")
    if not overwrite:
        raise UserError(f"{path} holds a store already; choose another path or ask to overwrite it.")
    foreign = sorted(entry.name for entry in path.iterdir() if not _is_of_a_store(entry))
    if foreign:
        named = ", ".join(foreign[:3])
        raise UserError(
            f"{path} holds files besides a store ({named}); move them away, or choose another path."
        )


def _is_of_a_store(file: pathlib.Path) -> bool:
    """Whether a file in a store's directory belongs to the store, or was left by a program that was killed."""
    if not file.is_file() or file.name in (MANIFEST, samples.FILE):
        return file.is_file()
    if file.suffix == ".npy":
        try:
            return file.stem in Manifest.read(file.parent).encoders
        except UserError:  # a damaged store may be replaced, too
            return True
    return file.name.startswith(".") and file.name.endswith(UNFINISHED)


def finish_store(
    directory: pathlib.Path, dataset: str, table: "pyarrow.Table", encoders: Mapping[str, EncoderEntry]
) -> None:
    """Writes samples.parquet and the manifest of a directory that has the encoders' files."""
    write_atomically(directory / samples.FILE, lambda file: samples.write_table(file, table))
    Manifest(dataset, table.num_rows, encoders, arrays.sha256(directory / samples.FILE)).write(directory)


def _storable(
    embeddings: Mapping[str, ArrayLike], rows: int, info: Mapping[str, Mapping[str, Any]]
) -> dict[str, tuple[np.ndarray, dict[str, Any]]]:
    """The array of each encoder and what is noted of it, checked."""
    values = {name: arrays.storable(name, array, rows) for name, array in embeddings.items()}
    return {name: (values[name], check_info(name, info.get(name, {}))) for name in values}


def _write_encoder(directory: pathlib.Path, name: str, array: np.ndarray, notes: dict) -> EncoderEntry:
    entry = write_atomically(directory / f"{name}.npy", lambda file: arrays.write_array(file, name, array))
    return dataclasses.replace(entry, info=notes)


def _numbered(rows: int) -> np.ndarray:
    return np.array([f"{row:0{len(str(rows - 1))}d}" for row in range(rows)])
