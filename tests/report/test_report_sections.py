"""What sections say, against numbers computed by hand or by numpy and scipy."""

import math
from typing import Any

import made_results
import made_security
import numpy as np
import pytest
from scipy.cluster.hierarchy import leaves_list, linkage

from jaxalign.report import Measure, Row
from jaxalign.report.figures.dendrogram import leaves
from jaxalign.report.figures.projection import same_person_nearest
from jaxalign.report.page import command, origin
from jaxalign.report.part import Part
from jaxalign.report.records import Difference, Predicted, ProjectedPoint, ThreeWay
from jaxalign.report.sections import Section, sections
from jaxalign.report.tables import Table

NAN = math.nan
# rank-1 of a to b, a to c, b to a, b to c, c to a, c to b; their mean is 0.5 for ridge.
RIDGE = dict(zip(("ab", "ac", "ba", "bc", "ca", "cb"), (0.2, 0.4, 0.6, 0.8, 0.7, 0.3)))


def rank1(pair, method, value, seed=1, **more):
    return Row("faces", *(pair or ("", "")), method, None, seed, "excluded", "rank1", value, **more)  # pyright: ignore[reportCallIssue]


def other(pair, measure, value, method="ridge", **more):
    """A number that knows no gallery."""
    return Row("faces", *(pair or ("", "")), method, None, 1, "", measure, value, **more)  # pyright: ignore[reportCallIssue]


IDENTITY = [rank1(pair, "identity", 0.1) for pair in RIDGE]
BY_RIDGE = [rank1(pair, "ridge", value) for pair, value in RIDGE.items()]


def part(rows, driver="pairwise", **more) -> Part:
    return Part(driver, driver, {}, rows, **more)


def section(*parts: Part) -> Section:
    return next(sections(parts))


def rows_of(found: Section, name: str) -> Any:
    """A table's rows, by its name."""
    return next(table.rows for table in found.tables() if table.name == name)


def picture_of(found: Section, name: str):
    return next(picture for picture in found.pictures() if picture.name == name)


def plain(sentences):
    return [sentence.replace("\N{NO-BREAK SPACE}", " ") for sentence in sentences]


def test_pairwise_summary():
    rows = [*IDENTITY, *BY_RIDGE, rank1("aa", "own", 0.9), rank1("bb", "own", 0.7)]
    assert plain(section(part(rows)).summary) == [
        "On faces, over 6 ordered pairs of 3 encoders, mean rank-1 identification rate, same image excluded goes "
        "from 10.0 % without a map to 50.0 % with ridge, the best of 2 settings.",
        "This is one split of people without intervals, so the order of close methods may be chance: give several "
        "--seeds or --intervals=1000.",
        "With ridge the best pair is b → c (80.0 %), the worst a → b (20.0 %).",
        "Averaged over partners, b is mapped to others best (70.0 %) and others are mapped to a best (65.0 %).",
        "Compared with themselves the encoders reach 80.0 % on average, against 50.0 % across encoders with ridge.",
    ]


def test_what_the_map_and_what_the_score_gains():
    by_cohort = [row._replace(value=row.value + 0.1, score="cohort") for row in BY_RIDGE]
    shared = [rank1(pair, "shared", 0.55, score=score) for pair in RIDGE for score in ("cosine", "cohort")]
    own = [rank1("aa", "own", 0.9), rank1("aa", "own", 0.95, score="cohort")]
    found = section(part([*IDENTITY, *BY_RIDGE, *by_cohort, *shared, *own]))
    summary = plain(found.summary)
    assert "to 60.0 % with ridge, cohort, the best of 5 settings." in summary[0]
    assert summary[1] == (
        "Score by score, this map reaches 50.0 % by cosine and 60.0 % by cohort; the best published map reaches 50.0 % "
        "by cosine (ridge) and 60.0 % by cohort (ridge)."
    )
    assert summary[2] == "In points, the score gains over the cosine with this map: 10.0 with cohort."
    assert not any("The map gains" in sentence for sentence in summary)  # it is a published one
    better = [row._replace(value=0.7 if row.score == "cohort" else 0.45) for row in shared]
    summary = plain(section(part([*IDENTITY, *BY_RIDGE, *by_cohort, *better])).summary)
    assert summary[2:4] == [
        "In points, the score gains over the cosine with this map: 25.0 with cohort.",
        "The map gains over the best published map given the same score: \N{MINUS SIGN}5.0 by cosine and "
        "10.0 by cohort.",
    ]
    summary = plain(found.summary)
    assert summary[-1].startswith("Compared with themselves the encoders reach 95.0 %")
    assert [row[0] for row in rows_of(found, "pairwise-methods")] == [
        *("identity", "ridge", "ridge, cohort", "shared", "shared, cohort")
    ]


