"""Tables as text, CSV, Markdown and LaTeX: numbers, bold, reasons, and names that are never markup."""

import csv
import io
import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.run import results
from jaxalign.report import Measure
from jaxalign.report.labels import file_stem, number, short_names, shown
from jaxalign.report.records import FORMULA
from jaxalign.report.tables import Cell, Column, Table, to_csv, to_latex, to_markdown, to_text

NAN = math.nan
COLUMNS = [Column("method"), *map(Column.of, (Measure("rank1"), Measure("eer"))), Column("people", "number")]
ROWS = [
    ["ridge_1", Cell(0.50049, 0.012), Cell(0.2), Cell(1500.0, low=1200.0, high=1800.0)],
    ["a & b", Cell(0.5001, 0.5), Cell(0.1), Cell(NAN, reason="never_reached")],
    ["=1+1", Cell(NAN, reason="singular"), None, Cell(20.0)],
]
TABLE = Table("t", "Methods_1", "Mean ± deviation, 5 %.", COLUMNS, ROWS)


def test_best_is_what_looks_best_and_never_what_has_no_number():
    assert TABLE.best() == {(0, 1), (1, 1), (1, 2)}  # 50.0 and 50.0 look the same; the lowest error rate
    assert Table("t", "", "", COLUMNS, ROWS[:1]).best() == set()


def test_csv_has_whole_numbers_and_reasons():
    lines = list(csv.reader(io.StringIO(to_csv(TABLE))))
    assert lines[0] == [
        *("method", "rank-1", "rank-1: standard deviation", "rank-1: reason", "EER"),
        *("people", "people: low", "people: high", "people: reason"),
    ]
    assert lines[1] == ["ridge_1", "0.50049", "0.012", "", "0.2", "1500.0", "1200.0", "1800.0", ""]
    assert lines[2] == ["a & b", "0.5001", "0.5", "", "0.1", "", "", "", "never_reached"]
    assert lines[3] == ["'=1+1", "", "", "singular", "", "20.0", "", "", ""]


def test_text_is_aligned_and_has_marks_intervals_and_reasons():
    table = Table("t", "Methods_1", "5 %.", COLUMNS, [*ROWS, ["b", Cell(0.25, doubtful=True), None, None]])
    assert to_text([table, table], title="Run").startswith("Run\n\nMethods_1. 5 %.\n\n")
    head, *rows = [line.split("  ") for line in to_text([table], width=80).splitlines()[2:7]]
    words = [[cell.strip() for cell in line if cell.strip()] for line in (head, *rows)]
    assert words[0] == ["method", "rank-1 (%)", "EER (%)", "people"]
    assert words[1] == ["ridge_1", "50.0 ± 1.2", "20.0", "1,500 (1,200 to 1,800)"]
    assert words[3] == ["=1+1", "n/a", "·", "20"]
    assert words[4] == ["b", "25.0*", "·", "·"]
    notes = ["n/a: never_reached.", "n/a: singular.", "*: at least one fit was numerically doubtful."]
    assert to_text([table]).splitlines()[-3:] == notes


def test_text_that_is_too_wide_goes_on_below_with_its_names():
    table = Table("t", "", "", [Column("name"), *(Column(f"number {k}", "number") for k in range(9))],
                  [["a", *map(Cell, range(9))], ["b\n", *map(Cell, range(10, 19))]])  # fmt: skip
    lines = to_text([table], width=40).splitlines()
    assert max(map(len, lines)) <= 40
    assert [line.split()[0] for line in lines if line.startswith(("a", "b"))] == ["a", "b\ufffd"] * 3
    numbers = [int(word) for line in lines if line.startswith("a") for word in line.split()[1:]]
    assert sorted(numbers) == [*range(9)]


def test_markdown():
    lines = to_markdown(TABLE).splitlines()
    assert lines[0] == r"**Methods\_1.** Mean ± deviation, 5 %."
    assert lines[2] == "| method | rank-1 \\(%\\) | EER \\(%\\) | people |"
    assert lines[3] == "| --- | ---: | ---: | ---: |"
    assert lines[4] == r"| ridge\_1 | **50.0** ± 1.2 | 20.0 | 1,500 (1,200 to 1,800) |"
    assert lines[5] == "| a &amp; b | **50.0** ± 50.0 | **10.0** | n/a |"
    assert lines[6] == r"| =1\+1 | n/a |  | 20 |"
    assert lines[8:] == [r"n/a: never\_reached.", "n/a: singular."]


