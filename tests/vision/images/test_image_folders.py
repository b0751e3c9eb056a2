"""Photographs in folders and in CSV files."""

import csv
import dataclasses
import os
import pathlib
import shutil
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import noise, people_folder, write

from jaxalign.core.errors import UserError
from jaxalign.vision.images import SOURCES, ImageSource, SourceOptions, decode, open_images
from jaxalign.vision.images.open import FolderSource


def _ids(source: ImageSource) -> list[str]:
    return [sample.sample_id for sample in source.samples or ()]


def _people(source: ImageSource) -> list[str]:
    return [sample.identity for sample in source.samples or ()]


def test_a_folder_per_person(tmp_path: pathlib.Path) -> None:
    folder = people_folder(tmp_path / "faces", 2, 2)
    (folder / "p1" / "notes.txt").write_text("not a picture")
    (folder / "list.txt").write_text("not a picture either")
    (folder / "nobody").mkdir()
    write(folder / "p1" / ".hidden.png")
    write(folder / ".cache" / "0.png")
    source = open_images(f"folder:{folder}")
    assert source.dataset == "faces"
    assert _ids(source) == ["p0/0.png", "p0/1.png", "p1/0.png", "p1/1.png"]
    assert _people(source) == ["p0", "p0", "p1", "p1"]
    for start in range(5):
        pictures = list(source.pictures(start))
        assert [picture.sample for picture in pictures] == list(source.samples or ())[start:]
        assert [int(decode(picture.load())[0, 0, 0]) for picture in pictures] == [0, 1, 10, 11][start:]


def test_folders_below_a_person_belong_to_the_person(tmp_path: pathlib.Path) -> None:
    for path in ("b/frontal/02.JPG", "b/frontal/10.jpeg", "b/profile/1.PNG", "a/1.webp"):
        write(tmp_path / path)
    source = open_images(f"folder:{tmp_path}")
    assert _ids(source) == ["a/1.webp", "b/frontal/02.JPG", "b/frontal/10.jpeg", "b/profile/1.PNG"]
    assert _people(source) == ["a", "b", "b", "b"]


def test_people_whose_folders_differ_by_case_are_two(tmp_path: pathlib.Path) -> None:
    write(tmp_path / "Ann" / "1.png")
    write(tmp_path / "ann" / "1.png")
    if len(os.listdir(tmp_path)) == 1:
        pytest.skip("this file system knows no case")
    source = open_images(f"folder:{tmp_path}")
    assert _people(source) == ["Ann", "ann"] and _ids(source) == ["Ann/1.png", "ann/1.png"]


LETTERS = st.characters(codec="utf-8", exclude_characters="/\0\n", exclude_categories=["Cs"])
NAMES = st.text(LETTERS, min_size=1).filter(
    lambda name: name.isprintable() and name[0] != "." and unicodedata.normalize("NFC", name).strip() == name
)


@settings(max_examples=40, deadline=None)
@given(st.sets(NAMES, min_size=2, max_size=5))
def test_any_name_of_a_person(tmp_path_factory: pytest.TempPathFactory, names: set[str]) -> None:
    names = {name for name in names if len(name.encode()) < 200}
    folder = tmp_path_factory.mktemp("people")
    for name in names:
        write(folder / name / "1.png")
    if len(names) >= 2:
        assert _people(open_images(f"folder:{folder}")) == sorted(names)
    shutil.rmtree(folder)


def test_links_in_circles_end(tmp_path: pathlib.Path) -> None:
    people_folder(tmp_path / "faces", 2, 1)
    (tmp_path / "faces" / "p0" / "again").symlink_to(tmp_path / "faces" / "p0")
    (tmp_path / "faces" / "p2").symlink_to(tmp_path / "faces" / "p1")
    assert _ids(open_images(f"folder:{tmp_path / 'faces'}")) == ["p0/0.png", "p1/0.png"]