def test_the_page_opens_with_the_map_the_score_and_the_thresholds_to_use():
    rows = []
    for score, gain, threshold in (("cosine", 0.0, 0.4), ("cohort", 0.1, 0.15)):
        for pair, value in RIDGE.items():
            at = threshold + value / 10
            more: Any = {"threshold": at, "achieved": 0.001, "score": score}
            more |= {
                "threshold_low": at - 0.02,
                "threshold_high": at + 0.03,
                "low": value,
                "high": value + 0.2,
            }
            rows += [other(pair, "tmr@fmr=0.001", value + gain, **more)]
            rows += [other(pair, "tmr@fmr=1e-05", NAN, score=score, reason="too few")]
        rows.insert(0, other("da", "tmr@fmr=0.001", NAN, score=score, reason="singular"))  # is no least pair
    found = section(part([*IDENTITY, *BY_RIDGE, *rows]))
    assert plain(found.summary)[0] == (
        "To compare these encoders with each other, ridge and the score cohort did best on these test people: at FMR "
        "0.1 %, 60.0 % of comparisons of one person match on average, and 30.0 % from a to b, the least."
    )
    assert plain(found.summary)[1] == (
        "From a to b, accept scores of 0.1700 (95 % interval 0.1500 to 0.2000) or more; the table below has every "
        "pair's threshold."
    )
    *table, failed = rows_of(found, "pairwise-thresholds")
    assert failed[:2] == ["d", "a"] and failed[2].reason == "singular"
    assert [row[:2] for row in table] == [
        ["a", "b"],
        ["a", "c"],
        ["b", "a"],
        ["b", "c"],
        ["c", "a"],
        ["c", "b"],
    ]
    numbers = [[cell.mean for cell in row[2:]] for row in table]
    expected = [[0.15 + value / 10, 0.001, value + 0.1] for value in RIDGE.values()]
    np.testing.assert_allclose(numbers, expected)
    ends = [[(cell.low, cell.high) for cell in (row[2], row[4])] for row in table]
    expected = [[(0.13 + v / 10, 0.18 + v / 10), (v, v + 0.2)] for v in RIDGE.values()]
    np.testing.assert_allclose(ends, expected)
    (shown,) = [block for block in found.blocks if getattr(block, "name", "") == "pairwise-thresholds"]
    assert isinstance(shown, Table) and "Intervals of 95 % are over people" in shown.caption
    assert shown.written()[0][2].interval == "0.1500 to 0.2000"
    bare = [row._replace(threshold_low=None, threshold_high=None, low=None, high=None) for row in rows]
    found = section(part([*IDENTITY, *BY_RIDGE, *bare]))
    assert plain(found.summary)[1].startswith("From a to b, accept scores of 0.1700 or more;")
    (shown,) = [block for block in found.blocks if getattr(block, "name", "") == "pairwise-thresholds"]
    assert isinstance(shown, Table) and "--intervals=1000 gives intervals" in shown.caption
    twice = [
        row._replace(seed=seed) for seed in (1, 2) for row in rows
    ]  # the mean over seeds has no interval
    assert rows_of(section(part(twice)), "pairwise-thresholds")[0][2].low is None


def test_a_pair_without_a_number_is_said_so_with_its_reason_and_never_counts_as_zero():
    why = "the source is singular"
    found = section(part([*IDENTITY, *BY_RIDGE[1:], rank1("ab", "ridge", NAN, reason=why)]))
    summary = plain(found.summary)
    assert "to 56.0 % with ridge" in summary[0]  # the mean of the other five
    assert summary[-1].startswith("1 pair could not be measured by some method and is left out of every mean")
    assert summary[-1].endswith(f"the first is a → b by ridge: {why}.")
    (entry,) = [row[3] for row in rows_of(found, "pairwise-pairs-rank1") if row[:2] == ["a", "b"]]
    assert math.isnan(entry.mean) and entry.reason == why
    drawn = picture_of(found, "pairwise-ridge-rank1_excluded")
    assert f"1 cell without a number: {why}." in drawn.alt
    assert ">n/a<" in drawn.svg and f"n/a: {why}" in drawn.svg


