"""Moves into PostgreSQL and Qdrant: the switch and its way back, killed runs, rows added meanwhile, and refusals."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import zlib

import numpy as np
import postgres
import pytest
from gallery_kinds import (
    EXPECTED,
    KEYS,
    NOTE,
    OUT,
    ROWS,
    WIDTH,
    make_postgres,
    make_qdrant,
    read_postgres,
    read_qdrant,
    transform,
)

from experiments import switch as switching
from experiments.run import cli
from jaxalign.core.errors import UserError
from jaxalign.gallery.move import drop_old, move_gallery, roll_back, switch
from jaxalign.gallery.stores import open_gallery
from jaxalign.gallery.stores.kinds import Move
from jaxalign.gallery.stores.postgres import PostgresGallery

psycopg = pytest.importorskip("psycopg")
qdrant = pytest.importorskip("qdrant_client")

CHILD = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from gallery_kinds import NOTE, OUT, transform
from jaxalign.gallery.move import move_gallery
from jaxalign.gallery.stores import open_gallery
seen = []
def dies(rows):
    seen.append(1)
    if len(seen) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return transform(rows)
move_gallery(open_gallery({old!r}), None, dies, OUT, NOTE, chunk_rows=7)
"""


def move(old, transform=transform, out=None, width=OUT, note=NOTE, **options):
    with open_gallery(old) as gallery:
        made = move_gallery(gallery, out, transform, width, note, chunk_rows=7, **options)
        made.close()
        return made


@contextlib.contextmanager
def sql(specification):
    """A connection, and the table's name."""
    dsn, _, name = specification.removeprefix("postgres:").partition("#")
    with psycopg.connect(dsn) as connection:
        yield connection, name.rpartition(".")[0]


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """A collection that no test changes."""
    return make_qdrant(tmp_path_factory.mktemp("faces"))


@pytest.fixture
def table(tmp_path):
    return make_postgres(tmp_path)


@pytest.fixture
def collection(tmp_path):
    """A collection behind an alias."""
    old = make_qdrant(tmp_path)
    with contextlib.closing(qdrant.QdrantClient(path=str(tmp_path / "qdrant"))) as client:
        alias = qdrant.models.CreateAlias(collection_name="faces", alias_name="live")
        client.update_collection_aliases([qdrant.models.CreateAliasOperation(create_alias=alias)])
    return old.replace("#faces/", "#live/")


def test_a_killed_process_goes_on_in_postgres(table):
    code = CHILD.format(tests=str(pathlib.Path(__file__).parents[1]), old=table)
    child = subprocess.run([sys.executable, "-c", code], env=os.environ, check=False)
    assert child.returncode == -signal.SIGKILL
    with open_gallery(table) as gallery:
        half = gallery.unfinished or {}
    written = half["rows"]
    assert (
        written in (14, 21) and half["checksum"] == NOTE["checksum"]
    )  # a chunk is mapped while one is written
    with pytest.raises(UserError, match="unfinished move"):
        move(f"{table}_new")
    with pytest.raises(UserError, match=f"embedding_new lacks: {ROWS - written};"):
        switch(table)
    seen = []
    move(table, lambda rows: seen.append(len(rows)) or transform(rows))
    assert sum(seen) == ROWS - written
    np.testing.assert_allclose(read_postgres(f"{table}_new")[1], EXPECTED, rtol=1e-6, atol=1e-6)


