"""Pair lists: LFW's format and CSV read to the letter, the published sample drawn evenly."""

import itertools
import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxalign.biometrics.pair_lists import PairList, published_pairs, read_lfw_pairs, read_pairs_csv
from jaxalign.core.errors import UserError, UserNote
from jaxalign.core.people import published_split
from jaxalign.data import EmbeddingStore

IDENTITIES = ["Ann_Lee", "Ann_Lee", "Bo", "Bo", "Bo", "Cy_Jr."]
SAMPLES = ["Ann_Lee_0001", "Ann_Lee_0002", "Bo_0001", "Bo_0002", "Bo_0010", "Cy_Jr._0001"]
LIST = "2\t1\nAnn_Lee\t1\t2\nBo\t10\tCy_Jr.\t1\nBo\t1\t10\nAnn_Lee\t2\tBo\t2\n"

NAMINGS = {
    "bare": SAMPLES,
    "suffix": [f"{name}.jpg" for name in SAMPLES],
    "folder": [f"{person}/{name}.JPEG" for person, name in zip(IDENTITIES, SAMPLES)],
    "deep": [f"/data/lfw/{person}/{name}.png" for person, name in zip(IDENTITIES, SAMPLES)],
    "windows": [f"{person}\\{name}.bmp" for person, name in zip(IDENTITIES, SAMPLES)],
    "number": [f"{person}/{int(name[-4:])}" for person, name in zip(IDENTITIES, SAMPLES)],
    "digits": [f"{person}/{name[-3:]}" for person, name in zip(IDENTITIES, SAMPLES)],
    "padded number": [f"{person}/{name[-3:]}.jpg" for person, name in zip(IDENTITIES, SAMPLES)],
}


def write(tmp_path, text, name="pairs.txt"):
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def as_tuples(pairs):
    return list(zip(*(part.tolist() for part in (pairs.left, pairs.right, pairs.genuine, pairs.fold))))


@pytest.mark.parametrize("naming", NAMINGS)
@pytest.mark.parametrize(
    "text", [LIST, LIST.replace("\t", "  "), LIST.replace("\n", "\r\n"), "\ufeff" + LIST + "\n"]
)
def test_lfw_list_is_read_however_samples_are_called(tmp_path, naming, text):
    pairs = read_lfw_pairs(write(tmp_path, text), IDENTITIES, NAMINGS[naming])
    assert as_tuples(pairs) == [(0, 1, True, 0), (4, 5, False, 0), (2, 4, True, 1), (1, 3, False, 1)]
    assert [part.dtype for part in (pairs.left, pairs.genuine, pairs.fold)] == [np.int64, bool, np.int32]


def test_lfw_list_of_one_fold_has_the_number_of_pairs_alone(tmp_path):
    text = "2\nAnn_Lee\t1\t2\nBo\t1\t2\nAnn_Lee\t1\tBo\t1\nAnn_Lee\t2\tBo\t2\n"
    pairs = read_lfw_pairs(write(tmp_path, text), IDENTITIES, SAMPLES)
    assert as_tuples(pairs) == [(0, 1, True, 0), (2, 3, True, 0), (0, 2, False, 0), (1, 3, False, 0)]


def test_genuine_line_of_two_people_is_refused(tmp_path):
    with pytest.raises(UserError, match="line 2: Ann_Lee_0001 and Ann_Lee_0002"):
        read_lfw_pairs(write(tmp_path, LIST), ["Ann", "Lee", *IDENTITIES[2:]], SAMPLES)