def test_an_operating_point_that_is_unsupported_for_some_pairs_has_no_mean():
    why = "fewer than 10 expected false matches"
    rows = [other(pair, "tmr@fmr=0.0001", 0.5) for pair in RIDGE if pair != "cb"]
    rows.append(other("cb", "tmr@fmr=0.0001", NAN, reason=why))
    (line,) = rows_of(section(part([*BY_RIDGE, *rows])), "pairwise-methods")
    assert math.isnan(line[2].mean) and line[2].reason == f"1 of 6 pairs: {why}"


def test_deviation_is_over_seeds_and_intervals_are_of_pairs():
    rows = [rank1(p, "ridge", v + (seed - 1.5) / 50, seed) for p, v in RIDGE.items() for seed in (1, 2)]
    (line,) = rows_of(section(part(rows)), "pairwise-methods")
    assert (line[1].mean, line[1].deviation) == pytest.approx((0.5, 0.01))
    one = [row._replace(low=row.value - 0.1, high=row.value + 0.1) for row in BY_RIDGE]
    pairs = rows_of(section(part(one)), "pairwise-pairs-rank1")
    assert [row[2].low for row in pairs] == pytest.approx([v - 0.1 for v in RIDGE.values()])


def test_curves_are_means_over_pairs_and_bands_means_of_ends():
    more = {"measure": "cmc", "axis": "rank"}
    curves = [
        row._replace(value=row.value + 0.01 * k, at=k, low=row.value - 0.1, high=row.value + 0.1, **more)
        for row in BY_RIDGE
        for k in (1, 5, 10)
    ]
    picture = picture_of(section(part(BY_RIDGE, curves=curves)), "pairwise-cmc")
    assert picture.alt.endswith("ridge: 51 % at 1, 55 % at 5, 60 % at 10 (band 40 to 60 %).")
    assert "their ends averaged" in picture.caption


def test_det_shows_error_rates():
    points = ((0.001, 0.6), (0.01, 0.8), (0.1, 0.9))
    rows = [other(pair, f"tmr@fmr={fmr}", value) for fmr, value in points for pair in RIDGE]
    picture = picture_of(section(part([*BY_RIDGE, *rows])), "pairwise-det")
    assert picture.alt.endswith("ridge: 40 % at 0.1, 20 % at 1, 10 % at 10.")
    perfect = [row._replace(value=1.0) for row in rows]  # no error can be drawn on a logarithmic axis
    assert not any(plot.name == "pairwise-det" for plot in section(part([*BY_RIDGE, *perfect])).pictures())


def test_heat_maps_follow_the_families():
    merges = [[0, 2, 1.0, 2], [1, 3, 2.0, 3]]
    tree = {"encoders": ["a", "b", "c"], "linkage": merges, "order": ["b", "c", "a"]}
    families = part([rank1("aa", "x", 0.5)], "families", families={"rank1": tree})
    svg = picture_of(section(part(BY_RIDGE), families), "pairwise-ridge-rank1_excluded").svg
    places = [svg.index(f">{name}</text>") for name in "bca"]
    assert places == sorted(places)
    assert "encoders ordered by family" in svg


def test_transfer_is_beside_what_maps_of_the_place_reach():
    rows = [
        row._replace(value=row.value - loss, dataset=fitted, test_dataset=tested)
        for fitted, tested, loss in (("one", "", 0), ("two", "", 0), ("one", "two", 0.1), ("two", "one", 0.2))
        for row in BY_RIDGE
    ]
    found = section(part(rows, "transfer"))
    words = "mean rank-1 identification rate, same image excluded"
    assert plain(found.summary) == [
        f"Maps fitted on two, tested on one: {words} 30.0 % with ridge, against 50.0 % with maps fitted within one.",
        f"Maps fitted on one, tested on two: {words} 40.0 % with ridge, against 50.0 % with maps fitted within two.",
    ]
    lines = {"".join(row[:2]): row[2].mean for row in rows_of(found, "transfer-rank1")}
    assert lines == pytest.approx({"oneone": 0.5, "twoone": 0.3, "twotwo": 0.5, "onetwo": 0.4})


