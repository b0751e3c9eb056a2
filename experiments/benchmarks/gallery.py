"""Moves galleries: files against reading and writing them and against the product, servers against a bare copy loop.

  python -m experiments.benchmarks.gallery --out=results/benchmark_gallery.json
  python -m experiments.benchmarks.gallery --postgres=postgresql://me@host/db

A jaxalign store and a Parquet file of float16 rows are moved in processes of their own. Against them stand copying
the array of the store in chunks, and the product alone. Qdrant's embedded mode, and with --postgres a server, whose
table jaxalign_benchmark is made and dropped, move fewer rows. Against them stands a loop that reads and writes as many
vectors by the same client without mapping or checking anything.
"""

import contextlib
import os
import pathlib
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet

from experiments.benchmarks import define, in_fresh_process, medians, scratch_directory, seconds, show, write
from experiments.run import cli, flags
from jaxalign import AffineMap
from jaxalign.data import EmbeddingStore
from jaxalign.gallery.move import affine_transform, move_gallery
from jaxalign.gallery.stores import Gallery, open_gallery

CHUNK_ROWS = 2048  # of a move of this width, in which the product is fastest, too
TABLE = "jaxalign_benchmark"
NOTE = {"checksum": "benchmark"}
VALUES = define(
    rows=flags.Flag(1_000_000, "Rows of the files.", least=2),
    server_rows=flags.Flag(20_000, "Rows in Qdrant and PostgreSQL.", least=2),
    width=flags.Flag(512, "Width of the rows, before and after.", least=2),
    postgres=flags.Flag(None, "DSN of a PostgreSQL with pgvector, where a table may be made."),
    scratch=flags.Flag(None, "Directory for the galleries; the system's without."),
)


def main(_: Sequence[str]) -> None:
    """Makes the galleries, moves them, removes them."""
    rows, width, few = VALUES.rows, VALUES.width, VALUES.server_rows
    figures: dict[str, float] = {"gigabytes of the array": rows * width * 2 / 1e9}
    with scratch_directory(VALUES.scratch, 8 * rows * width) as scratch:
        make_files(pathlib.Path(scratch), rows, width)
        bare = in_fresh_process(copy_and_product, scratch, rows, width)
        copy, product = bare["copy"], bare["product"]
        figures |= {"reading and writing the array: seconds": copy, "the product: seconds": product}
        figures["the product: seconds of processor"] = bare["processor"]
        for kind, old, new in (("store", "old", "new"), ("parquet", "old.parquet", "new.parquet")):
            prefix = "" if kind == "store" else "parquet:"
            moved = in_fresh_process(move, f"{prefix}{scratch}/{old}", f"{prefix}{scratch}/{new}")
            figures[f"{kind}: seconds"] = moved["seconds"]
            figures[f"{kind}: times the slower of both"] = moved["seconds"] / max(copy, product)
            figures[f"{kind}: seconds of processor"] = moved["processor"]
            figures[f"{kind}: times the product by processor"] = moved["processor"] / bare["processor"]
            figures[f"{kind}: gigabytes of memory at most"] = moved["gigabytes"]
        servers: dict[str, Callable[..., Mapping[str, float]]] = {"qdrant": of_qdrant}
        servers |= {"postgres": of_postgres} if VALUES.postgres else {}
        for name, function in servers.items():
            found = in_fresh_process(function, VALUES.postgres or "", scratch, few, width)
            figures[f"{name}: rows a second"] = few / found["move"]
            figures[f"{name}: share of the rate of a bare loop"] = found["loop"] / found["move"]
    show(figures)
    write(VALUES.out, figures)


def some_map(width: int) -> AffineMap:
    """A dense map in float64, as fits give."""
    random = np.random.default_rng(0)
    return AffineMap(
        (random.standard_normal((width, width)) / np.sqrt(width),), np.zeros(width), np.ones(width)
    )


def some_rows(count: int, width: int) -> np.ndarray:
    """Random rows, float32."""
    return np.random.default_rng(1).standard_normal((count, width), np.float32)


def make_files(scratch: pathlib.Path, rows: int, width: int) -> None:
    """Writes the store and the Parquet file."""
    array = np.lib.format.open_memmap(scratch / "rows.npy", "w+", np.float16, (rows, width))
    for start in range(0, rows, CHUNK_ROWS):
        array[start : start + CHUNK_ROWS] = some_rows(min(CHUNK_ROWS, rows - start), width)
    EmbeddingStore.create(scratch / "old", {"encoder": array}, np.arange(rows) // 5)
    kind = pyarrow.list_(pyarrow.float16(), width)
    schema = pyarrow.schema({"id": pyarrow.int64(), "vector": kind})
    with pyarrow.parquet.ParquetWriter(scratch / "old.parquet", schema, use_dictionary=False) as writer:
        for start in range(0, rows, 16 * CHUNK_ROWS):
            part = np.array(array[start : start + 16 * CHUNK_ROWS])
            vectors = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(part.ravel()), width)
            writer.write_table(pyarrow.table([np.arange(start, start + len(part)), vectors], schema=schema))