def test_a_name_that_two_samples_share_is_refused(tmp_path):
    samples = ["old/Ann_Lee_0001.jpg", *NAMINGS["folder"][1:-1], "new/Ann_Lee_0001.png"]
    path = write(tmp_path, "1\nAnn_Lee\t1\t2\nAnn_Lee\t2\tBo\t1\n")
    with pytest.raises(UserError, match=r"'old/Ann_Lee_0001.jpg' or 'new/Ann_Lee_0001.png'"):
        read_lfw_pairs(path, IDENTITIES, samples)
    samples[-1] = "Ann_Lee_0001"  # whose whole name this is
    assert read_lfw_pairs(path, ["Ann_Lee"] * 2 + ["Bo"] * 3 + ["Ann_Lee"], samples).left.tolist() == [5, 1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("left,right\nAnn_Lee_0001,Ann_Lee_0002\nBo_0001,Cy_Jr._0001\n", [(0, 1, True, 0), (2, 5, False, 0)]),
        (
            "fold,genuine,right,left\n3,yes, Bo_0002 ,Bo_0001\n4,0,Bo_0001,Ann_Lee_0001\n",
            [(2, 3, True, 3), (0, 2, False, 4)],
        ),
        ('left,right,note\r\n"Bo_0001","Bo_0002","a, b"\r\n', [(2, 3, True, 0)]),
    ],
)
def test_csv_of_pairs(tmp_path, text, expected):
    assert as_tuples(read_pairs_csv(write(tmp_path, text, "pairs.csv"), IDENTITIES, SAMPLES)) == expected


REFUSED = {
    read_lfw_pairs: [
        ("", "first line"),
        ("left,right\n", "first line"),
        ("0 300\n", "first line"),
        ("2\t2\nAnn_Lee\t1\t2\n", "8 lines; 1 follow"),
        (LIST + "Bo\t1\t2\n", "4 lines; 5 follow"),
        (LIST.replace("Bo\t1\t10", "Bo\t1\tBo\t10"), "line 4"),
        (LIST.replace("Bo\t10\tCy_Jr.\t1", "Bo\t10\t1"), "line 3"),
        (LIST.replace("Bo\t1\t10", "Bo\tone\t10"), "line 4"),
        (LIST.replace("Bo\t1\t10", "Bo\t7\t8"), "'Bo_0007'"),
        (LIST.replace("Bo\t10\tCy_Jr.\t1", "Bo\t10\tBo\t1"), "line 3"),
        (LIST.replace("Bo\t1\t10", "Bo\t1\t1"), "line 4"),
        (b"2\t1\n\xff\xfe\n", "UTF-8"),
        (None, "is missing"),
    ],
    read_pairs_csv: [
        ("", "columns left,right"),
        ("a,b\n", "columns left,right"),
        ("left,right\n", "no pairs"),
        ("left,right\nBo_0001\n", "line 2: expected 2 values"),
        ("left,right\nBo_0001,Bo_0002,3\n", "line 2: expected 2 values"),
        ("left,right,genuine\nBo_0001,Bo_0002,maybe\n", "line 2: expected 1 or 0"),
        ("left,right,genuine\nBo_0001,Bo_0002,0\n", "line 2: Bo_0001 and Bo_0002"),
        ("left,right,fold\nBo_0001,Bo_0002,-1\n", "line 2: column fold"),
        ("left,right\nBo_0001,Di_0001\n", "'Di_0001'"),
    ],
}


@pytest.mark.parametrize(
    ("reader", "text", "words"), [(how, *bad) for how in REFUSED for bad in REFUSED[how]]
)
def test_lists_are_refused_naming_the_file_and_line(tmp_path, reader, text, words):
    path = tmp_path / "nowhere" if text is None else write(tmp_path, text)
    with pytest.raises(UserError, match=f"^{re.escape(str(path))}.*{re.escape(words)}"):
        reader(path, IDENTITIES, SAMPLES)


def test_pairs_among_rows_are_renumbered():
    pairs = PairList(
        np.array([0, 2, 4]), np.array([1, 3, 9]), np.array([True, False, True]), np.array([0, 1, 2])
    )
    assert as_tuples(pairs.among([9, 3, 4, 2])) == [(3, 1, False, 1), (2, 0, True, 2)]
    assert len(pairs.among([])) == 0
    assert len(pairs.among([0, 2, 100])) == 0