def test_sweeps_say_where_they_start_end_and_are_best():
    rows = [other(pair, "effective_rank", 10 * value) for pair, value in RIDGE.items()]
    rows += [
        row._replace(value=row.value * share, axis="l2", at=at)
        for at, share in ((0.1, 0.5), (1.0, 1.0), (10.0, 0.8))
        for row in BY_RIDGE
    ]
    rows.append(other("", "effective_rank", 5.5, low=5.0, high=6.0))
    found = section(part(rows, "ridge_path"))
    assert plain(found.summary) == [
        "Rank-1 identification rate, same image excluded, mean over pairs with ridge, goes from 25.0 % at penalty "
        "0.1 to 40.0 % at penalty 10, its best 50.0 % at penalty 1.",
        "Effective rank, with ridge: 5.5 (95 % interval 5 to 6) for the mean over pairs; median of pairs 5, from 2 to "
        "8.",
    ]
    lines = {row[0].mean: row[1].mean for row in rows_of(found, "ridge_path-l2-rank1")}
    assert lines == pytest.approx({0.1: 0.25, 1.0: 0.5, 10.0: 0.4})


def test_a_pair_that_fails_at_one_size_leaves_a_gap_and_one_that_always_fails_is_left_out():
    rows = []
    for pair, value in RIDGE.items():
        for at in (10.0, 100.0):
            failed = pair == "cb" or (pair == "ab" and at == 10)
            more: Any = {"axis": "train_people", "at": at, "reason": "too few people" if failed else ""}
            rows.append(rank1(pair, "ridge", NAN if failed else value, **more))
    found = section(part(rows, "data_efficiency"))
    first, second = rows_of(found, "data_efficiency-train_people-rank1")
    assert math.isnan(first[1].mean) and first[1].reason == "1 of 5 pairs: too few people"
    assert second[1].mean == pytest.approx((0.2 + 0.4 + 0.6 + 0.8 + 0.7) / 5)
    assert "1 pair could not be measured by some method" in found.summary[-1]


def test_differences_are_told_with_their_interval():
    here = ("faces", "", "", None, 1, "", "", "identity", "ridge", "excluded", "rank1")

    def told(low, high):
        return section(part([*IDENTITY, *BY_RIDGE], differences=[Difference(*here, -0.4, low, high)]))

    found, around_0 = told(-0.45, -0.35), told(-0.9, 0.1)
    words = "That is 40.0 points more than identity, the next best (95 % interval "
    assert f"{words}35.0 to 45.0)." in found.summary
    assert f"{words}−10.0 to 90.0, so that the two cannot be told apart)." in around_0.summary
    ((method, less, seed, cell),) = rows_of(found, "pairwise-differences-rank1")
    assert (method, less, seed.mean) == ("identity", "ridge", 1.0)
    assert (cell.mean, cell.low, cell.high) == (-0.4, -0.45, -0.35)


def test_ranks_along_their_axis_are_one_line():
    more = [{"axis": "rank", "at": float(k), "rank": k} for k in (4, 8)]
    rows = [row._replace(value=row.value * of["at"] / 8, **of) for row in BY_RIDGE for of in more]
    found = section(part(rows, "rank_sweep"))
    assert "goes from 25.0 % at rank 4 to 50.0 % at rank 8." in plain(found.summary)[0]
    assert [len(row) for row in rows_of(found, "rank_sweep-rank-rank1")] == [2, 2]


def test_geometry_names_the_best_predictor():
    rows = [
        other("ab", "linear_cka", 0.8, "geometry"),
        other("ab", "linear_cka:null_mean", 0.2, "geometry"),
        other("aa", "anisotropy", 0.25, "geometry"),
    ]
    predictions = [
        Predicted("linear_cka", "no", "ridge", "rank1", 0.4, 0.1, 0.6, 21, 0.2),
        Predicted("procrustes_distance", "no", "ridge", "rank1", -0.75, -0.9, -0.5, 21, 0.01),
        Predicted("mean_cca", "yes", "ridge", "rank1", -0.9, NAN, NAN, 21, 0.4),
        Predicted("svcca", "yes", "ridge", "rank1", NAN, NAN, NAN, 21, NAN),
    ]
    found = section(part(rows, "geometry", predictions=predictions))
    assert found.summary == [
        "Of 4 similarities, Procrustes distance predicts rank-1 identification rate by ridge best: "
        "Spearman −0.75 (95 % interval −0.9 to −0.5) over 21 pairs."
    ]
    names = [row[0] for row in rows_of(found, "geometry-prediction-ridge-rank1")]
    assert names == ["Procrustes distance", "linear CKA", "mean CCA", "SVCCA"]
    (line,) = rows_of(found, "geometry-similarities")
    assert (line[1].mean, line[2].mean, line[3:]) == (0.8, 0.2, [None, None])
    assert rows_of(found, "geometry-encoders")[0][1].mean == 0.25


