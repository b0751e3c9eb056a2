"""Means over pairs and seeds, the text table, and the heat maps."""

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


def _rows(encoders, seeds=(42, 7), methods=(("identity", None), ("canonical", 8))):
    value = np.random.default_rng(0).uniform(size=10_000)
    rows = []
    for seed in seeds:
        for method, rank in methods:
            for source in encoders:
                for target in encoders:
                    if source != target:
                        here = "faces", source, target, method, rank, seed
                        rows.append(Row(*here, "excluded", "rank1", value[len(rows)]))
                        rows.append(Row(*here, "", "eer", value[len(rows)] / 2))
                        rows.append(Row(*here, "", "tmr@fmr=0.001", value[len(rows)]))
    return rows


def test_means_are_over_pairs_then_over_seeds():
    rows = _rows(["a", "b", "c"])
    rows.append(
        Row("faces", "a", "a", "identity", None, 42, "excluded", "rank1", 1.0)
    )  # no pair: does not count
    table = ResultTable(rows)
    chosen = {
        seed: [
            r.value
            for r in rows
            if (r.method, r.seed, r.measure) == ("identity", seed, "rank1") and r.source != r.target
        ]
        for seed in (42, 7)
    }
    cell = table.mean_over_pairs(Setting("identity"), RANK1)
    per_seed = [np.mean(values) for values in chosen.values()]
    assert cell is not None
    assert len(chosen[42]) == 6
    np.testing.assert_allclose([cell.mean, cell.deviation], [np.mean(per_seed), np.std(per_seed)], rtol=1e-12)


def test_an_unsupported_number_is_never_averaged_away():
    rows = _rows(["a", "b"])
    rows = [
        row._replace(value=NAN) if row.measure.startswith("tmr") and row.seed == 7 else row for row in rows
    ]
    table = ResultTable(rows)
    cell = table.cell(Setting("identity"), TMR, "a", "b")
    assert cell is not None
    assert np.isnan(cell.mean)
    text = render_table(table)
    assert "n/a: 2 of 2 pairs: too few comparisons" in text
    assert table.mean_over_pairs(Setting("nothing"), TMR) is None


def test_a_pair_without_any_number_is_left_out_of_every_mean():
    rows = _rows(["a", "b", "c"])
    broken = [
        row._replace(value=NAN) if (row.source, row.target, row.method) == ("a", "b", "canonical") else row
        for row in rows
    ]
    table = ResultTable(broken)
    assert table.left_out == {("a", "b")}
    for setting in table.settings:
        mean = table.mean_over_pairs(setting, RANK1)
        rest = [r.value for r in rows if (r.method, r.measure) == (setting.method, "rank1")
                and (r.source, r.target) != ("a", "b")]  # fmt: skip
        assert mean is not None
        assert mean.mean == pytest.approx(np.mean(rest))
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
    assert "canonical r=8" in text
    lines = text.splitlines()
    (summary,) = [line for line in lines if line.startswith("identity ") and "encoder" not in line][:1]
    assert "*" in summary
    assert max(map(len, lines)) <= width
    assert ("source \\ target" in text) == (count <= 8)
    marked = [line for line in lines if line.startswith("identity") and "1 encoder_0" in line and "*" in line]
    assert bool(marked) == (count <= 8)
    assert "numerically doubtful" in text


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
    assert "canonical_r8-rank1-excluded.png" in names
    assert "identity-tmr@fmr=0.001.png" in names
    for path in paths:
        width, height = struct.unpack(">II", path.read_bytes()[16:24])
        assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        assert 500 < width < 4000
        assert 300 < height < 4000


def test_report_imports_matplotlib_only_to_draw():
    code = "import sys, jaxalign.report; sys.exit('matplotlib' in sys.modules or 'pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
