"""Galleries in Qdrant: a new collection with the mapped vector beside the old ones, then an alias is switched.

Adding a vector to a collection that exists needs a server of version 1.18. Copying a collection works with every one,
leaves the old collection as it is, and an alias moves all readers at once.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxalign.core.errors import UserError, extra
from jaxalign.core.files import first_line
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
    from qdrant_client import QdrantClient
    from qdrant_client.models import CollectionInfo, Record, VectorParams

MARKER = "jaxalign"  # key of a collection's metadata
REQUEST_BYTES = 2**23  # of one request; servers refuse 32 MB
NUMBER_BYTES = 12  # of a number as JSON
SECONDS = 60  # until a request is given up
KEPT = (
    "shard_number",
    "sharding_method",
    "replication_factor",
    "write_consistency_factor",
    "on_disk_payload",
)


class QdrantGallery(Gallery):
    """``qdrant:URL#collection/vector``, or a directory of the client's embedded mode instead of the URL.

    Without ``/vector`` the collection's only vector is meant. The key of a server is taken from the environment,
    QDRANT_API_KEY. A move makes the collection ``collection_new`` with all points, payloads and vectors of the old one
    and the mapped vector as ``vector_new`` (``out`` names another collection and vector); where the vector has no name,
    or ``out`` says the same one, the mapped vector takes its place there. The marker is in the new collection's
    metadata. Points that are there are left alone, so a killed run goes on, and so do points that were added since.
    ``switch`` needs an alias: readers ask for its name and get the new collection.
    """

    kind = "qdrant"

    def __init__(self, specification: str, connection: QdrantClient | None = None):
        self.specification = specification
        self._where, self.collection, vector = _parts(specification)
        self._client = connection or _connect(self._where)
        with self._errors():
            names = [one.name for one in self._client.get_collections().collections]
            aliases = self._client.get_aliases().aliases
            self._aliases = {one.alias_name: one.collection_name for one in aliases}
            self.stored = self._aliases.get(self.collection, self.collection)
            if self.stored not in names:
                there = ", ".join([*names, *self._aliases]) or "none"
                raise UserError(
                    f"Qdrant at {self._where} has no collection {self.collection!r}; there are {there}."
                )
            self._info = self._client.get_collection(self.stored)
            self._vectors = _vectors(self._info)
            self.vector = self._chosen(vector)
            params = self._vectors[self.vector]
            self.width, self.dtype = params.size, str(getattr(params.datatype, "value", None) or "float32")
            if params.multivector_config or self.dtype not in ("float32", "float16"):
                raise UserError(f"{self.place} holds no single vectors of float32 or float16.")
            self.rows = self._client.count(self.stored, exact=True).count
            self._names = names
        if not self.rows:
            raise UserError(f"{self.place} holds no point.")
        noted = _marker(self._info)
        self.marker = noted if noted and noted["translated_to"]["vector"] == self.vector else None
        beside = self._marker_of(self._new(None)[0])
        if beside and beside["state"] == MOVING:
            rows = self._client.count(self._new(None)[0], exact=True).count
            self.unfinished = {**beside, "rows": rows}

    @classmethod
    def open(cls, specification: str) -> QdrantGallery:
        return cls(specification)

    @property
    def place(self) -> str:
        vector = f"vector {self.vector!r}" if self.vector else "the vector"
        return f"{vector} of collection {self.collection!r} of Qdrant at {self._where}"

    def close(self) -> None:
        self._client.close()

    def stored_chunks(self, size: int) -> Iterator[Rows]:
        for records in self._scroll(
            size, with_payload=False, with_vectors=[self.vector] if self.vector else True
        ):
            held = [record for record in records if self._of(record) is not None]
            if held:
                yield [record.id for record in held], self._rows(held)

    def check(self, out: str | None, move: Move) -> None:
        move.only_dtypes(self.place, "float32", "float16")
        name, _ = self._new(out)
        if name in self._names and not may_be_same_move(self._marker_of(name), move.note):
            raise UserError(f"collection {name!r} exists, and not from this map; it is left alone.")

    def move(self, out: str | None, move: Move) -> QdrantGallery:
        self.check(out, move)
        name, vector = self._new(out)
        source = {"collection": self.stored, "vector": self.vector}
        target = {"collection": name, "vector": vector}
        marker = as_note({**move.note, "translated_from": source, "translated_to": target})
        with self._errors():
            self._make(name, vector, move, marker)
            done = self._client.count(name, exact=True).count
        for records, rows in move.mapped(self._pending(name, move), done):
            self._write(name, vector, records, as_stored(rows, "float32", self.place))
        with self._errors():
            self._client.update_collection(name, metadata={MARKER: {**marker, "state": COMPLETE}})
        return QdrantGallery(f"qdrant:{self._where}#{name}/{vector}".removesuffix("/"), self._client)

    def switch(self, out: str | None = None) -> str:
        name, _ = self._new(out)
        self._require_whole(name)
        if self.collection not in self._aliases:
            raise UserError(
                f"{self.collection!r} is a collection and no alias, so its name cannot be switched: let programs ask "
                f"for {name!r}, or drop the old one, which gives its name to {name!r} as an alias."
            )
        before, marker = self.stored, self._marker_of(name) or {}
        if (
            before == name
        ):  # a run that was killed at its end has switched; the live rows are not the old ones
            before = marker["translated_from"]["collection"]
        self._lead_to(name)
        rows = f"the old rows are in {before!r}" if before in self._names else "the old rows were dropped"
        return f"alias {self.collection!r} leads to {name!r}; {rows}."

    def roll_back(self, out: str | None = None) -> str:
        marker = self._marker_of(self.stored)
        old = marker and marker["translated_from"]["collection"]
        if self.collection not in self._aliases or old not in self._names:
            raise UserError(f"alias {self.collection!r} leads to no moved collection whose old one is there.")
        self._lead_to(old)
        return f"alias {self.collection!r} leads to {old!r} again; the moved rows are in {self.stored!r}."

    def drop_old(self, out: str | None = None) -> str:
        from qdrant_client import models

        marker = self._marker_of(self.stored)
        if marker is not None and self.collection in self._aliases:
            old = marker["translated_from"]["collection"]
            if old not in self._names:
                raise UserError(f"the old collection {old!r} is not there any more.")
            self._client.delete_collection(old)
            return f"collection {old!r} is deleted."
        if self.collection in self._aliases:
            raise UserError(f"alias {self.collection!r} leads to the old rows; switch first.")
        name, _ = self._new(out)
        self._require_whole(name)
        with self._errors():
            self._client.delete_collection(self.collection)
            alias = models.CreateAlias(collection_name=name, alias_name=self.collection)
            self._client.update_collection_aliases([models.CreateAliasOperation(create_alias=alias)])
        return f"collection {self.collection!r} is deleted; its name is an alias of {name!r}."

    def _chosen(self, vector: str | None) -> str:
        there = ", ".join(repr(name) for name in self._vectors)
        if vector is None and len(self._vectors) != 1:
            raise UserError(
                f"collection {self.collection!r} has {len(self._vectors)} vectors; choose one of {there}."
            )
        if vector is not None and vector not in self._vectors:
            raise UserError(f"collection {self.collection!r} has no vector {vector!r}; there are {there}.")
        return next(iter(self._vectors)) if vector is None else vector

    def _new(self, out: str | None) -> tuple[str, str]:
        """Names of the collection and of the vector for moved rows."""
        if out is None:
            return f"{self.collection}_new", f"{self.vector}_new" if self.vector else ""
        where, name, vector = _parts(out)
        if where != self._where or name in (self.stored, self.collection):
            raise UserError(f"moved rows go to another collection of Qdrant at {self._where}.")
        return name, self.vector if vector is None else vector

    def _marker_of(self, name: str) -> dict[str, Any] | None:
        with self._errors():
            return _marker(self._client.get_collection(name)) if name in self._names else None

    def _require_whole(self, name: str) -> None:
        """Refuses to go on before every point is in the new collection."""
        marker = self._marker_of(name)
        if marker is None:
            raise UserError(f"{self.place}: there is no collection {name!r} that a move has written.")
        left = self.rows - self._client.count(name, exact=True).count
        if marker["state"] != COMPLETE or left > 0:
            raise UserError(f"{self.place}: points that {name!r} lacks: {left:,}; run the move again.")

    def _lead_to(self, name: str) -> None:
        """Lets the alias lead to another collection, in one step."""
        from qdrant_client import models

        alias = models.CreateAlias(collection_name=name, alias_name=self.collection)
        operations = [
            models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=self.collection)),
            models.CreateAliasOperation(create_alias=alias),
        ]
        with self._errors():
            self._client.update_collection_aliases(operations)

    def _make(self, name: str, vector: str, move: Move, marker: dict[str, Any]) -> None:
        """Makes the new collection with its marker, unless the same move has begun before."""
        if name in self._names:
            if not same_move(self._marker_of(name), marker):
                raise UserError(f"collection {name!r} exists, and not from this map; it is left alone.")
        else:
            update = {"size": move.width, **({"datatype": move.dtype} if move.dtype else {})}
            vectors = {**self._vectors, vector: self._vectors[self.vector].model_copy(update=update)}
            params = self._info.config.params
            self._client.create_collection(
                name,
                vectors[""] if list(vectors) == [""] else vectors,
                params.sparse_vectors,
                metadata={MARKER: {**marker, "state": MOVING}},
                **{key: value for key in KEPT if (value := getattr(params, key, None)) is not None},
            )
            if _marker(self._client.get_collection(name)) is None:
                self._client.delete_collection(name)
                raise UserError(f"Qdrant at {self._where} keeps no metadata of collections; 1.16 does.")
        for field, index in (self._info.payload_schema or {}).items():
            self._client.create_payload_index(name, field, index.params or index.data_type)

    def _scroll(self, size: int, **what: Any) -> Iterator[list[Record]]:
        """All points by ascending id, a request's worth at a time."""
        width = sum(params.size for params in self._vectors.values())
        limit, offset = min(size, max(1, REQUEST_BYTES // (2 * NUMBER_BYTES * width))), None
        while True:
            with self._errors():
                records, offset = self._client.scroll(self.stored, limit=limit, offset=offset, **what)
            if records:
                yield records
            if offset is None:
                return

    def _pending(self, name: str, move: Move) -> Iterator[tuple[list[Record], np.ndarray]]:
        """The points that the new collection lacks, and the rows of those that have the vector."""
        for records in self._scroll(move.size, with_payload=True, with_vectors=True):
            ids = [record.id for record in records]
            with self._errors():
                found = self._client.retrieve(name, ids, with_payload=False, with_vectors=False)
            there = {one.id for one in found}
            left = [record for record in records if record.id not in there]
            if left:
                yield left, self._rows([record for record in left if self._of(record) is not None])

    def _of(self, record: Record) -> list[float] | None:
        """The vector of a point, if it has it."""
        held: Any = record.vector
        return held.get(self.vector) if isinstance(held, dict) else held

    def _rows(self, records: list[Record]) -> np.ndarray:
        return np.array([self._of(record) for record in records], np.float32).reshape(
            len(records), self.width
        )

    def _write(self, name: str, vector: str, records: list[Record], rows: np.ndarray) -> None:
        """Writes points with their payload, their vectors and the mapped one."""
        from qdrant_client.models import PointStruct

        if not np.isfinite(rows).all():
            raise UserError(f"{self.place}: a mapped row holds NaN or infinity, which Qdrant does not store.")
        coming, points = iter(rows.tolist()), []
        for record in records:
            held: Any = record.vector if isinstance(record.vector, dict) else {"": record.vector}
            if self._of(record) is not None:
                held = {**held, vector: next(coming)}
            points.append(PointStruct(id=record.id, payload=record.payload, vector=held.get("", held)))
        with self._errors():
            self._client.upsert(name, points, wait=True)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Turns what the client and the server refuse into a sentence."""
        with _explained(self._where):
            yield


def _parts(specification: str) -> tuple[str, str, str | None]:
    """Where it is, the collection, and the vector's name if there is one."""
    where, _, name = specification.partition(":")[2].rpartition("#")
    collection, _, vector = name.partition("/")
    if not where or not collection:
        raise UserError("expected qdrant:URL-or-DIR#collection/vector.")
    return where, collection, vector or None


def _connect(where: str) -> QdrantClient:
    with extra("qdrant"):
        from qdrant_client import QdrantClient
    with _explained(where):
        if "://" in where:
            return QdrantClient(
                url=where,
                api_key=os.environ.get("QDRANT_API_KEY"),
                timeout=SECONDS,
                check_compatibility=False,
            )
        path = pathlib.Path(where).expanduser()
        if not (path / "meta.json").is_file():  # the client would make one
            raise UserError(f"{path} is no directory of Qdrant's embedded mode: meta.json is missing.")
        return QdrantClient(path=str(path))


@contextlib.contextmanager
def _explained(where: str) -> Iterator[None]:
    from qdrant_client.common.client_exceptions import QdrantException
    from qdrant_client.http.exceptions import ApiException

    try:
        yield
    except UserError:
        raise
    except (ApiException, QdrantException, ValueError, RuntimeError, OSError) as error:
        raise UserError(f"Qdrant at {where} cannot be used: {first_line(error)}.") from error


def _vectors(info: CollectionInfo) -> dict[str, VectorParams]:
    """The dense vectors of a collection by name; the one without a name is ``""``."""
    vectors = info.config.params.vectors
    return dict(vectors) if isinstance(vectors, dict) else {} if vectors is None else {"": vectors}


def _marker(info: CollectionInfo) -> dict[str, Any] | None:
    """The marker in a collection's metadata; None without one."""
    noted = (info.config.metadata or {}).get(MARKER)
    if noted is not None and not isinstance(noted.get("translated_to"), dict):
        raise UserError(f"the marker in the metadata of a collection is damaged: {str(noted)[:100]}.")
    return noted
