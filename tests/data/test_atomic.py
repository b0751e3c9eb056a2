"""Directories that are whole or not there: claimed by one program, replaced in one step, cleaned up after a kill."""

import contextlib
import os
import pathlib
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from processes import finished, start

from jaxalign.core.errors import UserError
from jaxalign.data import EmbeddingStore
from jaxalign.data.atomic import (
    new_directory,
    new_file,
    remove_unfinished,
    temporary_name,
    write_atomically,
)

posix = pytest.mark.skipif(os.name != "posix", reason="kills a process")


def nothing_to_check():
    pass


def names(place):
    return sorted(path.name for path in place.iterdir())


def make(path, text, **options):
    with new_directory(path, check=nothing_to_check, **options) as directory:
        (directory / "text").write_text(text)


def test_what_appears_meanwhile_is_left_alone(tmp_path):
    with (
        pytest.raises(UserError, match="meanwhile"),
        new_directory(tmp_path / "a", check=nothing_to_check) as directory,
    ):
        (directory / "text").write_text("mine")
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "text").write_text("theirs")
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a" / "text").read_text() == "theirs"


def test_a_second_program_is_refused_at_once(tmp_path):
    with new_directory(tmp_path / "a", check=nothing_to_check):
        with pytest.raises(UserError, match="another program is writing"):
            make(tmp_path / "a", "second")
        make(tmp_path / "b", "another name")
    assert names(tmp_path) == ["a", "b"]
    assert names(tmp_path / "a") == []


@pytest.mark.skipif(sys.platform != "linux", reason="directories are exchanged on Linux")
def test_a_directory_is_replaced_in_one_step(tmp_path, monkeypatch):
    make(tmp_path / "a", "old")
    renamed, rename = [], os.rename
    monkeypatch.setattr(os, "rename", lambda *given: renamed.append(given) or rename(*given))
    make(tmp_path / "a", "new", overwrite=True)
    assert len(renamed) == 1  # the attempt; two would leave a moment without the directory
    assert (tmp_path / "a" / "text").read_text() == "new"
    assert names(tmp_path) == ["a"]


def test_a_system_that_cannot_exchange_renames(tmp_path, monkeypatch):
    monkeypatch.setattr("ctypes.CDLL", lambda *_, **__: object())
    make(tmp_path / "a", "old")
    make(tmp_path / "a", "new", overwrite=True)
    assert (tmp_path / "a" / "text").read_text() == "new"
    assert names(tmp_path) == ["a"]


KILLED = """
import os, pathlib, shutil, signal, sys
from jaxalign.data.atomic import new_directory
path, moment = pathlib.Path(sys.argv[1]), sys.argv[2]
kill = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
if moment == "old":
    shutil.rmtree = kill
with new_directory(path, check=lambda: None, overwrite=True) as directory:
    (directory / "text").write_text("killed")
    if moment == "body":
        kill()
"""


@posix
@pytest.mark.parametrize(("moment", "expected"), [("body", "old"), ("old", "killed")])
def test_what_a_killed_program_leaves_is_removed_by_the_next(tmp_path, caplog, moment, expected):
    make(tmp_path / "a", "old")
    (tmp_path / ".a.unfinished").mkdir()  # of embeddings that are to be continued
    (tmp_path / ".b.01234567.unfinished").mkdir()  # another program may be making b
    (killed,) = finished([start("-c", KILLED, tmp_path / "a", moment, cache=tmp_path / "cache")])
    assert killed.returncode == -9, killed.stderr
    assert (tmp_path / "a" / "text").read_text() == expected
    assert len(names(tmp_path)) == 5  # and the lock, and what was not finished or removed
    make(tmp_path / "a", "next", overwrite=True)
    assert names(tmp_path) == [".a.unfinished", ".b.01234567.unfinished", "a"]
    assert "which a killed program had left" in caplog.text


def test_a_program_that_ends_removes_what_it_has_not_finished(tmp_path):
    with new_directory(tmp_path / "a", check=nothing_to_check) as directory:
        (directory / "text").write_text("half")
        remove_unfinished()
        assert names(tmp_path) == []
        directory.mkdir()


def test_what_a_thread_still_writes_is_removed(tmp_path):
    ended = threading.Event()

    def write(directory):
        number = 0
        with contextlib.suppress(FileNotFoundError):
            while not ended.is_set():
                (directory / str(number)).write_text("")
                number += 1

    for _ in range(20):
        with temporary_name(tmp_path / "a") as directory, ThreadPoolExecutor(1) as pool:
            directory.mkdir()
            pool.submit(write, directory)
            while len(names(directory)) < 50:
                pass
            remove_unfinished()
            ended.set()
            assert names(tmp_path) == []
        ended.clear()


KILLED_FILE = """
import os, pathlib, signal, sys
from jaxalign.data.atomic import new_file, temporary_name
with new_file(pathlib.Path(sys.argv[1])), temporary_name(pathlib.Path(sys.argv[1])) as temporary:
    temporary.mkdir()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@posix
def test_what_is_left_of_a_file_is_removed_by_the_next(tmp_path, caplog):
    (killed,) = finished([start("-c", KILLED_FILE, tmp_path / "a", cache=tmp_path / "cache")])
    assert killed.returncode == -9, killed.stderr
    (tmp_path / ".b.01234567.unfinished").touch()
    with new_file(tmp_path / "a"):
        with pytest.raises(UserError, match="another program is writing"), new_file(tmp_path / "a"):
            pass
        write_atomically(tmp_path / "a", lambda file: file.write(b"next"))
    assert names(tmp_path) == [".b.01234567.unfinished", "a"]
    assert "which a killed program had left" in caplog.text


@posix
def test_of_four_imports_at_once_one_succeeds(tmp_path):
    np.save(tmp_path / "rows.npy", np.ones((4, 3), np.float32))
    (tmp_path / "people.csv").write_text("identity\nann\nann\nbob\nbob\n")
    command = ("-m", "experiments.import_embeddings", "--embeddings=e=rows.npy", "--identities=people.csv")
    given = {"cache": tmp_path / "cache", "cwd": tmp_path}
    ended = finished([start(*command, "--out=store", **given) for _ in range(4)])
    assert sorted(done.returncode for done in ended) == [0, 2, 2, 2]
    for done in ended:
        if done.returncode:
            assert "holds a store already" in done.stderr or "another program is writing" in done.stderr
    assert EmbeddingStore.open(tmp_path / "store").rows == 4
    assert names(tmp_path) == ["people.csv", "rows.npy", "store"]


def test_a_store_with_other_files_is_not_replaced(tmp_path):
    rows, people = {"e": np.ones((2, 3), np.float32)}, ["ann", "bob"]
    store = EmbeddingStore.create(tmp_path / "store", rows, people)
    EmbeddingStore.create(store.path, rows, people, overwrite=True)
    for foreign in ("thesis.tex", "labels.npy"):
        (store.path / foreign).write_text("years of work")
        with pytest.raises(UserError, match=foreign):
            EmbeddingStore.create(store.path, rows, people, overwrite=True)
        (store.path / foreign).unlink()
    pathlib.Path(store.path / ".e.npy.01234567.unfinished").write_text("left by a kill")
    EmbeddingStore.create(store.path, rows, people, overwrite=True)
    assert names(store.path) == ["e.npy", "manifest.json", "samples.parquet"]
