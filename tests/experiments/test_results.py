"""The results directory: what is in it, and that it is whole or not there."""

import dataclasses
import errno
import io
import json
import math

import numpy as np
import pyarrow.parquet
import pytest
from commands import read

from experiments.run import results
from experiments.run.progress import Progress, duration
from experiments.run.protocols import DEFAULT, METHODS, PROTOCOLS, PUBLISHED
from jaxalign.core.errors import UserError
from jaxalign.report.records import Row

ROWS = [
    Row("faces", "a", "b", "ridge", None, 42, "excluded", "rank1", 0.1 + 0.2, comparisons=17),
    Row("faces", "a", "b", "shared", 96, 42, "", "tmr@fmr=0.001", float("nan"), 0.5, 1e-4, 10),
    Row("faces, two", 'b"', "ä", "shared", 96, 42, "", "auc", 0.0),
]


def test_columns_are_the_contract():
    contract = (
        "dataset source target method rank seed own_photograph measure value threshold achieved comparisons "
        "test_dataset axis at low high reason score variant pairs_owned threshold_low threshold_high"
    )
    assert list(results.COLUMNS) == contract.split()


def test_csv_reads_back_and_nothing_unsupported_is_a_number(tmp_path):
    results.write_csv(tmp_path / "r.csv", results.COLUMNS, ROWS)
    first, second, third = read(tmp_path / "r.csv")
    assert (first["value"], first["rank"], first["comparisons"]) == ("0.30000000000000004", "", "17")
    assert (second["value"], second["threshold"], second["own_photograph"]) == ("", "0.5", "")
    assert (third["value"], third["dataset"], third["source"]) == ("0.0", "faces, two", 'b"')


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@a", "\ta", "\ra", "'=1", "'a", "a-b", ""])
def test_a_spreadsheet_runs_no_name_as_a_formula(tmp_path, name):
    results.write_csv(tmp_path / "r.csv", ("source", "value"), [(name, -0.5)])
    (line,) = read(tmp_path / "r.csv")
    assert not line["source"].startswith(("=", "+", "-", "@", "\t", "\r"))
    assert (results.read_field(line["source"]), line["value"]) == (name, "-0.5")


def test_parquet_has_types_and_nulls(tmp_path):
    results.write_parquet(tmp_path / "r.parquet", ROWS)
    table = pyarrow.parquet.read_table(tmp_path / "r.parquet")
    assert table.column_names == list(results.COLUMNS)
    types = {"rank": "int64", "seed": "int64", "value": "double", "comparisons": "int64", "method": "string"}
    assert {name: str(table.schema.field(name).type) for name in types} == types
    assert table["value"].to_pylist() == [0.1 + 0.2, None, 0.0]
    assert table["rank"].to_pylist() == [None, 96, 96]
    results.write_parquet(tmp_path / "empty.parquet", [])
    assert pyarrow.parquet.read_table(tmp_path / "empty.parquet").schema == table.schema
    results.write_csv(tmp_path / "empty.csv", results.COLUMNS, [])
    assert (tmp_path / "empty.csv").read_text() == ",".join(results.COLUMNS) + "\n"


def write(out, note="first", **options):
    config = {"note": note, "grid": (1, 2.5), "limit": math.inf, "count": np.int64(3)}
    with results.writer(out, **options) as writer:
        writer.table(ROWS)
        writer.config("pairwise", config, more=DEFAULT)
        writer.text("table.txt", note)


def test_writer_makes_the_whole_directory(tmp_path):
    out = tmp_path / "deep" / "run"
    write(out)
    expected = ["config.json", "results.csv", "results.parquet", "table.txt"]
    assert sorted(path.name for path in out.iterdir()) == expected
    assert [path.name for path in out.parent.iterdir()] == ["run"]
    content = json.loads((out / "config.json").read_text())
    assert content["config"] == {"note": "first", "grid": [1, 2.5], "limit": "inf", "count": 3}
    assert set(content["versions"]) == {"python", "jax", "jaxlib", "numpy", "jaxalign"}
    assert content["devices"]["platform"] == "cpu"
    assert content["more"]["fixed"] == []