def test_geometry_shows_what_is_predicted_beside_what_predicts():
    similar = {"ab": 0.25, "ac": 0.5, "bc": 0.75}
    rows = [other(pair, "linear_cka:calibrated", value, "geometry") for pair, value in similar.items()]
    rows.append(other("ab", "linear_cka", 0.5, "geometry"))
    reached = [*BY_RIDGE, *(row._replace(own_photograph="included", value=1.0) for row in BY_RIDGE)]
    reached += [rank1("ab", "identity", 0.01), rank1("aa", "ridge", 1.0), rank1("ab", "shared", 0.9, seed=2)]
    found = section(part(rows, "geometry", alignability=reached))
    (table,) = [table for table in found.tables() if table.name == "geometry-alignability"]
    assert [column.title for column in table.columns] == ["encoder", "other", "ridge", "shared", "linear CKA"]
    lines = [[cell and getattr(cell, "mean", cell) for cell in row] for row in table.rows]
    assert [[*line[:2], pytest.approx(line[2]), *line[3:]] for line in lines] == [
        ["a", "c", 0.55, None, 0.5],
        ["b", "c", 0.55, None, 0.75],
        ["a", "b", 0.4, 0.9, 0.25],
    ]


def test_ways_by_a_third_encoder_are_means_over_both_ends():
    ways = [
        ThreeWay("faces", "a", "b", "c", "ridge", seed, value, value - 0.1, value + 0.1)
        for seed, value in ((1, 0.5), (2, 0.7))
    ]
    ways += [ThreeWay("faces", "c", "b", "a", "ridge", seed, 0.2, NAN, NAN) for seed in (1, 2)]
    ways += [ThreeWay("faces", "a", "c", "b", "other", 1, 0.9, 0.8, 1.0)]
    found = section(part([other("ab", "map_agreement", 0.5)], "stability", three_way=ways))
    first, second = rows_of(found, "stability-three-way")
    assert (first[0], first[2]) == ("b", None)
    assert (first[1].mean, first[1].deviation) == pytest.approx((0.4, 0.05))
    assert second[0] == "c" and (second[2].mean, second[2].low, second[2].high) == (0.9, 0.8, 1.0)
    each = rows_of(found, "stability-three-way-each")
    assert [row[:3] for row in each] == [["a", "b", "c"], ["c", "b", "a"], ["a", "c", "b"]]
    assert (each[0][3].mean, each[0][3].deviation) == pytest.approx((0.6, 0.1))


def test_families_say_what_merges_first_and_what_labels_explain():
    tree = made_results.tree(["a", "b", "c", "d"])
    found = section(part([rank1("aa", "x", 0.5)], "families", families={"rank1": tree}))
    left, right, height, _ = tree["linkage"][0]
    closest = " and ".join(tree["encoders"][int(place)] for place in (left, right))
    assert f"By rank-1 the closest encoders are {closest}, at {height:.1f}; " in found.summary[0]
    assert f"cophenetic correlation of {tree['cophenetic']:.3g}" in found.summary[0]
    assert "labels explain the distances" in found.summary[1]
    assert "p = 0.03, 999 permutations" in found.summary[1]
    (picture,) = found.pictures()
    assert f"Merges, the closest first: {closest} at {height:.3g};" in picture.alt


def test_leaves_are_scipys():
    random = np.random.default_rng(0)
    for count in (2, 5, 17):
        merges = linkage(random.normal(size=(count, 3)), "average")
        assert leaves(merges.tolist(), count) == leaves_list(merges).tolist()


def test_nearest_of_the_same_person():
    sides = [
        ("source", 0, 0.0),
        ("source", 1, 5.0),
        ("target", 0, 1.0),
        ("target", 1, 1.5),
        ("target", 2, 5.0),
    ]
    points = [ProjectedPoint("d", "a", "b", "m", "after", *side, 0.0) for side in sides]
    assert same_person_nearest(points) == (1, 2)
    assert same_person_nearest([]) == (0, 0)


