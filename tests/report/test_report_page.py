"""The page as text: everything in it, nothing from elsewhere, and no name that becomes markup."""

import collections
import dataclasses
import html.parser
import json
import re
import xml.dom.minidom
from typing import Any

import made_results
import pytest

from jaxalign.align.methods import SOLVERS
from jaxalign.analysis.geometry import SIMILARITIES
from jaxalign.analysis.stability import MEASURES as AGREEMENTS
from jaxalign.report.definitions import METHODS, define
from jaxalign.report.figures.drawing import new_figure, picture, styled
from jaxalign.report.page import remarks
from jaxalign.report.part import CONTROLS, Part
from jaxalign.report.records import Row

VOID = {"meta", "link", "br", "img", "input", "hr"}


class Reader(html.parser.HTMLParser):
    """Collects elements with their attributes, and the text inside the elements of each name."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = collections.defaultdict(str)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        self.open += [tag] if tag not in VOID else []

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data):
        if self.open:
            self.text[self.open[-1]] += data

    def count(self, name: str) -> int:
        return sum(tag == name for tag, _ in self.elements)


@pytest.fixture(scope="module")
def text(report):
    return (report / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(text):
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []  # every element is closed
    return reader


def test_nothing_comes_from_elsewhere(page, text):
    assert not re.search(r"(src|href|action|data)\s*=\s*[\"']?(https?:)?//", text)
    assert "@import" not in text
    attributes = [each for _, found in page.elements for each in found.items()]
    links = [value for name, value in attributes if name.endswith(("href", "src")) and value]
    assert links and all(link.startswith(("#", "data:")) for link in links)
    (policy,) = [a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; ")


def test_names_are_text_wherever_they_stand(page, text):
    assert page.count("script") == 1
    assert "alert" not in page.text["script"]
    assert "img" not in {tag for tag, _ in page.elements}
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert text.count("<script>alert") == 0
    shown = " ".join(page.text.values())
    for name in (*made_results.HOSTILE[:4], made_results.HOSTILE_DATASETS[0]):
        assert name in shown


def test_ids_are_unique_and_links_lead_somewhere(page):
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in page.elements:
        for name in ("href", "xlink:href", "aria-labelledby"):
            target = attributes.get(name)
            if target and not target.startswith("data:"):
                assert target.lstrip("#") in ids


def test_every_figure_says_what_it_shows_in_numbers(page):
    figures = [attributes for tag, attributes in page.elements if tag == "svg"]
    assert len(figures) == page.count("figure") > 20
    for figure in figures:
        words = figure["aria-label"]
        assert figure["role"] == "img" and len(words) > 40
        assert len(re.findall(r"\d+(\.\d+)?", words)) >= 2, words


def test_reasons_stand_beside_what_has_no_number(text):
    for reason in (made_results.SINGULAR, made_results.UNSUPPORTED, "the network did not converge",
                   "fewer than 10 neighbours", "99 % of the final value is not reached"):  # fmt: skip
        assert reason in text
    assert f"Not there: capacity-{made_results.HOSTILE_DATASETS[1]}." in text


def test_there_is_a_section_for_every_driver(page):
    heads = page.text["h2"]
    for words in ("Summary", "Pairs of encoders", "From one data set to another", "Families of encoders",
                  "Geometry of the spaces", "How many people", "How many dimensions", "How strong a penalty",
                  "Is more capacity worth it?", "Do the same people", "How to reproduce it"):  # fmt: skip
        assert words in heads


def test_each_figure_and_table_is_a_file_too(report, page):
    tables = {path.stem for path in (report / "tables").iterdir()}
    assert page.count("table") == len(tables)
    for suffix in (".csv", ".tex", ".md"):
        assert {path.stem for path in (report / "tables").iterdir() if path.suffix == suffix} == tables
    figures = list((report / "figures").iterdir())
    for path in figures:
        if path.suffix == ".svg":
            xml.dom.minidom.parse(str(path))  # well formed, hostile names or not
            assert path.with_suffix(".png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert len(figures) == 2 * page.count("svg")


def test_the_report_records_what_it_was_made_of(report, tree):
    config = json.loads((report / "config.json").read_text())
    assert config["driver"] == "report"
    assert config["config"]["parts"] == [part.name for part in tree.parts]


def test_a_figure_in_a_page_keeps_names_and_changes_only_its_colours():
    name = '<b id="x" style="fill: #1b1f24">&$x$'
    with styled():
        figure = new_figure(2, 2)
        figure.text(0.1, 0.5, name)
        drawn = picture(figure, "a b/c", title="t", caption="c", alt='5 "<>')
    root: Any = xml.dom.minidom.parseString(drawn.inline).documentElement
    assert root.getAttribute("aria-label") == '5 "<>'
    (text,) = root.getElementsByTagName("text")
    assert text.firstChild.data == name
    assert "var(--paper, #fefefe)" in drawn.inline
    assert "var(" not in drawn.svg
    assert drawn.width == 192


def test_a_reader_learns_what_the_words_mean_and_that_faces_are_synthetic():
    rows = [Row("faces-200x8", "a", "b", "ridge", None, 1, "", "auc", 0.9)]
    assert define(["ridge", "rank5", "rank5", "tmr@fmr=0.001", "b<>"])[1][1].count("best 5") == 1
    assert len(define(["ridge", "rank5", "rank5", "tmr@fmr=0.001", "b<>"])) == 3
    assert set(SOLVERS) | set(CONTROLS) == set(METHODS)
    assert [words.partition(" at FPIR ")[2] for _, words in define(["fnir20@fpir=0.1", "sel@fpir=0.1"])] == [
        "0.1."
    ] * 2
    assert define(["pwcca", "pwcca:calibrated"])[0][0] == "PWCCA"
    assert len(define([*SIMILARITIES, *AGREEMENTS])) == len(SIMILARITIES) + len(AGREEMENTS)
    made = Part("p", "pairwise", {"warnings": ["take care"]}, rows)
    assert [text[:23] for text in remarks([made, made])] == ["The faces are synthetic", "take care"]
    real = dataclasses.replace(made, rows=[row._replace(dataset="lfw") for row in rows])
    assert list(remarks([real])) == ["take care"]