@given(
    st.lists(st.integers(0, 4), min_size=2, max_size=25).filter(lambda p: 1 < len(set(p)) < len(p)),
    st.integers(0, 99),
)
def test_published_sample_has_every_genuine_pair_and_as_many_impostors(person, seed):
    pairs = published_pairs([f"p{number}" for number in person], seed)
    genuine = [(i, j) for i, j in itertools.combinations(range(len(person)), 2) if person[i] == person[j]]
    half = len(genuine)
    assert list(zip(pairs.left[:half].tolist(), pairs.right[:half].tolist())) == genuine
    assert pairs.genuine.tolist() == [True] * half + [False] * half
    assert all(person[i] != person[j] for i, j in zip(pairs.left[half:], pairs.right[half:]))
    assert pairs.fold.tolist() == [0] * 2 * half


def test_impostors_are_drawn_evenly():
    # 100 rows of one person, one each of 3 others: drawing people first would not be even over pairs of rows.
    person = np.array([7] * 100 + [1, 2, 3])
    pairs = published_pairs(person, 5)
    left, right = pairs.left[~pairs.genuine], pairs.right[~pairs.genuine]
    counts = np.zeros((103, 103))
    np.add.at(counts, (left, right), 1)
    possible = person[:, None] != person[None, :]
    assert possible.sum() == 2 * 300 + 6 and counts[~possible].sum() == 0
    expected = len(left) / possible.sum()
    chi_square = ((counts[possible] - expected) ** 2 / expected).sum()
    assert abs(chi_square - possible.sum()) < 5 * np.sqrt(2 * possible.sum())


def test_published_sample_depends_on_the_seed_in_its_impostors_only():
    identities = np.repeat(np.arange(30), 4)
    first, same, other = (published_pairs(identities, seed) for seed in (1, 1, 2))
    assert as_tuples(first) == as_tuples(same)
    assert as_tuples(first)[:180] == as_tuples(other)[:180]
    assert as_tuples(first)[180:] != as_tuples(other)[180:]


def test_copies_of_an_image_are_no_genuine_pair():
    pairs = published_pairs(["a", "a", "a", "b", "b"], 1, images=[0, 0, 1, 2, 2])
    assert as_tuples(pairs)[:2] == [(0, 2, True, 0), (1, 2, True, 0)] and len(pairs) == 4


def test_published_sample_of_lfw_dev_has_the_genuine_pairs_of_the_reference(shared, lfw_dev):
    identities = EmbeddingStore.open(lfw_dev, encoders=["dlib_resnet"], verify=False).identities
    pairs = published_pairs(identities[published_split(identities, 42).test], 42)
    rows = json.loads((shared / "data" / "reference.json").read_text())["rows"]
    # The reference compares ordered pairs, i with j and j with i.
    assert {row["verification"]["genuine"] for row in rows} == {2 * int(pairs.genuine.sum())} == {34170}


@pytest.mark.parametrize(
    ("identities", "seed", "sentence"),
    [
        (["a", "b"], 1, "each of the 2 people has one image"),
        (["a", "a"], 1, "all 2 images are of one person"),
        (["a", "a", "b"], -1, "seed must be a whole number"),
    ],
)
def test_published_sample_refuses(identities, seed, sentence):
    with pytest.raises(UserError, match=sentence):
        published_pairs(identities, seed)


@pytest.mark.parametrize("separator", [";", "\t"])
def test_lists_of_pairs_as_other_programs_write_them(tmp_path, separator):
    names, people = ["a/1.jpg", "a/2.jpg", "b/1.jpg"], ["Ann", "Ann ", "Bo"]
    lines = [("left", "right"), ("a\\1.jpg", " a/2.jpg"), ("a/1.jpg", "b/1.jpg\u200b")]
    text = "\ufeff" + "\r\n".join(separator.join(line) for line in lines)
    (tmp_path / "pairs.csv").write_text(text, encoding="utf-8")
    with pytest.warns(UserNote, match="3 identities are 2"):
        pairs = read_pairs_csv(tmp_path / "pairs.csv", people, names)
    assert pairs.genuine.tolist() == [True, False]
