"""Means over pairs and seeds, the text table, and the heat maps."""

import itertools
import struct
import subprocess
import sys

import numpy as np
import pytest

from jaxalign.report import Measure, ResultTable, Row, Setting, draw_heatmaps, render_table
from jaxalign.report.figures.heatmap import file_name

NAN = float("nan")
RANK1 = Measure("rank1", "excluded")
TMR = Measure("tmr@fmr=0.001")
MEASURES = (("excluded", "rank1"), ("", "eer"), ("", "tmr@fmr=0.001"))


def _rows(encoders, seeds=(42, 7), methods=(("identity", None), ("canonical", 8))):
    random = np.random.default_rng(0)
    return [
        Row("faces", source, target, *method, seed, *measure, random.uniform())  # pyright: ignore[reportCallIssue]
        for seed, method in itertools.product(seeds, methods)
        for source, target in itertools.permutations(encoders, 2)
        for measure in MEASURES
    ]


def test_means_are_over_pairs_then_over_seeds():
    rows = _rows(["a", "b", "c"])
    values = [[r.value for r in rows if (r.method, r.seed, r.measure) == ("identity", seed, "rank1")]
              for seed in (42, 7)]  # fmt: skip
    alone = Row("faces", "a", "a", "identity", None, 42, "excluded", "rank1", 1.0)  # no pair: does not count
    cell = ResultTable([*rows, alone]).mean_over_pairs(Setting("identity"), RANK1)
    assert np.shape(values) == (2, 6)
    means = np.mean(values, axis=1)
    assert cell is not None and cell.deviation is not None
    np.testing.assert_allclose([cell.mean, cell.deviation], [means.mean(), means.std()], rtol=1e-12)


def test_with_one_seed_there_is_an_interval_and_no_deviation():
    rows = [row._replace(low=0.0, high=1.0) for row in _rows(["a", "b"], seeds=(1,))]
    cell = ResultTable(rows).cell(Setting("identity"), RANK1, "a", "b")
    assert cell is not None
    assert (cell.mean, cell.deviation, cell.low, cell.high) == (rows[0].value, None, 0.0, 1.0)


def test_an_unsupported_number_is_never_averaged_away():
    rows = _rows(["a", "b"])
    table = ResultTable(
        row._replace(value=NAN) if row.measure == TMR.name and row.seed == 7 else row for row in rows
    )
    cell = table.cell(Setting("identity"), TMR, "a", "b")
    assert cell is not None and np.isnan(cell.mean)
    assert "n/a: 2 of 2 pairs: too few comparisons" in render_table(table)
    assert table.mean_over_pairs(Setting("nothing"), TMR) is None


def test_a_pair_without_any_number_is_left_out_of_every_mean():
    rows = _rows(["a", "b", "c"])
    broken = ("a", "b", "canonical")
    table = ResultTable(row._replace(value=NAN) if row[1:4] == broken else row for row in rows)
    assert table.left_out == {("a", "b")}
    for setting in table.settings:
        mean = table.mean_over_pairs(setting, RANK1)
        chosen = [r for r in rows if (r.method, r.measure) == (setting.method, "rank1")]
        assert mean is not None
        assert mean.mean == pytest.approx(np.mean([r.value for r in chosen if r[1:3] != ("a", "b")]))
    text = render_table(table)
    assert "1 pair without any number left out of every mean (a → b)" in " ".join(text.split())
    assert text.count("n/a") > 1


def test_targets_follow_the_order_of_sources():
    table = ResultTable(_rows(["z", "m", "a"]))
    assert table.sources == table.targets == table.encoders == ["z", "m", "a"]
    means, _, measured = table.matrix(Setting("canonical", 8), RANK1)
    assert measured.sum() == 6
    assert not measured.diagonal().any()
    assert np.isnan(means.diagonal()).all()


def test_ranks_chosen_per_pair_are_one_setting():
    rows = [row._replace(rank=k) for k, row in enumerate(_rows(["a", "b"], methods=(("reduced_rank", 0),)))]
    assert ResultTable(rows, merge_ranks={"reduced_rank"}).settings == [Setting("reduced_rank")]


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("count", [2, 4, 8, 9])
def test_table_is_readable_at_any_width(width, count):
    encoders = [f"encoder_{k}" for k in range(count)]
    table = ResultTable(_rows(encoders), doubtful=[("encoder_0", "encoder_1", Setting("identity"))])
    text = render_table(table, title="faces", width=width)
    assert text.startswith("faces\n")
    assert "canonical r=8" in text and "numerically doubtful" in text
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    identity = [line for line in lines if line.startswith("identity ")]
    assert "*" in next(line for line in identity if "encoder" not in line)
    assert ("source \\ target" in text) == (count <= 8)
    assert any("1 encoder_0" in line and "*" in line for line in identity) == (count <= 8)


@pytest.mark.parametrize("count", [2, 5, 26])
def test_heatmaps_are_one_png_for_each_setting_and_measure(tmp_path, count):
    pytest.importorskip("matplotlib")
    seeds = (42, 7) if count < 26 else (42,)
    table = ResultTable(_rows([f"an_encoder_{k}" for k in range(count)], seeds))
    drawn = []
    paths = draw_heatmaps(table, tmp_path / "maps", caption="faces", progress=drawn.append)
    names = {file_name(setting, measure) for setting in table.settings for measure in table.measures}
    assert {path.name for path in paths} == names == set(drawn)
    assert len(names) == 6
    assert {"canonical_r8-rank1-excluded.png", "identity-tmr@fmr=0.001.png"} < names
    for path in paths:
        width, height = struct.unpack(">II", path.read_bytes()[16:24])
        assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        assert 500 < width < 4000 and 300 < height < 4000


def test_report_imports_matplotlib_only_to_draw():
    code = "import sys, jaxalign.report; sys.exit('matplotlib' in sys.modules or 'pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