def test_columns_are_swapped_rolled_back_and_dropped(table):
    before = read_postgres(table)
    with pytest.raises(UserError, match="no column embedding_new"):
        switch(table)
    move(table)
    with sql(table) as (connection, name):  # enrolled meanwhile: by the old network, and by both
        connection.execute(f"INSERT INTO {name} VALUES (900, '9', %s, 'a')", (str([1.0] * WIDTH),))
        connection.execute(
            f"INSERT INTO {name} VALUES (901, '9', %s, 'a', %s)", (str([1.0] * WIDTH), str([7.0] * OUT))
        )
    with pytest.raises(UserError, match="embedding_new lacks: 1;"):
        switch(table)
    move(table)
    switch(table)
    keys, rows = read_postgres(table)
    assert len(keys) == ROWS + 2
    with sql(table) as (
        connection,
        name,
    ):  # the old column was NOT NULL; whom the new network enrols has no old vector
        connection.execute(
            f"INSERT INTO {name} (at, key, embedding) VALUES (902, '9', %s)", (str([1.0] * OUT),)
        )
    np.testing.assert_allclose(rows[:ROWS], EXPECTED, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(
        rows[ROWS:], [transform(np.ones((1, WIDTH), np.float32))[0], [7.0] * OUT], rtol=1e-6
    )
    with pytest.raises(UserError, match="moved already"):
        move(table)
    roll_back(table)
    np.testing.assert_array_equal(read_postgres(table)[1][:ROWS], before[1])
    with pytest.raises(UserError, match="no column embedding that a move has written"):
        drop_old(table)
    switch(table)
    drop_old(table)
    with pytest.raises(UserError, match="no column embedding_old"):
        roll_back(table)


def test_the_command_switches_and_goes_back(table, capsys):
    def drive(*flags):
        with pytest.raises(SystemExit) as ended:
            cli.run(switching.main, ["switch", table, *flags], values=switching.FLAGS, argument="The gallery")
        return ended.value.code or 0, capsys.readouterr()

    assert drive()[0] == 2
    before = read_postgres(table)[1]
    move(table)
    for flags, rows in (((), EXPECTED), (("--back",), before)):
        status, shown = drive(*flags)
        assert (status, shown.err) == (0, "") and "embedding of PostgreSQL" in shown.out
        np.testing.assert_allclose(read_postgres(table)[1], rows, rtol=1e-6, atol=1e-6)
    status, shown = drive("--back", "--drop_old")
    assert status == 2 and shown.err.startswith("error: --back needs the old rows")


@pytest.mark.parametrize(
    "key", ["uuid DEFAULT gen_random_uuid()", "bigint GENERATED ALWAYS AS IDENTITY", "text"]
)
def test_primary_keys_of_other_types(tmp_path, key):
    schema, rows = (
        f"k{zlib.crc32(key.encode())}",
        np.random.default_rng(1).normal(size=(20, WIDTH)).astype("f4"),
    )
    with psycopg.connect(postgres.start()) as connection:
        connection.execute(f"CREATE SCHEMA {schema}")
        connection.execute(f"CREATE TABLE {schema}.t (id {key} PRIMARY KEY, v halfvec, n int)")
        for at, row in enumerate(rows.tolist()):
            given = ("id, ", "%s, ", (f"k{at}",)) if key == "text" else ("", "", ())
            query = f"INSERT INTO {schema}.t ({given[0]}v, n) VALUES ({given[1]}%s, %s)"
            connection.execute(query, (*given[2], str(row), at))  # pyright: ignore
    made = move(f"postgres:{postgres.start()}#{schema}.t.v", out=f"postgres:{postgres.start()}#{schema}.t.w")
    assert made.dtype == "float16"
    with psycopg.connect(postgres.start()) as connection:
        found = connection.execute(f"SELECT w::vector::float4[] FROM {schema}.t ORDER BY n").fetchall()
    wanted = transform(rows.astype(np.float16).astype(np.float32))
    np.testing.assert_allclose(np.array([row[0] for row in found]), wanted, rtol=2e-3, atol=2e-3)


def test_wide_rows_become_halfvec_and_wider_ones_are_refused(table):
    def wide(width):
        return lambda rows: np.ones((len(rows), width), np.float32)

    with pytest.raises(UserError, match=r"halfvec up to width 4,000, and the map gives 4,001\.$"):
        move(table, wide(4001), width=4001)
    with pytest.raises(UserError, match="vector up to width 2,000.* float16 reaches 4,000"):
        move(table, wide(2001), width=2001, dtype="float32")
    assert move(table, wide(2001), width=2001).dtype == "float16"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            ("postgresql:///postgres?host=", "postgresql:///postgres?host=/nowhere"),
            "/nowhere.* cannot be used",
        ),
        (("user=postgres", "user=nobody"), "cannot be used: .*nobody"),
        ((".faces.", ".names."), "has no table"),
        ((".embedding", ".person"), "no column of type vector or halfvec; it has embedding"),
        (("#", "%"), "expected postgres:DSN#table.column"),
        (("postgresql:", "postgresqll:"), "cannot be used"),
    ],
)
def test_what_postgres_does_not_have_is_a_sentence(table, change, sentence):
    with pytest.raises(UserError, match=sentence):
        open_gallery(table.replace(*change, 1))


def test_a_table_without_a_key_or_vectors_and_a_foreign_column_are_refused(table):
    with sql(table) as (connection, name):
        schema = name.partition(".")[0]
        connection.execute(f"CREATE TABLE {schema}.keyless AS SELECT * FROM {name}")
        connection.execute(f"CREATE TABLE {schema}.empty (LIKE {name} INCLUDING ALL)")
        connection.execute(f"ALTER TABLE {name} ADD COLUMN mine vector(4)")
    for other, sentence in (("keyless", "has no primary key"), ("empty", "holds no vector")):
        with pytest.raises(UserError, match=sentence):
            open_gallery(table.replace(".faces.", f".{other}."))
    for out, sentence in (
        (table.replace("embedding", "mine"), "left alone"),
        (table, "go to another column"),
    ):
        with pytest.raises(UserError, match=sentence):
            move(table, out=out)
    with sql(table) as (connection, name):
        connection.execute("CREATE ROLE stranger LOGIN")
    with pytest.raises(UserError, match="the server refuses: permission denied"):
        open_gallery(table.replace("user=postgres", "user=stranger"))
    with pytest.raises(UserError, match="the server refuses: NaN not allowed"):
        move(table, lambda rows: np.full((len(rows), OUT), np.nan))