def test_measures_in_words():
    rank1_words = "rank-1 identification rate, same image excluded"
    assert Measure("rank1", "excluded").describe() == rank1_words
    assert Measure("rank1:people_for_95%", "excluded").describe() == f"{rank1_words}: people for 95 %"
    assert Measure("map50", "included").describe().startswith("mean average precision over the first 50")
    assert Measure("rank5", "included").head == "rank-5, same image included"
    tmr = Measure("tmr@fmr=0.001")
    assert (tmr.head, tmr.describe()) == ("TMR at FMR 0.001", "TMR at FMR 0.1 %")
    fnir = Measure("fnir20@fpir=0.01")
    assert (fnir.head, fnir.describe()) == ("FNIR20 at FPIR 0.01", "FNIR20 at FPIR 1 %")
    assert fnir.is_rate and not Measure("sel@fpir=0.01").is_rate
    for worse in ("eer", "fnir@fpir=0.01", "fnir20@fpir=0.01", "sel@fpir=0.01"):
        assert Measure(worse).lower_is_better
    assert not tmr.lower_is_better
    rates = ["rank1", "map50", "auc", "eer", "tmr@fmr=0.1", "rank1_relative"]
    assert all(Measure(name).is_rate for name in rates)
    assert not any(
        Measure(name).is_rate for name in ("rank1:people_for_95%", "map_agreement", "effective_rank")
    )


def test_the_command_can_be_typed_again():
    words = ["/somewhere/experiments/pairwise.py", "--store=my store", "--out=x"]
    assert command(words) == "python -m experiments.pairwise '--store=my store' --out=x"
    assert command([words[0], f"--flag={'a' * 40}", f"--flag={'b' * 40}"]).count(" \\\n  --flag") == 2
    assert command(None) == ""
    config = {
        "git": {"commit": "abc", "modified": True},
        "config": {"protocol": {"seeds": [1, 2]}, "l2": None},
        "store": {"dataset": "d", "path": "p", "rows": 9, "dims": {"a": 3}, "checksums": {"a": "ff"}},
    }
    found = origin(Part("x", "pairwise", config, [], checksums={"results.parquet": "00"}))
    assert dict(found.facts) == {
        "commit": "abc, with changes that were not committed",
        "seeds": "1, 2",
        "data set": "d, from p, rows 9",
        "a": "width 3, SHA-256 ff",
        "results.parquet": "SHA-256 00",
    }
    assert found.settings == [("protocol.seeds", "1, 2")]


def test_a_migration_says_what_to_do_and_what_it_costs():
    """The sentences and tables of one that fails, whose gallery has both networks' rows."""
    number = {"value": 0.8, "low": 0.75, "high": 0.85}
    missing = {"value": None, "low": None, "high": None, "reason": "too few"}
    at = {"threshold": 0.3, "threshold_low": 0.25, "threshold_high": 0.35}
    rates = {"tmr@fmr=0.01": {**number, **at}, "tmr@fmr=0.0001": missing, "rank1": number}
    mapped = {**rates, "fnir@threshold": {"value": 0.1, "low": 0.07, "high": 0.14}}
    ways = [
        {"method": m, "drop_in": d, "score": "cosine", "chosen": True}
        for m, d in (("ridge", True), ("shared", False))
    ]
    tested = {"people": 50, "enrolled": 20, "fnir": 0.12, "fpir": 0.1, "expected": [0.05, 0.2]}
    content: dict[str, Any] = {
        "old": "a",
        "new": "b",
        "verdict": "reenrol",
        "reason": "The gate fails.",
        "helps": ["More people."],
        "method": "ridge",
        "score": "cosine",
        "drop_in": True,
        "threshold": 0.3,
        "threshold_interval": [0.25, 0.35],
        "operating_point": {"fmr": 0.01, "fpir": None, "measure": "tmr@fmr=0.01", "gallery": 100},
        "hits": dict.fromkeys(("old", "new", "mapped"), number),
        "rates": {"old": rates, "new": rates, "mapped": mapped, "other": rates},
        "rates_keeping_gallery": {**rates, "fnir@fpir=0.1": {**number, **at}},
        "candidates": [{**way, "value": value} for way, value in zip(ways, (0.8, 0.9))],
        "people": [{"people": people, **number} for people in (10, 20)],
        "reenrolled": [{"share": share, "at_random": 0.7, **number} for share in (0.5, 1.0)],
        "unlike": {"false_alarm": 0.01, "flagged": {"distance": 3, "hubness": 2}},
        "gallery": {"rows": 200},
        "tested": {**tested, "rates": {name: {"rank1": number} for name in ("old", "new", "mapped")}},
    }
    found = section(part([], "migrate", migration=content))
    assert found.title == "Enrol again: a → b"
    assert plain(found.summary) == [
        "The gate fails.",
        "At the threshold 0.3000 a search of 100 people misses 10.0 % of those who are enrolled; a measurement on "
        "as many other people shows 7.0 % to 14.0 % in 95 of 100 cases.",
        "Where the gallery stays and probes of b are mapped into the space of a, they find 80.0 % at a false match "
        "rate of 0.01, with a threshold of 0.3000.",
        "Maps fitted on 10 people reach 80.0 %, those fitted on 20 80.0 %.",
        "More people.",
        "Of 200 gallery rows, 3 by distance and 2 by hubness are flagged as unlike the calibration data; 2 by each "
        "would be expected of like ones.",
    ]
    names = [line[0] for line in rows_of(found, "migrate-rates")]
    assert names == ["a", "b", "a, mapped", "a, mapped two-sided", "a"]
    assert [line[0] for line in rows_of(found, "migrate-candidates")] == ["shared", "ridge"]
    thresholds = rows_of(found, "migrate-thresholds")
    assert thresholds[0][1].mean == 0.3 and thresholds[1][1].reason == "too few"
    assert {picture.name for picture in found.pictures()} == {"migrate-people", "migrate-reenrolled"}
    assert "12.0" in next(table for table in found.tables() if table.name == "migrate-tested").caption
    gone = section(part([], "migrate", migration={**content, "verdict": "map"}))
    assert "accept scores of 0.3000 or more" in gone.summary[1]


