"""Galleries of every kind for the tests: how one is made, and how the kind's own client reads it back."""

import dataclasses
import pathlib
from collections.abc import Callable

import faiss
import numpy as np
import pyarrow
import pyarrow.parquet

from jaxalign.data import EmbeddingStore

ROWS, WIDTH, OUT = 53, 6, 4
RNG = np.random.default_rng(0)
FACTOR, BIAS = RNG.normal(size=(WIDTH, OUT)), RNG.normal(size=OUT)
KEYS = RNG.permutation(ROWS) + 1000
X = (RNG.normal(size=(ROWS, WIDTH)) + 1).astype(np.float16)  # so that every kind holds the same numbers
EXPECTED = X.astype(np.float64) @ FACTOR + BIAS
NOTE = {"checksum": "a" * 64, "source": "old", "target": "new"}


def transform(rows):
    assert rows.dtype == np.float32 and len(rows)
    return rows.astype(np.float64) @ FACTOR + BIAS


@dataclasses.dataclass(frozen=True)
class Kind:
    """One kind: makes the gallery, names the new one, and reads keys and rows of either."""

    name: str
    make: Callable[..., str]
    out: Callable[[pathlib.Path], str | None]
    read: Callable[[str], tuple[np.ndarray, np.ndarray]]
    tolerance: float
    goes_on: bool = False  # where a killed run stopped

    def __str__(self) -> str:
        return self.name


def make_directory(folder: pathlib.Path) -> str:
    names = [str(key) for key in KEYS]
    EmbeddingStore.create(folder / "old", {"arc": X}, [f"p{key % 9}" for key in KEYS], sample_ids=names)
    return str(folder / "old")


def read_directory(specification: str) -> tuple[np.ndarray, np.ndarray]:
    store = EmbeddingStore.open(specification.partition("#")[0])
    return store.sample_ids.astype(int), np.asarray(store["arc"], np.float64)


def make_parquet(kind: pyarrow.DataType) -> Callable[[pathlib.Path], str]:
    def make(folder: pathlib.Path) -> str:
        vectors = pyarrow.array([row.tolist() for row in X.astype(np.float32)], kind)
        table = pyarrow.table(
            {
                "key": pyarrow.array(KEYS, pyarrow.int16()),
                "vector": vectors,
                "nested": pyarrow.array([{"a": [int(key)]} for key in KEYS]),
                "person": pyarrow.array([f"p{key % 9}" for key in KEYS]).dictionary_encode(),
            }
        )
        pyarrow.parquet.write_table(table, folder / "old.parquet", compression="zstd", row_group_size=20)
        return f"parquet:{folder / 'old.parquet'}"

    return make


def read_parquet(specification: str) -> tuple[np.ndarray, np.ndarray]:
    table = pyarrow.parquet.read_table(specification.removeprefix("parquet:"))
    return table["key"].to_numpy(), np.array(table["vector"].to_pylist(), np.float64)


def make_faiss(mapped: bool) -> Callable[[pathlib.Path], str]:
    def make(folder: pathlib.Path) -> str:
        index = faiss.IndexFlatIP(WIDTH)
        if mapped:
            index = faiss.IndexIDMap2(index)
            index.add_with_ids(X.astype(np.float32), KEYS)
        else:
            index.add(X.astype(np.float32))
        faiss.write_index(index, str(folder / "old.faiss"))
        return f"faiss:{folder / 'old.faiss'}"

    return make


def read_faiss(specification: str) -> tuple[np.ndarray, np.ndarray]:
    index = faiss.read_index(specification.removeprefix("faiss:"))
    keys = faiss.vector_to_array(index.id_map) if hasattr(index, "id_map") else KEYS
    flat = faiss.downcast_index(index.index) if hasattr(index, "id_map") else index
    return keys, flat.reconstruct_n(0, index.ntotal).astype(np.float64)


FIXED = pyarrow.list_(pyarrow.float32(), WIDTH)
KINDS = [
    Kind("directory", make_directory, lambda folder: str(folder / "new"), read_directory, 2e-3),
    *(
        Kind(
            name, make_parquet(kind), lambda folder: f"parquet:{folder / 'new.parquet'}", read_parquet, error
        )
        for name, kind, error in (
            ("fixed", FIXED, 1e-6),
            ("half", pyarrow.list_(pyarrow.float16(), WIDTH), 2e-3),
            ("lists", pyarrow.large_list(pyarrow.float32()), 1e-6),
        )
    ),
    *(
        Kind(name, make_faiss(mapped), lambda folder: f"faiss:{folder / 'new.faiss'}", read_faiss, 1e-6)
        for name, mapped in (("flat", False), ("ids", True))
    ),
]