@pytest.mark.parametrize("of", [make_postgres, make_qdrant], ids=["postgres", "qdrant"])
def test_what_a_move_refuses_is_known_before_a_map_is(tmp_path, of):
    old = of(tmp_path)
    taken = (
        f"{old.rpartition('.')[0]}.person" if of is make_postgres else f"{old.rpartition('#')[0]}#taken/new"
    )
    if of is make_qdrant:
        with contextlib.closing(qdrant.QdrantClient(path=str(tmp_path / "qdrant"))) as client:
            client.create_collection("taken", client.get_collection("faces").config.params.vectors)
    note = {"source": "old"}
    with open_gallery(old) as gallery:
        gallery.check(None, Move(transform, OUT, note, "float16"))
        for out, width, dtype, sentence in [
            (taken, OUT, None, "exists, and not from this map"),
            (None, OUT, "bfloat16", "not bfloat16"),
            *([(None, 4_001, None, "up to width 4,000")] * (of is make_postgres)),
        ]:
            with pytest.raises(UserError, match=sentence):
                gallery.check(out, Move(transform, width, note, dtype))
    move(old)
    with open_gallery(old) as gallery:
        gallery.check(None, Move(transform, OUT, note))  # the same move may go on
        with pytest.raises(UserError, match="exists, and not from this map"):
            gallery.check(None, Move(transform, OUT, {"source": "another"}))


def test_passwords_are_not_shown(table):
    address = f"postgres:postgresql://postgres:secret@/postgres?host={table.partition('host=')[2]}"
    with open_gallery(address) as gallery:
        assert isinstance(gallery, PostgresGallery) and "secret" not in f"{gallery!r}{gallery.place}"


def test_an_alias_is_switched_rolled_back_and_the_old_collection_dropped(collection):
    before = read_qdrant(collection)
    with pytest.raises(UserError, match="no collection 'live_new'"):
        switch(collection)
    made = move(collection)
    for _ in range(2):  # again after a kill: what the alias leads to now is not called old
        assert "leads to 'live_new'; the old rows are in 'faces'" in switch(collection)
    new = collection.replace("/arc", "/arc_new")
    for specification in (made.specification, new):
        np.testing.assert_allclose(read_qdrant(specification)[1], EXPECTED, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(
        read_qdrant(collection)[1], before[1]
    )  # probes of the old network still match
    with pytest.raises(UserError, match="moved already"):
        move(new)
    roll_back(collection)
    with pytest.raises(UserError, match="was moved|has no vector"):
        open_gallery(new)
    with pytest.raises(UserError, match="switch first"):
        drop_old(collection)
    switch(collection)
    drop_old(collection)
    assert "the old rows were dropped" in switch(collection)
    with pytest.raises(UserError, match="no collection 'faces'"):
        open_gallery(collection.replace("#live/", "#faces/"))
    assert read_qdrant(new)[0].tolist() == KEYS.tolist()


def test_a_collection_without_an_alias_keeps_its_name_until_it_is_dropped(tmp_path):
    old = make_qdrant(tmp_path)
    out = old.replace("#faces/arc", "#moved/arc")  # the mapped vector takes the old one's name
    move(old, out=out)
    with pytest.raises(UserError, match="is a collection and no alias"):
        switch(old, out)
    drop_old(old, out)
    np.testing.assert_allclose(read_qdrant(old)[1], EXPECTED, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("#faces/arc", "#names/arc"), "no collection 'names'; there are faces"),
        (("#faces/arc", "#faces/clip"), "no vector 'clip'; there are 'arc', 'other'"),
        (("#faces/arc", "#faces"), "has 2 vectors; choose one"),
        (("#faces/arc", ""), "expected qdrant:"),
        (("/qdrant#", "/nothing#"), "no directory of Qdrant's embedded mode"),
    ],
)
def test_what_qdrant_does_not_have_is_a_sentence(faces, change, sentence):
    with pytest.raises(UserError, match=sentence):
        open_gallery(faces.replace(*change, 1))


def test_a_qdrant_that_cannot_be_reached_or_is_in_use_is_a_sentence(faces):
    with pytest.raises(UserError, match="http://127.0.0.1:9 cannot be used"):
        open_gallery("qdrant:http://127.0.0.1:9#faces/arc")
    with open_gallery(faces), pytest.raises(UserError, match="already accessed"):
        open_gallery(faces)


@pytest.mark.parametrize(("module", "extra"), [("psycopg", "postgres"), ("qdrant_client", "qdrant")])
def test_clients_that_are_not_installed_name_the_extra(monkeypatch, module, extra):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf"{module} is not installed.*jaxalign\[{extra}\]"):
        open_gallery(f"{extra}:x#faces.embedding")