def test_ensembles_are_compared_with_the_best_encoder_alone():
    names, config = ("a", "b", "c"), {"ensembles": made_results.ensembles_of("abc")}
    numbers = "alignability", "no", "mean"
    predictions = [Predicted(*numbers, "tmr@fmr=0.01", -0.5, -1.0, 0.25, 3, 0.4)]
    rows = made_results.ensemble_rows("faces", names, 1)
    found = section(Part("ensemble", "ensemble", config, rows, predictions=predictions))
    assert plain(found.summary) == [
        "By TMR at FMR 1 % the best of 3 encoders alone is a (40.0 %), the best set a+b, fused by mean (35.0 %), so "
        "that no fusion reaches that encoder.",
        "Chosen on training people (seed 1), fused by mean: a (40.0 %), a+b (35.0 %) and a+b+c (30.0 %).",
        "Where each person is enrolled under one encoder of a set at random, 20.0 % with 2 and 15.0 % with 3 encoders "
        "remain on average, of 30.0 % where one encoder serves all.",
        "What crosses between two encoders and what fusing them gains over the better one have a rank correlation of "
        "−0.5 (95 % interval −1 to 0.25) over 3 pairs.",
    ]
    lines = {
        (row[0], row[1].mean): [cell.mean for cell in row[2:]] for row in rows_of(found, "ensemble-fusions")
    }
    expected = {("mean", size): (0.6, 0.3) for size in (1, 2, 3)} | {("concatenation", 1): (0.3, 0.15)}
    expected |= {("heterogeneous", 2): (0.4, 0.2), ("heterogeneous", 3): (0.3, 0.15)}
    assert lines == {way: pytest.approx(values) for way, values in expected.items()}
    added = {row[0]: row[1].mean for row in rows_of(found, "ensemble-added")}
    assert added == pytest.approx({"a": 0.4 / 3, "b": 0.0, "c": -0.4 / 3})
    assert [row[2] for row in rows_of(found, "ensemble-greedy")] == ["a", "a+b", "a+b+c"]
    assert [row[0] for row in rows_of(found, "ensemble-sets")] == [*made_results.ensembles_of("abc")]
    assert [row[2].mean for row in rows_of(found, "ensemble-crossing")] == pytest.approx(
        [0.2, 0.15, 0.2, 0.2, 0.15, 0.2]
    )
    assert "mean: 30 % at 1, 30 % at 2, 30 % at 3" in picture_of(found, "ensemble-sizes").alt


