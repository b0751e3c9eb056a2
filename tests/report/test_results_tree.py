"""Reading results: what is there, and one sentence for what is not ours, of another version or mixed."""

import functools
import json
import math
import shutil

import made_results
import numpy as np
import pyarrow.parquet
import pytest

from experiments import report
from experiments.run import cli, results
from experiments.run.results import read_parquet
from experiments.run.results_tree import read_tree
from jaxalign.core.errors import UserError
from jaxalign.core.files import content_checksum

ENCODERS = ("a", "b", "c")


@pytest.fixture
def single(tmp_path):
    folder = tmp_path / "run"
    made_results.write_pairwise(folder, "made", ENCODERS, (42,), whole=False)
    return folder


@pytest.fixture
def study(tmp_path):
    folder = tmp_path / "study"
    made_results.write_pairwise(folder / "pairwise-made", "made", ENCODERS, (42,), whole=False)
    made_results.write_geometry(folder / "geometry-made", "made", ENCODERS, (42,))
    results.Writer(folder).config("study", {}, parts=["geometry-made", "pairwise-made", "transfer"])
    return folder


def seal(folder):
    """Makes the checksums right, so that what a test damaged gets past them."""
    file = folder / "config.json"
    content = {**json.loads(file.read_text()), "files": results.checksums(folder)}
    file.write_text(json.dumps({**content, "checksum": content_checksum(content)}))


def test_parts_of_an_older_study_are_left_out(study):
    made_results.write_geometry(study / "geometry-older", "older", ENCODERS, (7,))
    assert [part.name for part in read_tree(study).parts] == ["geometry-made", "pairwise-made"]


def change(folder, **changes):
    """Writes other values into config.json; names with two underscores go deeper."""
    file = folder / "config.json"
    content = json.loads(file.read_text())
    for name, value in changes.items():
        *way, last = name.split("__")
        functools.reduce(dict.__getitem__, way, content)[last] = value
    file.write_text(json.dumps(content))
    seal(folder)


def test_one_directory_is_one_part(single):
    tree = read_tree(single)
    (part,) = tree.parts
    assert (part.name, part.driver, tree.absent, tree.datasets) == ("run", "pairwise", [], ["made"])
    assert list(map(str, part.rows)) == list(map(str, read_parquet(single / "results.parquet")))
    assert part.doubtful == {("a", "b", "ridge")}
    assert set(part.checksums) == {"config.json", "results.parquet"}


def test_everything_that_commands_write_is_read(tree):
    parts = {part.driver: part for part in tree.parts}
    assert {row.measure for row in parts["pairwise"].curves} == {"cmc", "tmr"}
    assert len(parts["pairwise"].projection) == 2 * 6 * 2 * 2 * 4
    assert parts["pairwise"].projection[0].person == 0
    missing = [p for p in parts["geometry"].predictions if math.isnan(p.spearman)]
    assert [p.pairs for p in missing] == [10, 10]
    assert parts["families"].families["rank1"]["encoders"] == list(made_results.HOSTILE[:4])
    assert tree.absent == [f"capacity-{made_results.HOSTILE_DATASETS[1]}"]


def test_parts_that_are_not_there_are_named(study):
    change(study, failed={"capacity-made": "too few people"})
    tree = read_tree(study)
    assert [part.name for part in tree.parts] == ["geometry-made", "pairwise-made"]
    assert tree.absent == ["transfer", "capacity-made (too few people)"]


def refused(folder):
    with pytest.raises(UserError) as error:
        read_tree(folder)
    text = str(error.value)
    assert "\n" not in text
    return text.replace(str(folder), "X")


def test_what_is_not_there_or_not_ours(tmp_path):
    assert "there is no directory X" in refused(tmp_path / "nowhere")
    assert refused(tmp_path).startswith("X holds no results: there is no config.json")
    for content, named in (
        ("{", "config.json is damaged: it is not JSON"),
        ("{}", "is not of format jaxalign-results"),
    ):
        (tmp_path / "config.json").write_text(content)
        assert named in refused(tmp_path)


def drop_column(folder):
    file = folder / "results.parquet"
    pyarrow.parquet.write_table(pyarrow.parquet.read_table(file).drop_columns(["reason"]), file)
    seal(folder)


def cut_line(folder):
    file = folder / "results.csv"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))


def cut_number(folder):
    file = folder / "geometry-made" / "prediction.csv"
    file.write_text(file.read_text().replace(",10,", ",ten,", 1))
    seal(folder / "geometry-made")


