"""Units of work: written whole, read back as they were, and a damaged or foreign file counts as missing."""

import json
import math
import os

import pytest
from processes import finished, start

from experiments.run.units import Units, digest
from jaxalign.core.errors import UserError
from jaxalign.data.atomic import remove_abandoned, write_atomically

CONTENT = {"rows": [["lfw", "a→b", None, 42, 0.1 + 0.2], ["lfw", "ü", 3, 1, math.nan]], "fits": []}


@pytest.fixture
def units(tmp_path):
    made = Units(tmp_path / "parts", "key")
    made.write("seed1-ridge", CONTENT)
    return made


def test_a_unit_comes_back_as_it_was(units):
    assert units.names() == ["seed1-ridge"]
    assert "seed1-ridge" in units
    assert "seed2-ridge" not in units
    assert repr(units.read("seed1-ridge")) == repr(CONTENT)
    assert os.listdir(units.directory) == ["seed1-ridge.json"]
    units.remove()
    assert units.names() == []


DAMAGE = {
    "cut short": lambda text: text[: len(text) // 2],
    "empty": lambda text: "",
    "no text": lambda text: "\udcff",
    "other JSON": lambda text: "[1, 2]",
    "a field gone": lambda text: json.dumps({**json.loads(text), "content": 1}),
    "another number": lambda text: text.replace("42", "43"),
    "another run's": lambda text: text.replace('"key"', '"other"'),
    "another unit's": lambda text: text.replace("seed1-ridge", "seed1-linear"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_or_foreign_file_is_named_and_can_be_written_again(damage, units):
    path = units.path("seed1-ridge")
    path.write_text(DAMAGE[damage](path.read_text()), errors="surrogateescape")
    assert units.names() == []
    with pytest.raises(UserError, match=path.name):
        units.read("seed1-ridge")
    units.write("seed1-ridge", CONTENT)
    assert units.names() == ["seed1-ridge"]


def test_the_directory_is_named_by_what_the_run_depends_on(tmp_path):
    described = {"l2": 0.1, "store": {"checksum": "ab"}}
    here = Units.beside(tmp_path / "out", described)
    assert here == Units.beside(tmp_path / "out", dict(reversed(described.items())))
    assert here != Units.beside(tmp_path / "out", {**described, "l2": 0.2})
    assert here.directory.parent == tmp_path
    assert here.directory.name == f"out.{digest(described)}.parts"


def test_a_disk_that_refuses_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file"):
        Units(tmp_path / "file", "key").write("name", CONTENT)


WRITE = """
import os, pathlib, signal, sys
from experiments.run.units import Units
directory, name, moment = sys.argv[1:]
setattr(os, moment, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
Units(pathlib.Path(directory), "key").write(name, {"rows": [[1.5] * 100_000]})
"""


@pytest.mark.skipif(os.name != "posix", reason="kills a process")
def test_a_writer_that_is_killed_leaves_a_whole_file_or_none(units, tmp_path):
    """Killed while the new content is on its way to the disk, and when only its name is missing."""
    cases = [(name, moment) for name in ("seed1-ridge", "seed2-ridge") for moment in ("fsync", "replace")]
    killed = finished([start("-c", WRITE, units.directory, *case, cache=tmp_path) for case in cases])
    assert [done.returncode for done in killed] == [-9] * len(cases)
    assert len(os.listdir(units.directory)) == 1 + len(cases)  # each left its unfinished file
    remove_abandoned(units.directory)
    assert len(os.listdir(units.directory)) == 1 + len(cases)  # nobody knows yet that they are gone
    grow_old(units.directory)
    remove_abandoned(units.directory)
    assert os.listdir(units.directory) == ["seed1-ridge.json"]
    assert units.names() == ["seed1-ridge"]
    assert repr(units.read("seed1-ridge")) == repr(CONTENT)


def grow_old(directory):
    for path in directory.glob(".*.unfinished"):
        os.utime(path, (0, 0))


@pytest.mark.skipif(os.name != "posix", reason="locks files")
def test_a_unit_that_is_being_written_is_not_removed_however_old_it_looks(tmp_path):
    def write(file):
        file.write(b"half")
        file.flush()
        grow_old(tmp_path)
        remove_abandoned(tmp_path)
        file.write(b" and half")

    write_atomically(tmp_path / "unit.json", write)
    assert (tmp_path / "unit.json").read_bytes() == b"half and half"
    assert os.listdir(tmp_path) == ["unit.json"]