def test_an_operating_point_that_some_set_lacks_does_not_lead():
    rows = made_results.ensemble_rows("faces", ("a", "b"), 1)
    rows = [
        row._replace(value=NAN, reason="too few") if (row.source, row.own_photograph) == ("b", "") else row
        for row in rows
    ]
    found = section(Part("ensemble", "ensemble", {"ensembles": made_results.ensembles_of("ab")}, rows))
    assert "the best of 2 encoders alone is a (80.0 %)" in plain(found.summary)[0]


def test_security_says_which_leaks_are_keys_and_what_else_they_allow():
    names = ("a", "b", "c")
    rows = made_security.rows("faces", names, 1)
    found = section(part(rows, "security", security=made_security.content(names)))
    own_systems = found.blocks[0]
    assert plain(found.summary) == [
        "A leak is called a key where 50 % of its mapped templates are accepted although the system enrolled another "
        "image of their owner, at a false match rate of 0.001.",
        "2 pairs of 6 ordered pairs of networks are open to it: from 42 pairs of photographs (a → b) to 43 pairs of "
        "photographs (a → c).",
        "4 are not, with the 500 pairs of photographs measured.",
        own_systems,
    ]
    assert "systems that you are responsible for" in str(own_systems)

    def numbers(row) -> Any:
        return [cell if isinstance(cell, str) else cell.mean for cell in row]

    first, *_, last = (numbers(row) for row in rows_of(found, "security-verdict"))
    assert first[:5] == ["a", "b", 42, "31 to more", "ridge, restored"]
    assert first[5:] == pytest.approx([0.96, 0.8, 0.008])
    assert last[:2] == ["c", "b"] and math.isnan(last[2]) and last[3] == "more"
    scores = {tuple(row[:5]): [cell.mean for cell in row[5:]] for row in rows_of(found, "security-scores")}
    assert scores["a", "a", "own", "", "cosine"] == pytest.approx([0.84, 0.7, 0.007])
    assert scores["a", "b", "identity", "plain", "cosine"] == pytest.approx([0.012, 0.01, 0.0001])
    assert scores["a", "b", "ridge", "plain", "cohort"] == pytest.approx([0.432, 0.36, 0.0036])
    linked = {tuple(row[:3]): row[3:] for row in rows_of(found, "security-linkability")}
    assert [cell.mean for cell in linked["a", "b", "ridge"]] == pytest.approx([0.6, 0.04, 0.57] * 2)
    assert (linked["a", "b", "ridge"][0].low, linked["a", "b", "ridge"][0].high) == pytest.approx(
        (0.58, 0.62)
    )
    searched = [numbers(row)[4:] for row in rows_of(found, "security-reidentification")[:3]]
    assert searched == [
        [50, "measured", 0.7, 0.35],
        [10**6, "extrapolated by log-linear", 0.2, 0.1],
        [10**6, "extrapolated by pareto", 0.2, 0.1],
    ]
    (key, *_) = rows_of(found, "security-keys")
    assert [*key[:2], key[2].mean, key[3].reason] == ["a", "orthogonal", 23, "more than were tried"]
    # With procrustes, which guesses a sign, it would be 63.
    assert [cell.mean for cell in key[4:]] == [64, 0.02, 0.8, 0.9]
    (matched, *_) = rows_of(found, "security-matching")
    assert numbers(matched) == ["a", "b", "same photographs", 0, 0.7, 0.1, 0.8, 2 / 3, 0.02, 0.9]
    (read,) = rows_of(found, "security-attributes")
    assert numbers(read)[:4] == ["a", "b", "ridge", 2]
    assert numbers(read)[4:] == pytest.approx([0.75, 0.65, 0.6, 0.45])
    pictures = {picture.name: picture.alt for picture in found.pictures()}
    assert set(pictures) == {
        f"security-{kind}-{name}" for kind in ("pairs", "searches") for name in names
    } | {
        *(f"security-linkability-{method}" for method in ("identity", "ridge")),
        *(f"security-seeds-{situation}-a" for situation in ("same_photographs", "different_people")),
    }
    assert "b: 26.7 % at 5, 53.3 % at 50, 80 % at 500" in pictures["security-pairs-a"]


def test_security_shows_the_first_of_several_splits():
    names = ("a", "b")
    rows = [row for seed in (1, 2) for row in made_security.rows("faces", names, seed)]
    found = section(part(rows, "security", security=made_security.content(names)))
    assert found.summary[-1] == "The first of 2 splits is shown; results.csv has all."
    assert len(rows_of(found, "security-verdict")) == 2