def test_what_is_passed_over_is_noted_with_its_number(tmp_path: pathlib.Path) -> None:
    folder = people_folder(tmp_path / "faces", 2, 1)
    for name in ("@eaDir", "#recycle", "__MACOSX", ".thumbnails", "p0/@eaDir"):
        write(folder / name / "0.png")
    (folder / "linked").symlink_to(folder / "p0")
    (folder / "p1" / "gone.jpg").symlink_to(folder / "missing.jpg")
    for name in ("pipe.jpg", "pipe"):  # the second is nothing that anybody could take for a photograph
        os.mkfifo(folder / "p1" / name)
    for name in ("1.heic", "2.HEIC", "3.avif"):
        (folder / "p1" / name).write_bytes(b"")
    source = FolderSource(folder)
    assert _ids(source) == ["p0/0.png", "p1/0.png"]
    told = "\n".join(source.notes)
    for words in (
        "5 hidden folders and",
        "1 links to folders",
        "3 photographs are in formats",
        "1 links to files",
        "1 pipes, sockets or devices",
    ):
        assert words in told
    assert len(source.notes) == 5 and "magick mogrify" in told
    assert FolderSource(people_folder(tmp_path / "plain", 2, 1)).notes == ()


def test_people_may_lie_a_folder_deeper(tmp_path: pathlib.Path) -> None:
    for path in ("train/ann/1.png", "train/bob/1.png", "test/cid/1.png", "test/cid/2.png"):
        write(tmp_path / path)
    (note,) = FolderSource(tmp_path).notes
    assert note.startswith("2 folders of people hold folders") and "folder:DIR?depth=2" in note
    source = open_images(f"folder:{tmp_path}?depth=2")
    assert _people(source) == ["cid", "cid", "ann", "bob"] and _ids(source)[0] == "test/cid/1.png"
    with pytest.raises(UserError, match=r"2 photographs lie in no person's folder \(first: 1\.png\)"):
        open_images(f"folder:{tmp_path}?depth=3")
    with pytest.raises(UserError, match="depth is a whole number from 1 to 8, got 'two'"):
        open_images(f"folder:{tmp_path}?depth=two")


def test_one_person_spelled_in_two_ways(tmp_path: pathlib.Path) -> None:
    for name in ("Zoe\u0308", "Zo\u00eb", "Bob ", "Cid"):
        write(tmp_path / name / f"{len(name)}.png")
    source = FolderSource(tmp_path)
    assert set(_people(source)) == {"Zo\u00eb", "Bob", "Cid"} and len(set(_ids(source))) == 4
    (note,) = source.notes
    assert note.startswith("2 folders have names that differ only in blanks or in Unicode's form")


def test_folders_that_cannot_be_used(tmp_path: pathlib.Path) -> None:
    def error(folder: pathlib.Path) -> str:
        with pytest.raises(UserError) as caught:
            open_images(f"folder:{folder}")
        assert "\n" not in str(caught.value)
        return str(caught.value)

    for name in ("empty", "text", "pictureless/ann"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "text" / "a.txt").write_text("")
    write(tmp_path / "flat" / "1.png")
    assert "is missing" in error(tmp_path / "none")
    assert "is not a folder" in error(write(tmp_path / "file.png"))
    assert "is empty" in error(tmp_path / "empty")
    assert "1 photograph lies in no person's folder (first: 1.png)" in error(tmp_path / "flat")
    assert "holds no folders" in error(tmp_path / "text")
    assert "none of its 1 folders (first: ann) holds a photograph" in error(tmp_path / "pictureless")
    assert "at least two people" in error(people_folder(tmp_path / "one", 1))