def not_parquet(folder):
    (folder / "results.parquet").write_bytes(b"PAR1")
    seal(folder)


def without_checksums(folder):
    file = folder / "config.json"
    file.write_text(file.read_text().replace('"checksum"', '"chdcksum"'))


def remove_parts(folder):
    for name in ("pairwise-made", "geometry-made"):
        shutil.rmtree(folder / name)


def changed(part=".", **changes):
    return lambda folder: change(folder / part, **changes)


other = functools.partial(changed, "pairwise-made")
OF_ONE_COMMAND = [
    (changed(driver="sweep"), "X was written by experiments.sweep"),
    (changed(version=2), "X is of version 2"),
    (drop_column, "X/results.parquet has no column reason"),
    (not_parquet, "X/results.parquet cannot be read"),
    (lambda folder: (folder / "fits.csv").unlink(), "X holds no fits.csv"),
    (without_checksums, "X/config.json holds no checksums"),
    (lambda folder: (folder / "results.parquet").unlink(), "X holds no results.parquet"),
    (changed(config__protocol__seeds=[7]), "its results have the seeds 42"),
    (changed(config__protocol__methods=["identity", "ridge"]), "its results have the methods canonical"),
    (cut_line, "X/results.csv is not as it was written"),
]
TWO = "X mixes two configurations: "
OF_A_STUDY = [
    (
        other(config__protocol__train_fraction=0.5),
        f"{TWO}protocol.train_fraction is 0.7 in geometry-made and",
    ),
    (other(config__max_per_person=5), f"{TWO}max_per_person is 0 in geometry-made and 5 in pairwise-made"),
    (other(versions__jaxalign="9.9"), f"{TWO}the version of jaxalign is "),
    (other(store__checksums__a="f" * 64), f"{TWO}the checksum of a in made is 0000000000000000… in"),
    (cut_number, "prediction.csv, line 2 cannot be read"),
    (remove_parts, "holds no results of a part"),
]


@pytest.mark.parametrize(("damage", "named"), OF_ONE_COMMAND)
def test_damaged_and_mixed_results_of_one_command(single, damage, named):
    damage(single)
    assert named in refused(single)


@pytest.mark.parametrize(("damage", "named"), OF_A_STUDY)
def test_damaged_and_mixed_results_of_a_study(study, damage, named):
    damage(study)
    assert named in refused(study)


@pytest.mark.parametrize("name", ["results.parquet", "config.json", "fits.csv"])
def test_no_flipped_bit_changes_what_is_read(single, name):
    expected, file = read_tree(single).parts[0], single / name
    whole, random = file.read_bytes(), np.random.default_rng(0)
    for place, bit in zip(random.integers(0, len(whole), 60), random.integers(0, 8, 60)):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << int(bit)
        file.write_bytes(flipped)
        try:
            (part,) = read_tree(single).parts
        except UserError as error:
            assert name in str(error) or "holds no results" in str(error) or "is of version" in str(error)
            assert "\n" not in str(error)
        else:
            assert name == "config.json"  # white space
            assert part.config == expected.config and str(part.rows) == str(expected.rows)


def run(capsys, *arguments):
    """Exit status, output and errors of the command."""
    with pytest.raises(SystemExit) as ended:
        cli.run(report.main, ["report", *map(str, arguments)], values=report.FLAGS, argument=report.ARGUMENT)
    out, err = capsys.readouterr()
    return ended.value.code or 0, out, err


def test_the_command_writes_into_the_results_and_replaces_only_when_told(single, capsys):
    status, out, _ = run(capsys, single, "--tables=latex")
    assert status == 0
    written = single / "report"
    assert f"Wrote {written / 'report.html'} with " in out
    assert {path.name for path in written.iterdir()} == {"report.html", "config.json", "figures", "tables"}
    assert {path.suffix for path in (written / "tables").iterdir()} == {".csv", ".tex"}
    status, _, err = run(capsys, single)
    assert (status, err.count("\n")) == (2, 1)
    assert "already holds results" in err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "RESULTS_DIR is missing"),
        (["nowhere"], "there is no directory nowhere"),
        (["a", "b"], "unexpected argument 'b'"),
        (["nowhere", "--tables=word"], "--tables: there is no format 'word'; there are markdown, latex."),
    ],
)
def test_a_users_mistake_is_one_sentence_and_status_2(capsys, arguments, named):
    status, out, err = run(capsys, *arguments)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"error: {named}")