def copy_and_product(scratch: str, rows: int, width: int) -> Mapping[str, float]:
    """Seconds of reading and writing an array in chunks, to the disk, and of mapping a chunk as often."""
    array = np.load(f"{scratch}/old/encoder.npy", mmap_mode="r")

    def copy() -> None:
        with open(f"{scratch}/copy.npy", "wb") as file:
            for start in range(0, rows, CHUNK_ROWS):
                file.write(np.array(array[start : start + CHUNK_ROWS]).data)
            file.flush()
            os.fsync(file.fileno())

    chunk, map_ = some_rows(CHUNK_ROWS, width), some_map(width)
    np.asarray(map_(chunk))
    product = timed(lambda: [np.asarray(map_(chunk)) for _ in range(-(-rows // CHUNK_ROWS))])
    return {"copy": seconds(copy), "product": product["seconds"], "processor": product["processor"]}


def timed(work: Callable[[], Any]) -> Mapping[str, float]:
    """Seconds that some work takes, and how many the processor's cores together, which other programs change less."""
    before = time.process_time()
    return {"seconds": seconds(work), "processor": time.process_time() - before}


def moved(gallery: Gallery, out: str | None) -> Gallery:
    """Moves a gallery by the map, with rows scaled before and after as ``experiments.migrate`` does."""
    transform = affine_transform(some_map(gallery.width), gallery, normalize_input=True, normalize=True)
    return move_gallery(gallery, out, transform, gallery.width, NOTE)


def move(old: str, new: str) -> Mapping[str, float]:
    """Opens and moves a gallery; its first program is compiled in this time."""
    return timed(lambda: moved(open_gallery(old), new))


def of_qdrant(_: str, scratch: str, rows: int, width: int) -> Mapping[str, float]:
    """Moves a collection of the embedded mode, and copies it by scrolling and writing points; seconds of each."""
    from qdrant_client import QdrantClient, models

    from jaxalign.gallery.stores.qdrant import QdrantGallery

    warnings.filterwarnings("ignore", "Local mode")
    folder = f"{scratch}/qdrant"
    params = models.VectorParams(size=width, distance=models.Distance.DOT)
    with contextlib.closing(QdrantClient(path=folder)) as client:
        client.create_collection("old", {"v": params})
        vectors = enumerate(some_rows(rows, width).tolist())
        client.upload_points("old", [models.PointStruct(id=at, vector={"v": row}) for at, row in vectors])
        gallery = QdrantGallery(f"qdrant:{folder}#old/v", client)

        def loop() -> None:
            client.create_collection("copy", {"v": params, "v_new": params})
            offset, first = None, True
            while first or offset is not None:
                points, offset = client.scroll("old", limit=512, offset=offset, with_vectors=True)
                first = False
                held: list[Any] = [(point.id, point.vector["v"], point.payload) for point in points]  # pyright: ignore
                client.upsert(
                    "copy",
                    [
                        models.PointStruct(id=at, vector={"v": v, "v_new": v}, payload=about)
                        for at, v, about in held
                    ],
                )
            client.delete_collection("copy")

        def work() -> None:
            moved(gallery, None)
            client.delete_collection("old_new")

        return medians({"loop": loop, "move": work}, 1)


def of_postgres(dsn: str, scratch: str, rows: int, width: int) -> Mapping[str, float]:
    """Moves a column, and copies one by the same statements; seconds of each."""
    import pgvector
    import psycopg
    from pgvector.psycopg import register_vector

    with psycopg.connect(dsn, autocommit=True) as opened:
        connection: Any = opened  # its queries are put together here
        register_vector(opened)
        connection.execute(f"DROP TABLE IF EXISTS {TABLE}")
        connection.execute(f"CREATE TABLE {TABLE} (id bigint PRIMARY KEY, v vector({width}))")
        connection.execute("CREATE TEMP TABLE chunk (id bigint, v vector)")
        connection.execute("SET enable_hashjoin TO off")
        connection.execute("SET enable_mergejoin TO off")

        def fill(table: str, given: list[tuple[int, Any]]) -> None:
            with connection.cursor().copy(f"COPY {table} FROM STDIN (FORMAT BINARY)") as copy:
                copy.set_types(["int8", "vector"])
                for key, row in given:
                    copy.write_row((key, row))

        def loop() -> None:
            connection.execute(f"ALTER TABLE {TABLE} ADD COLUMN w vector({width})")
            for start in range(0, rows, CHUNK_ROWS):
                query = f"SELECT id, v FROM {TABLE} WHERE id >= %s ORDER BY id LIMIT {CHUNK_ROWS}"
                found = connection.execute(query, (start,), binary=True).fetchall()
                with connection.transaction():
                    fill("chunk", found)
                    connection.execute(f"UPDATE {TABLE} t SET w = c.v FROM chunk c WHERE t.id = c.id")
                    connection.execute("TRUNCATE chunk")
            connection.execute(f"ALTER TABLE {TABLE} DROP COLUMN w")

        def work() -> None:
            with open_gallery(f"postgres:{dsn}#{TABLE}.v") as gallery:
                moved(gallery, None).close()
            connection.execute(f"ALTER TABLE {TABLE} DROP COLUMN v_new")

        fill(TABLE, [(at, pgvector.Vector(row)) for at, row in enumerate(some_rows(rows, width))])
        found = medians({"loop": loop, "move": work}, 3)
        connection.execute(f"DROP TABLE {TABLE}")
    return found


if __name__ == "__main__":
    cli.run(main, values=VALUES)