def test_writer_refuses_other_results_unless_told_to_replace_them(tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    write(out)  # an empty directory is free
    with pytest.raises(UserError, match=r"already holds results.*--overwrite"):
        write(out, "second")
    assert (out / "table.txt").read_text() == "first"
    write(out, "second", overwrite=True)
    assert (out / "table.txt").read_text() == "second"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_writer_never_replaces_what_is_not_ours(tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(UserError, match=r"not results .thesis.tex"):
            write(out, overwrite=overwrite)
    (out / "thesis.tex").unlink()
    (out / "config.json").write_text('{"learning_rate": 0.1}')  # somebody else's config.json
    with pytest.raises(UserError, match="not results"):
        write(out, overwrite=True)
    (tmp_path / "file").write_text("")
    for bad in (tmp_path / "file", tmp_path / "file" / "under", ""):
        with pytest.raises(UserError, match="--out"):
            write(bad)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "run"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("existing", [False, True])
def test_an_error_leaves_everything_as_it_was(tmp_path, error, existing):
    out = tmp_path / "deep" / "run"
    if existing:
        write(out)
    with pytest.raises(error), results.writer(out, overwrite=True) as writer:
        writer.table(ROWS)
        raise error
    if existing:
        assert (out / "table.txt").read_text() == "first"
        assert len(list(out.parent.iterdir())) == 1
    else:
        assert list(tmp_path.iterdir()) == []


def test_a_full_disk_costs_one_file(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(results, "write_parquet", full)
    with pytest.raises(results.NotWrittenError, match="results.parquet cannot be written: No space") as error:
        write(tmp_path / "run")
    (kept,) = tmp_path.iterdir()
    assert str(kept) in str(error.value)
    assert sorted(path.name for path in kept.iterdir()) == ["config.json", "results.csv", "table.txt"]


def test_two_runs_do_not_write_one_directory(tmp_path):
    with results.writer(tmp_path / "run"), pytest.raises(UserError, match="another program is writing"):
        write(tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []


def test_progress_redraws_on_a_terminal_and_is_quiet_elsewhere(monkeypatch):
    now = [0.0]
    terminal, pipe = io.StringIO(), io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    with Progress(4, terminal, lambda: now[0]) as shown, Progress(4, pipe, lambda: now[0]) as quiet:
        for _ in range(3):
            now[0] += 20
            shown.step("ridge, a to b")
            quiet.step("ridge, a to b")
    assert " 75 %  ridge, a to b  1m00s elapsed, about 20s left" in terminal.getvalue()
    assert "\n" not in terminal.getvalue()
    assert terminal.getvalue().endswith("\r")
    assert pipe.getvalue().splitlines() == [" 50 %  ridge, a to b  40s elapsed, about 40s left"]
    assert [duration(s) for s in (0.4, 59.6, 3599.6, 7800)] == ["0s", "1m00s", "1h00m", "2h10m"]


def test_protocols_are_what_design_says():
    assert PUBLISHED.methods == ("identity", "orthogonal", "linear", "ridge")
    assert PUBLISHED.l2 == 0.1
    assert PUBLISHED.seeds == (42, 123, 217, 7, 531)
    assert PUBLISHED.train_fraction == 0.7
    assert PUBLISHED.fitted_as("identity") == "translation"
    assert DEFAULT.fitted_as("identity") == "identity"
    assert PUBLISHED.own_photograph == ("included", "excluded")
    assert DEFAULT.own_photograph == ("excluded",)
    assert {"canonical", "shared", "identity", "orthogonal", "linear", "ridge"} <= set(DEFAULT.methods)
    for protocol in PROTOCOLS.values():
        assert set(protocol.methods) <= set(METHODS)
        assert protocol.fixed <= {field.name for field in dataclasses.fields(protocol)}


def test_what_a_protocol_fixes_cannot_be_changed():
    assert PUBLISHED.replace(l2=0.1, seeds=(1,), methods=None).seeds == (1,)
    with pytest.raises(UserError, match=r"--protocol=published fixes --l2=0.1, got cv"):
        PUBLISHED.replace(l2="cv")
    assert DEFAULT.replace(l2=3.0, normalize="none").normalize == "none"


def test_rows_come_back_from_parquet_as_they_were(tmp_path):
    rows = [*ROWS, Row("lfw", "a", "b", "linear", None, 42, "", "eer", math.nan, reason="too few")]
    rows.append(Row("lfw", "a", "b", "shared", 96, 42, "", "auc", 1.0, 0.25, 0.1, axis="l2", at=0.1))
    rows.append(ROWS[1]._replace(value=0.5, threshold_low=0.4, threshold_high=0.6))
    results.write_parquet(tmp_path / "rows.parquet", rows)
    assert repr(results.read_parquet(tmp_path / "rows.parquet")) == repr(rows)