def test_latex():
    lines = to_latex(TABLE).splitlines()
    assert r"\caption{Methods\_1. Mean \(\pm\) deviation, 5 \%. n/a: never\_reached. n/a: singular.}" in lines
    assert r"\begin{tabular}{lrrr}" in lines
    assert r"method & rank-1 (\%) & EER (\%) & people \\" in lines
    assert r"ridge\_1 & \textbf{50.0} \(\pm\) 1.2 & 20.0 & 1,500 (1,200 to 1,800) \\" in lines
    assert r"a \& b & \textbf{50.0} \(\pm\) 50.0 & \textbf{10.0} & n/a \\" in lines
    assert r"=1+1 & n/a &  & 20 \\" in lines


@pytest.mark.parametrize("letter", list("_%$#{}~^\\&"))
def test_special_letters_of_latex_are_text(letter):
    table = Table("t", "", "", [Column("x")], [[f"a{letter}b"]])
    line = to_latex(table).splitlines()[-4]
    kinds = {"\\": "textbackslash", "~": "textasciitilde", "^": "textasciicircum"}
    assert line == (rf"a\{kinds[letter]}{{}}b \\" if letter in kinds else rf"a\{letter}b \\")


@pytest.mark.parametrize(
    "name", ["=1+1", "+1", "-1+2", "@SUM(A1)", "  =1", "\u2003=1", '=HYPERLINK("http://x")']
)
def test_no_name_is_a_formula_to_a_spreadsheet(name):
    table = Table("t", "", "", [Column(name), Column("y", "number")], [[name, Cell(-1.0, reason="")]])
    for line in csv.reader(io.StringIO(to_csv(table))):
        assert line[0] == "'" + name
    assert line[1] == "-1.0"  # a negative number stays one


def test_pages_guard_what_results_guard(tmp_path):
    """Whatever opens a cell of results.csv as a formula opens none of a page's table."""
    for mark in FORMULA:
        results.write_csv(tmp_path / "r.csv", ("x",), [(f"{mark}1",)])
        page = to_csv(Table("t", "", "", [Column("x")], [[f"{mark}1"]]))
        for text in ((tmp_path / "r.csv").read_text(), page):
            cell = list(csv.reader(io.StringIO(text, newline="")))[1][0]
            assert not cell.startswith(FORMULA) and cell.endswith("1")


@given(st.lists(st.text(max_size=60), min_size=1, max_size=8, unique=True))
@settings(max_examples=60, deadline=None)
def test_any_names_stay_apart_and_on_one_line(names):
    short = short_names(names, 12)
    assert len(set(short.values())) == len(names)
    assert all(len(text) <= 12 and "\n" not in text for text in short.values())
    stems = {file_stem(name) for name in names}
    assert all(re.fullmatch(r"[A-Za-z][A-Za-z0-9._-]*", stem) for stem in stems)
    text = to_csv(Table("t", "", "", [Column("x")], [[name] for name in names]))
    read = [line[0] if line else "" for line in csv.reader(io.StringIO(text, newline=""))][1:]
    assert len(read) == len(names)
    assert not any(cell.lstrip(" ").startswith(tuple("=+-@\t\r")) for cell in read)


def test_long_names_keep_what_tells_them_apart():
    names = [f"organisation/a-long-name-{k}-with-the-same-end-everywhere" for k in (1, 2)]
    first, second = short_names(names).values()
    assert "1" in first and "2" in second
    (middle,) = short_names(["facenet_casia_webface_resnet50"]).values()
    assert middle == "facenet_cas…ace_resnet50"


def test_numbers_and_names_as_shown():
    written = {0.0: "0", 1234567.0: "1,234,567", -0.5: "−0.5", 0.12345: "0.123", 12.345: "12.3"}
    written |= {1234.5: "1,234", NAN: "n/a"}
    assert {value: number(value) for value in written} == written
    assert shown("a\nb\x00\u202ec") == "a\ufffdb\ufffd\ufffdc"
    assert file_stem("tmr@fmr=0.001") == "tmr-at-fmr-0.001"
    assert file_stem("a/b") != file_stem("a_b")
    assert "too few comparisons" in Cell(NAN).reason


def test_a_row_of_another_length_is_refused():
    with pytest.raises(ValueError, match="expected rows of 1 entries, got 2"):
        Table("t", "", "", [Column("x")], [["a", "b"]])