def test_a_folder_that_may_not_be_read(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests may run as root, whom no permission stops, so the refusal is made here."""
    folder, scandir = people_folder(tmp_path, 2, 1), os.scandir

    def refusing(path: str):
        if os.fspath(path).endswith("p1"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(UserError, match=r"p1 cannot be read: Permission denied"):
        FolderSource(folder)


def test_a_name_that_is_not_utf_8(tmp_path: pathlib.Path) -> None:
    people_folder(tmp_path, 2, 1)
    try:
        os.mkdir(os.fsencode(tmp_path) + b"/\xff")
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    write(tmp_path / os.fsdecode(b"\xff") / "1.png")
    with pytest.raises(UserError, match="is not text in UTF-8"):
        open_images(f"folder:{tmp_path}")


@pytest.mark.parametrize("spec", ["", "folder", "folder:", "zip:x.zip", ":x", "relative/path"])
def test_unknown_specifications_name_the_forms(spec: str, tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError) as caught:
        open_images(spec)
    assert all(row.form in str(caught.value) for row in SOURCES.values())
    with pytest.raises(UserError, match=f"Did you mean folder:{tmp_path}"):
        open_images(str(tmp_path))


def test_options_that_mean_nothing(tmp_path: pathlib.Path) -> None:
    folder = people_folder(tmp_path)
    with pytest.raises(UserError, match="split means nothing to images given as folder:DIR"):
        open_images(f"folder:{folder}", SourceOptions(split="train"))
    with pytest.raises(UserError, match="streaming means nothing to images given as csv:FILE"):
        open_images(f"csv:{folder}/x.csv", SourceOptions(streaming=True))


def _write_csv(path: pathlib.Path, *rows: tuple) -> str:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return f"csv:{path}"


def test_a_csv(tmp_path: pathlib.Path) -> None:
    people_folder(tmp_path / "faces", 2, 2)
    outside = write(tmp_path / "elsewhere" / "x.png", noise())
    spec = _write_csv(
        tmp_path / "mine.csv",
        ("identity", "path", "age"),
        ("bob", "faces/p1/0.png", 30),
        ("ann, the second", "faces/p0/1.png", 40),
        ("bob", str(outside), 50),
    )
    source = open_images(spec)
    assert source.dataset == "mine"
    assert _ids(source) == ["faces/p1/0.png", "faces/p0/1.png", str(outside)]
    assert _people(source) == ["bob", "ann, the second", "bob"]
    assert [dict(sample.further) for sample in source.samples or ()] == [
        {"age": age} for age in ("30", "40", "50")
    ]
    loaded = [decode(picture.load()) for picture in source.pictures(1)]
    assert loaded[0][0, 0, 0] == 1
    np.testing.assert_array_equal(loaded[1], noise())


def test_a_csv_with_own_columns_and_landmarks(tmp_path: pathlib.Path) -> None:
    people_folder(tmp_path, 2, 2)
    columns = ("file", "who", "sample_id", *(f"{axis}{k}" for k in range(1, 6) for axis in "xy"))
    spec = _write_csv(
        tmp_path / "mine.csv",
        columns,
        ("p0/0.png", "a", "first", *range(10)),
        ("p1/0.png", "b", "second", *[""] * 10),
    )
    options = SourceOptions(image_column="file", identity_column="who")
    source = open_images(spec, options)
    assert _ids(source) == ["first", "second"]
    first, second = (picture.landmarks for picture in source.pictures())
    assert first is not None and second is None
    np.testing.assert_array_equal(first, np.arange(10.0).reshape(5, 2))
    by_file = dataclasses.replace(options, sample_id_column="file")
    assert _ids(open_images(spec, by_file)) == ["p0/0.png", "p1/0.png"]


HEAD, GOOD = ("path", "identity"), ("p0/0.png", "a")
MISSING = r"2 of its 3 photographs are missing \(first: .*p0/9.png of line 3\)"
CSV_ERRORS = {
    "no lines": ([], "lists no photographs"),
    "header only": ([HEAD], "lists no photographs"),
    "no identity": ([("path", "name"), GOOD], "has no column 'identity'; its first line names path, name"),
    "no path": ([("photo", "identity"), GOOD], "has no column 'path'"),
    "missing files": ([HEAD, GOOD, ("p0/9.png", "b"), ("p0/8.png", "b")], MISSING),
    "a folder": ([HEAD, ("p0", "b")], "1 of its 1 photographs are missing"),
    "empty person": ([HEAD, GOOD, ("p1/0.png", " ")], "line 3: the column identity is empty"),
    "short line": ([HEAD, GOOD, ("p1/0.png",)], "line 3: expected 2 values"),
    "long line": ([HEAD, GOOD, ("p1/0.png", "b", "c")], "line 3: expected 2 values"),
    "twice": ([HEAD, GOOD, ("p1/0.png", "b"), GOOD], "lines 2 and 4 both name the sample 'p0/0.png'"),
    "one person": ([HEAD, GOOD, ("p1/0.png", "a")], "at least two people"),
    "bad landmarks": ([(*HEAD, "landmarks"), (*GOOD, "1"), ("p1/0.png", "b", "")], "line 2: expected 10"),
    "columns twice": ([("path", *HEAD), (*GOOD, "b")], "two columns have one name"),
}


@pytest.mark.parametrize("name", CSV_ERRORS)
def test_csv_files_that_cannot_be_used(tmp_path: pathlib.Path, name: str) -> None:
    people_folder(tmp_path, 2, 1)
    rows, expected = CSV_ERRORS[name]
    with pytest.raises(UserError, match=expected) as caught:
        open_images(_write_csv(tmp_path / "list.csv", *rows))
    assert "\n" not in str(caught.value)


def test_csv_files_that_are_none(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match=r"none.csv is missing"):
        open_images(f"csv:{tmp_path}/none.csv")
    with pytest.raises(UserError, match=r"is not a list of images in UTF-8"):
        open_images(f"csv:{write(tmp_path / 'a.png')}")


def test_real_photographs(shared: pathlib.Path) -> None:
    att = open_images(f"folder:{shared / 'data' / 'att_photos'}")
    assert len(_ids(att)) == 380 and len(set(_people(att))) == 38
    assert decode(next(att.pictures(100)).load()).shape == (160, 160, 3)
    lfw = open_images(f"folder:{shared / 'data' / 'lfw_photos'}")
    assert len(_ids(lfw)) == 480 and decode(next(lfw.pictures()).load()).shape == (250, 250, 3)


WRITTEN = {
    "semicolons": "\ufefffilename;label\np0\\0.png;Ann \np1/0.png;Bo\n",
    "tabs": "image\tperson\np0/0.png\tAnn\np1/0.png\tBo\n",
    "decomposed": "file,subject\np0/0.png,Ann\u200b\np1/0.png,Bo\n",
}


@pytest.mark.parametrize("content", WRITTEN.values(), ids=WRITTEN)
def test_lists_as_programs_write_them(tmp_path: pathlib.Path, content: str) -> None:
    for person in ("p0", "p1"):
        write(tmp_path / person / "0.png")
    (tmp_path / "list.csv").write_text(content, encoding="utf-8")
    samples = open_images(f"csv:{tmp_path}/list.csv").samples
    assert [(sample.sample_id, sample.identity) for sample in samples or ()] == [
        ("p0/0.png", "Ann"),
        ("p1/0.png", "Bo"),
    ]


def test_missing_files_of_a_list_are_left_to_skipping_where_that_is_asked_for(tmp_path: pathlib.Path) -> None:
    write(tmp_path / "a.png")
    (tmp_path / "list.csv").write_text("path,identity\na.png,Ann\nb.png,Bo\n")
    with pytest.raises(UserError, match="1 of its 2 photographs are missing"):
        open_images(f"csv:{tmp_path}/list.csv")
    source = open_images(f"csv:{tmp_path}/list.csv", SourceOptions(bad_images="skip"))
    with pytest.raises(OSError):
        list(source.pictures())[1].load()
