"""The journal: what counts after a failure, and that one program has it at a time."""

import pathlib
from typing import Any

import numpy as np
import pytest
from numpy_encoders import NumpyEncoder, write_people

from jaxalign.core.errors import UserError
from jaxalign.vision.extract import extract
from jaxalign.vision.images import BadImage, Sample, open_images
from jaxalign.vision.journal import Journal

PLAN = {"encoders": {"a": 1}}
BAD = BadImage(Sample("bad", "p"), "it is bad")


@pytest.fixture
def out(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "store"


def open_journal(out: pathlib.Path, plan: Any = PLAN, afresh: bool = False) -> Journal:
    return Journal.open(out, plan, {"a": 2, "b": 3}, np.dtype(np.float32), afresh=afresh)


def rows(start: int, stop: int) -> dict[str, np.ndarray]:
    numbers = np.arange(start, stop, dtype=np.float32)[:, None]
    return {"a": numbers + [0, 0.5], "b": numbers * [1, 2, 3]}


def append(journal: Journal, start: int, stop: int, bad: int = 0) -> None:
    samples = [Sample(f"s{row}", f"p{row % 2}", None) for row in range(start, stop)]
    digests = [f"{row:032x}" for row in range(start, stop)]
    journal.append(samples, digests, rows(start, stop), [BAD] * bad, stop + bad)


def check(journal: Journal, count: int) -> None:
    expected = [(f"s{row}", f"p{row % 2}", None, f"{row:032x}") for row in range(count)]
    assert journal.samples() == expected
    for name, array in rows(0, count).items():
        np.testing.assert_array_equal(journal.embeddings()[name], array.astype(np.float32))


def test_what_was_checkpointed_is_there_again(out):
    journal = open_journal(out)
    append(journal, 0, 4, bad=1)
    journal.checkpoint()
    journal.close()
    journal = open_journal(out)
    assert (journal.stop, journal.rows, journal.bad) == (5, 4, 1)
    append(journal, 4, 7)
    check(journal, 7)
    journal.remove()
    journal.close()
    assert list(out.parent.iterdir()) == []


def test_what_came_after_the_checkpoint_does_not_count(out):
    journal = open_journal(out)
    append(journal, 0, 4)
    journal.checkpoint()
    append(journal, 4, 9)
    journal.close()
    journal = open_journal(out)
    assert (journal.stop, journal.rows) == (4, 4)
    append(journal, 4, 6)
    check(journal, 6)
    journal.close()


def test_half_a_batch_does_not_count(out):
    journal = open_journal(out)
    append(journal, 0, 4)
    with pytest.raises(KeyError):
        journal.append([Sample("s4", "p0")], ["0"], {**rows(4, 5), "c": np.zeros((1, 2))}, [], 5)
    journal.checkpoint()
    journal.close()
    journal = open_journal(out)
    assert (journal.stop, journal.rows) == (4, 4)
    check(journal, 4)
    journal.close()


def test_a_checkpoint_comes_by_itself(out, monkeypatch):
    monkeypatch.setattr("jaxalign.vision.journal.SECONDS", 0)
    journal = open_journal(out)
    append(journal, 0, 4)
    append(journal, 4, 5)
    journal.close()
    journal = open_journal(out)
    assert journal.rows == 5
    journal.close()


def test_another_plan_is_refused_or_replaces(out):
    journal = open_journal(out)
    append(journal, 0, 4)
    journal.checkpoint()
    journal.close()
    with pytest.raises(UserError, match=r"\.store\.unfinished holds an unfinished run with other") as refused:
        open_journal(out, {"encoders": {"a": 2}})
    assert "delete that directory" in str(refused.value)
    journal = open_journal(out)  # although the refusal, and what it held, is still referred to
    assert journal.rows == 4
    journal.close()
    journal = open_journal(out, {"encoders": {"a": 2}}, afresh=True)
    assert journal.rows == 0 and journal.samples() == []
    journal.close()


def test_files_without_a_plan_mean_nothing(out):
    """As a kill leaves them while they are thrown away."""
    journal = open_journal(out)
    append(journal, 0, 4)
    journal.checkpoint()
    journal.close()
    (journal.directory / "plan.json").unlink()
    journal = open_journal(out, {"encoders": "others"})
    assert journal.rows == 0
    append(journal, 0, 2)
    check(journal, 2)
    journal.close()


@pytest.mark.parametrize("damage", ["cut short", "flipped", "gone", "of another place"])
def test_a_damaged_piece_and_what_follows_it_are_done_again(out, damage):
    journal = open_journal(out)
    for start in (0, 4, 8):
        append(journal, start, start + 4)
        journal.checkpoint()
    journal.close()
    path = sorted(journal.directory.glob("*.npz"))[1]
    content = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    elif damage == "of another place":
        path.write_bytes(path.with_name("000000000000.npz").read_bytes())
    else:
        content[len(content) // 2] ^= 255
        path.write_bytes(content[: len(content) // 2] if damage == "cut short" else content)
    journal = open_journal(out)
    assert (journal.stop, journal.rows) == (4, 4)
    append(journal, 4, 9)
    check(journal, 9)
    journal.close()


def test_a_damaged_plan_is_one_sentence(out):
    journal = open_journal(out)
    append(journal, 0, 4)
    journal.checkpoint()
    journal.close()
    (journal.directory / "plan.json").write_text('{"stop"')
    with pytest.raises(UserError, match=r"plan\.json is damaged"):
        open_journal(out)
    open_journal(out, afresh=True).close()


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_second_program_is_refused_and_harms_nothing(tmp_path, out, overwrite):
    write_people(tmp_path / "faces", 2, 4)
    journal = open_journal(out)
    append(journal, 0, 4)
    journal.checkpoint()
    with pytest.raises(UserError, match="another program is embedding into it; wait until it ends"):
        extract(open_images(f"folder:{tmp_path / 'faces'}"), [NumpyEncoder()], out, overwrite=overwrite)
    append(journal, 4, 6)
    check(journal, 6)
    journal.close()


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written: Not a directory|cannot be written: File exists"):
        open_journal(tmp_path / "file" / "store")
