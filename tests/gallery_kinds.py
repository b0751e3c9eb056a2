"""Galleries of every kind for the tests: how one is made, and how the kind's own client reads it back."""

import contextlib
import dataclasses
import pathlib
import zlib
from collections.abc import Callable
from typing import Any

import faiss
import numpy as np
import postgres
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
    assert rows.dtype in (np.float16, np.float32) and len(rows)
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
    index: Any = faiss.read_index(specification.removeprefix("faiss:"))
    keys = faiss.vector_to_array(index.id_map) if hasattr(index, "id_map") else KEYS
    flat = faiss.downcast_index(index.index) if hasattr(index, "id_map") else index
    return keys, flat.reconstruct_n(0, index.ntotal).astype(np.float64)


def make_qdrant(folder: pathlib.Path) -> str:
    import qdrant_client
    from qdrant_client import models

    with contextlib.closing(qdrant_client.QdrantClient(path=str(folder / "qdrant"))) as client:
        params = models.VectorParams(size=WIDTH, distance=models.Distance.DOT)
        client.create_collection("faces", {"arc": params, "other": params})
        points = [
            models.PointStruct(id=at, payload={"key": int(key)}, vector={"arc": row, "other": row})
            for at, (key, row) in enumerate(zip(KEYS, X.astype(np.float32).tolist()))
        ]
        client.upsert("faces", points)
    return f"qdrant:{folder / 'qdrant'}#faces/arc"


def read_qdrant(specification: str) -> tuple[np.ndarray, np.ndarray]:
    import qdrant_client

    folder, _, name = specification.removeprefix("qdrant:").partition("#")
    collection, _, vector = name.partition("/")
    with contextlib.closing(qdrant_client.QdrantClient(path=folder)) as client:
        points, _ = client.scroll(collection, limit=10 * ROWS, with_vectors=True)
    keys = [point.payload["key"] for point in points]  # pyright: ignore[reportOptionalSubscript]
    return np.array(keys), np.array([point.vector[vector] for point in points], np.float64)  # pyright: ignore


def make_postgres(folder: pathlib.Path) -> str:
    import psycopg

    dsn, schema = postgres.start(), f"s{zlib.crc32(str(folder).encode())}"
    with psycopg.connect(dsn) as opened:
        connection: Any = opened
        connection.execute(f"CREATE SCHEMA {schema}")
        columns = (
            f"at smallint, key text, embedding vector({WIDTH}) NOT NULL, person text, PRIMARY KEY (at, key)"
        )
        connection.execute(f"CREATE TABLE {schema}.faces ({columns})")
        for at, (key, row) in enumerate(zip(KEYS, X.astype(np.float32).tolist())):
            values = at, str(key), str(row), f"p{key % 9}"
            connection.execute(f"INSERT INTO {schema}.faces VALUES (%s, %s, %s, %s)", values)
    return f"postgres:{dsn}#{schema}.faces.embedding"


def read_postgres(specification: str) -> tuple[np.ndarray, np.ndarray]:
    import psycopg

    dsn, _, name = specification.removeprefix("postgres:").partition("#")
    table, _, column = name.rpartition(".")
    with psycopg.connect(dsn) as opened:
        connection: Any = opened
        found = connection.execute(
            f"SELECT key::int, {column}::vector::float4[] FROM {table} WHERE {column} IS NOT NULL ORDER BY at"
        ).fetchall()
    return np.array([row[0] for row in found]), np.array([row[1] for row in found], np.float64)


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
    Kind("qdrant", make_qdrant, lambda folder: None, read_qdrant, 1e-6, goes_on=True),
    Kind("postgres", make_postgres, lambda folder: None, read_postgres, 1e-6, goes_on=True),
]
