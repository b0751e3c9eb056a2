"""Galleries in PostgreSQL with pgvector: the mapped vector in a new column beside the old one, then a swap of names."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxalign.core.errors import UserError, extra
from jaxalign.core.files import first_line
from jaxalign.core.rows import prefetch
from jaxalign.data.readers.identity_files import IDENTITY_NAMES, find
from jaxalign.data.samples import text_column
from jaxalign.gallery.stores.kinds import (
    COMPLETE,
    MOVING,
    Gallery,
    Move,
    Rows,
    as_note,
    as_stored,
    may_be_same_move,
    same_move,
)

if TYPE_CHECKING:
    import psycopg

TYPES = {"vector": "float32", "halfvec": "float16"}
NUMBERS = {"vector": np.dtype(">f4"), "halfvec": np.dtype(">f2")}  # as pgvector sends them
HEADER = np.dtype(">u4")  # of each vector: its width, and two bytes of no use
INDEXED = {"vector": 2_000, "halfvec": 4_000}  # width up to which pgvector indexes a type
MARK = "jaxalign: "  # begins the comment of a column that holds the marker
CHUNK_ROWS = 1024  # of a transaction, at most: the next ones are read and mapped while the server writes
WAIT = "10s"  # for a lock that another program holds
COLUMNS = """
  SELECT a.attname, t.typname, a.atttypmod, col_description(a.attrelid, a.attnum)
  FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
  WHERE a.attrelid = to_regclass(%s) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum"""
PRIMARY_KEY = """
  SELECT a.attname, a.atttypid FROM pg_index i
  JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY(i.indkey)
  WHERE i.indrelid = to_regclass(%s) AND i.indisprimary ORDER BY array_position(i.indkey::int2[], a.attnum)"""


class PostgresGallery(Gallery):
    """``postgres:DSN#table.column``, the table with its schema if need be; DSN is a URL or ``key=value`` words.

    The column is of pgvector's type ``vector`` or ``halfvec``, the table has a primary key. A move adds the column
    ``column_new`` (``out`` names another one of the same table) whose comment is the marker, and fills it in chunks of
    one transaction each: a binary COPY into a temporary table and one UPDATE by primary key. Rows that have a new
    vector are left alone, so a killed run goes on, also with rows added since. ``switch`` renames the columns.
    """

    kind = "postgres"

    def __init__(self, specification: str):
        with extra("postgres"):
            import psycopg
            from psycopg import conninfo, sql
        rest = specification.partition(":")[2]
        dsn, _, name = rest.rpartition("#")
        *place, self.column = name.split(".")
        if not dsn or len(place) not in (1, 2) or not all((*place, self.column)):
            raise UserError("expected postgres:DSN#table.column, or #schema.table.column for another schema.")
        dsn = f"postgresql:{dsn}" if dsn.startswith("//") else dsn
        self.specification, self._prefix = specification, f"postgres:{dsn}#{'.'.join(place)}"
        try:
            words = conninfo.conninfo_to_dict(dsn, connect_timeout=10, application_name="jaxalign")
            named = [str(words[key]) for key in ("host", "port", "dbname") if key in words]
            self._address = "/".join(named) or "local"
            self._connection = psycopg.connect(conninfo.make_conninfo("", **words), autocommit=True)
        except psycopg.Error as error:
            where = getattr(self, "_address", "the address")
            raise UserError(f"PostgreSQL at {where} cannot be used: {first_line(error)}.") from error
        self._table = sql.Identifier(*place)
        self._quoted = self._table.as_string(self._connection)
        try:
            with self._errors():
                self._open()
        except UserError:
            self.close()
            raise

    @classmethod
    def open(cls, specification: str) -> PostgresGallery:
        return cls(specification)

    def __enter__(self) -> PostgresGallery:
        return self

    @property
    def place(self) -> str:
        return f"{self._quoted}.{self.column} of PostgreSQL at {self._address}"

    def close(self) -> None:
        self._connection.close()

    def _open(self) -> None:
        self._columns = columns = {row[0]: row[1:] for row in self._execute(COLUMNS, self._quoted)}
        vectors = [column for column, (kind, *_) in columns.items() if kind in TYPES]
        if not columns:
            raise UserError(f"PostgreSQL at {self._address} has no table {self._quoted}.")
        if self.column not in vectors:
            there = f"it has {', '.join(vectors)}" if vectors else "it has none"
            raise UserError(f"{self.place} is no column of type vector or halfvec; {there}.")
        self._key = list(self._execute(PRIMARY_KEY, self._quoted))
        if not self._key:
            raise UserError(f"table {self._quoted} at {self._address} has no primary key to find rows by.")
        _leave_packed(self._connection)
        kind, width, comment = columns[self.column]
        self._kind, self.dtype, self.marker = kind, TYPES[kind], _marker(comment)
        first = self._execute("SELECT {c} FROM {t} WHERE {c} IS NOT NULL LIMIT 1").fetchone()
        if first is None:
            raise UserError(f"{self.place} holds no vector.")
        self.width = width if width > 0 else (len(first[0]) - HEADER.itemsize) // NUMBERS[kind].itemsize
        (self.rows,) = self._one("SELECT count({c}) FROM {t}")
        beside = _marker(columns[f"{self.column}_new"][2]) if f"{self.column}_new" in columns else None
        if beside and beside["state"] == MOVING:
            self.unfinished = {**beside, "rows": self._one("SELECT count({n}) FROM {t}", self._new(None))[0]}

    def stored_chunks(self, size: int) -> Iterator[Rows]:
        yield from self._read(size, "{c} IS NOT NULL")

    def identities(self) -> np.ndarray | None:
        name = find(None, IDENTITY_NAMES, list(self._columns))
        if name is None:
            return None
        rows = self._execute("SELECT {n}::text FROM {t} WHERE {c} IS NOT NULL ORDER BY {k}", new=name)
        return text_column([row[0] for row in rows], f"{self.place}: {name}")

    def check(self, out: str | None, move: Move) -> None:
        move.only_dtypes(self.place, *TYPES.values())
        new, kind = self._new(out), self._kind_of(move)
        if move.width > INDEXED[kind]:
            raise UserError(
                f"pgvector indexes {kind} up to width {INDEXED[kind]:,}, and the map gives {move.width:,}"
                + ("; float16 reaches 4,000." if move.width <= 4_000 else ".")
            )
        if new in self._columns and not may_be_same_move(_marker(self._columns[new][2]), move.note):
            raise self._exists(new)

    def move(self, out: str | None, move: Move) -> PostgresGallery:
        self.check(out, move)
        new, kind = self._new(out), self._kind_of(move)
        marker = as_note({**move.note, "translated_from": {"column": self.column}})
        with PostgresGallery(self.specification) as reader, self._errors(), self._alone():
            self._add_column(new, f"{kind}({move.width})", marker)
            (done,) = self._one("SELECT count({n}) FROM {t} WHERE {c} IS NOT NULL", new)
            pending = reader._read(min(move.size, CHUNK_ROWS), "{c} IS NOT NULL AND {n} IS NULL", new)
            self._execute("CREATE TEMP TABLE jaxalign_rows AS SELECT {k}, {n} FROM {t} WITH NO DATA", new=new)
            for keys, rows in prefetch(move.mapped(pending, done)):  # while the server writes the one before
                self._fill(keys, as_stored(rows, TYPES[kind], self.place), new, kind)
            self._execute("DROP TABLE jaxalign_rows")
            self._comment(new, {**marker, "state": COMPLETE})
        return PostgresGallery(f"{self._prefix}.{new}")

    def switch(self, out: str | None = None) -> str:
        new, old = self._new(out), f"{self.column}_old"
        marker = self._marker_of(new)
        (left,) = self._one("SELECT count(*) FROM {t} WHERE {c} IS NOT NULL AND {n} IS NULL", new)
        if marker["state"] != COMPLETE or left:
            raise UserError(f"{self.place}: rows that {new} lacks: {left:,}; run the move again first.")
        self._rename((self.column, old), (new, self.column))
        return f"{self.place} holds the moved rows; the old ones are in {old}."

    def roll_back(self, out: str | None = None) -> str:
        new, old = self._new(out), f"{self.column}_old"
        self._marker_of(self.column)
        if old not in self._columns:
            raise UserError(f"{self.place} cannot be rolled back: there is no column {old}.")
        self._rename((self.column, new), (old, self.column))
        return f"{self.place} holds the old rows again; the moved ones are in {new}."

    def drop_old(self, out: str | None = None) -> str:
        old = f"{self.column}_old"
        self._marker_of(self.column)
        if old not in self._columns:
            raise UserError(f"{self.place} has no old rows beside it: there is no column {old}.")
        with self._errors():
            self._execute("ALTER TABLE {t} DROP COLUMN {n}", new=old)
        return f"{old} beside {self.place} is deleted."

    def _kind_of(self, move: Move) -> str:
        """The type of the new column."""
        wide = move.width > INDEXED["vector"] and move.dtype is None
        return "halfvec" if wide or (move.dtype or self.dtype) == "float16" else "vector"

    def _exists(self, new: str) -> UserError:
        return UserError(f"column {new} beside {self.place} exists, and not from this map; it is left alone.")

    def _new(self, out: str | None) -> str:
        """Name of the column for moved rows."""
        if out is None:
            return f"{self.column}_new"
        prefix, _, name = out.rpartition(".")
        if prefix.replace("postgres://", "postgres:postgresql://", 1) != self._prefix or name == self.column:
            raise UserError(f"moved rows go to another column beside {self.place}, with the same DSN.")
        return name

    def _marker_of(self, column: str) -> dict[str, Any]:
        marker = _marker(self._columns[column][2]) if column in self._columns else None
        if marker is None:
            raise UserError(f"{self.place}: there is no column {column} that a move has written.")
        return marker

    def _add_column(self, new: str, kind: str, marker: dict[str, Any]) -> None:
        """Adds the column with its marker in one transaction, unless the same move has begun before."""
        if new not in self._columns:
            with self._connection.transaction():
                self._execute(f"ALTER TABLE {{t}} ADD COLUMN {{n}} {kind}", new=new)
                self._comment(new, {**marker, "state": MOVING})
        elif not same_move(_marker(self._columns[new][2]), marker):
            raise self._exists(new)

    def _read(self, size: int, condition: str, new: str = "") -> Iterator[Rows]:
        """Rows that fulfil a condition by ascending primary key; each chunk is a query of its own."""
        last: Sequence[Any] = ()
        while True:
            after = f" AND ({{k}}) > ({', '.join(['%s'] * len(last))})" if last else ""
            query = f"SELECT {{k}}, {{c}} FROM {{t}} WHERE {condition}{after} ORDER BY {{k}} LIMIT {size}"
            with self._errors():
                found = self._execute(query, *last, new=new).fetchall()
            if not found:
                return
            last = found[-1][:-1]
            numbers = NUMBERS[self._kind]
            packed, length = [row[-1] for row in found], HEADER.itemsize + self.width * numbers.itemsize
            for row in found:
                if len(row[-1]) != length:
                    raise UserError(f"{self.place}: row {row[0]!r} has another width than {self.width}.")
            held = np.frombuffer(b"".join(packed), np.uint8).reshape(-1, length)[:, HEADER.itemsize :]
            keys = [row[:-1] if len(last) > 1 else row[0] for row in found]
            yield keys, np.ascontiguousarray(held).view(numbers).astype(np.float32)

    def _fill(self, keys: Sequence[Any], rows: np.ndarray, new: str, kind: str) -> None:
        """Writes the vectors of one chunk, in one transaction."""
        length = HEADER.itemsize + rows.shape[1] * NUMBERS[kind].itemsize
        packed = np.empty((len(rows), length), np.uint8)
        packed[:, : HEADER.itemsize] = np.array([rows.shape[1], 0], ">u2").view(np.uint8)
        packed[:, HEADER.itemsize :] = np.ascontiguousarray(rows, NUMBERS[kind]).view(np.uint8)
        content = packed.tobytes()
        match = " AND ".join(f"t.{{k{at}}} = r.{{k{at}}}" for at in range(len(self._key)))
        with self._connection.transaction(), self._connection.cursor() as cursor:
            with cursor.copy("COPY jaxalign_rows FROM STDIN (FORMAT BINARY)") as copy:
                copy.set_types([*(oid for _, oid in self._key), kind])
                for at, key in enumerate(keys):
                    vector = content[at * length : (at + 1) * length]
                    copy.write_row([*(key if len(self._key) > 1 else (key,)), vector])
            # The planner knows nothing of the temporary table and would read all of the other one.
            cursor.execute("SET LOCAL enable_hashjoin TO off")
            cursor.execute("SET LOCAL enable_mergejoin TO off")
            update = "UPDATE {t} t SET {n} = r.{n} FROM jaxalign_rows r WHERE t.{n} IS NULL AND "
            self._execute(update + match, new=new)
            cursor.execute("TRUNCATE jaxalign_rows")

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keeps a second program from the same table; the server's end of a killed one is waited for."""
        import psycopg

        lock, name = "(to_regclass(%s)::oid::bigint)", self._quoted
        self._execute(f"SET lock_timeout TO '{WAIT}'")
        try:
            self._execute(f"SELECT pg_advisory_lock{lock}", name)
        except psycopg.errors.LockNotAvailable as error:
            raise UserError(f"another program is moving rows of the table of {self.place}.") from error
        try:
            yield
        finally:
            if not self._connection.broken:
                self._execute(f"SELECT pg_advisory_unlock{lock}", name)

    def _rename(self, *names: tuple[str, str]) -> None:
        """Renames columns in one transaction."""
        with self._errors(), self._connection.transaction():
            self._execute(f"SET LOCAL lock_timeout TO '{WAIT}'")
            for before, after in names:
                self._execute("ALTER TABLE {t} RENAME COLUMN {n} TO {m}", new=before, other=after)
            # Rows that are enrolled from now on have no vector of the other network.
            self._execute("ALTER TABLE {t} ALTER COLUMN {n} DROP NOT NULL", new=names[0][1])

    def _comment(self, column: str, marker: dict[str, Any]) -> None:
        self._execute("COMMENT ON COLUMN {t}.{n} IS {l}", new=column, text=MARK + json.dumps(marker))

    def _one(self, query: str, new: str = "") -> tuple[Any, ...]:
        row = self._execute(query, new=new).fetchone()
        assert row is not None
        return row

    def _execute(
        self, query: str, *values: Any, new: str = "", other: str = "", text: str = ""
    ) -> psycopg.Cursor[Any]:
        """Runs a query: {t} table, {c} column, {k} and {k0}, {k1}, ... primary key, {n} and {m} columns, {l} a text."""
        from psycopg import sql

        keys = [sql.Identifier(name) for name, _ in getattr(self, "_key", ())]
        names = {"c": self.column, "n": new, "m": other}
        composed = sql.SQL(query).format(  # pyright: ignore[reportArgumentType]
            t=self._table,
            k=sql.SQL(", ").join(keys),
            l=sql.Literal(text),
            **{f"k{at}": key for at, key in enumerate(keys)},
            **{short: sql.Identifier(name) for short, name in names.items() if name},
        )
        return self._connection.execute(composed, values or None, binary=True)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Turns what the server refuses into a sentence."""
        import psycopg

        try:
            yield
        except psycopg.Error as error:
            raise UserError(f"{self.place}: the server refuses: {first_line(error)}.") from error


def _leave_packed(connection: psycopg.Connection[Any]) -> None:
    """Makes a connection know pgvector's types and leave their bytes to us, who convert a chunk at once."""
    from pgvector.psycopg import register_vector
    from psycopg.adapt import Dumper
    from psycopg.pq import Format
    from psycopg.types.string import ByteaBinaryLoader

    class Packed(Dumper):
        format = Format.BINARY

        def dump(self, obj: Any) -> Any:
            return obj

    register_vector(connection)
    for name in TYPES:
        info = connection.adapters.types.get(name)
        if info is not None:
            connection.adapters.register_loader(info.oid, ByteaBinaryLoader)
            connection.adapters.register_dumper(Packed, type(name, (Packed,), {"oid": info.oid}))


def _marker(comment: str | None) -> dict[str, Any] | None:
    """The marker that a column's comment holds; None for another comment, or none."""
    if not comment or not comment.startswith(MARK):
        return None
    try:
        return {"state": MOVING, **json.loads(comment.removeprefix(MARK))}
    except (ValueError, TypeError) as error:
        raise UserError(f"the marker in the comment of a column is damaged: {comment[:100]!r}.") from error
