"""How a driver ends: exit status, one sentence, and what --help shows."""

import pathlib
import subprocess
import sys

import pytest
from absl import flags

from experiments.run import cli
from jaxalign.core.errors import UserError

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def values():
    own = flags.FlagValues()
    flags.DEFINE_integer("folds", 5, "How many parts people are dealt into.", lower_bound=0, flag_values=own)
    flags.DEFINE_enum("protocol", "default", ["default", "published"], "What is measured.", flag_values=own)
    flags.DEFINE_boolean("overwrite", False, "Replace what is there.", flag_values=own)
    flags.DEFINE_float("fraction", 0.7, "Share of people to fit on.", flag_values=own)
    flags.DEFINE_multi_string("encoder", [], "One of several.", flag_values=own)
    flags.DEFINE_string("store", None, "Where embeddings are.", flag_values=own)
    return own


def end(values, capsys, main, *arguments):
    """Exit status, standard output and standard error of a run."""
    with pytest.raises(SystemExit) as ended:
        cli.run(main, ["driver", *arguments], values=values)
    out, err = capsys.readouterr()
    return ended.value.code or 0, out, err


def test_a_good_run_ends_with_0_and_sees_its_flags(values, capsys):
    seen = []
    status, out, err = end(values, capsys, lambda argv: seen.append((argv, values.folds)), "--folds=3")
    assert (status, out, err) == (0, "", "")
    assert seen == [(["driver"], 3)]


def test_what_main_returns_is_the_status(values, capsys):
    assert end(values, capsys, lambda argv: 7)[0] == 7


def test_a_users_mistake_is_one_sentence_and_status_2(values, capsys):
    def main(argv):
        raise UserError("store 'lfw': there is no encoder 'clap'; there are arcface, clip.")

    expected = "error: store 'lfw': there is no encoder 'clap'; there are arcface, clip.\n"
    assert end(values, capsys, main) == (2, "", expected)


def test_a_defect_keeps_its_traceback(values):
    def main(argv):
        raise ValueError("ours")

    with pytest.raises(ValueError, match="ours"):
        cli.run(main, ["driver"], values=values)


def test_interruption_is_one_line_and_status_130(values, capsys):
    def main(argv):
        raise KeyboardInterrupt

    assert end(values, capsys, main) == (130, "", "interrupted\n")


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("--folds=x", "--folds takes a non-negative integer; got 'x'."),
        ("--folds=-1", "--folds takes a non-negative integer; got '-1'."),
        ("--fraction=half", "--fraction takes a number; got 'half'."),
        ("--protocol=mine", "--protocol takes default or published; got 'mine'."),
        ("--overwrite=maybe", "--overwrite takes true or false; got 'maybe'."),
        ("--fold=3", "there is no flag --fold. Did you mean --folds?"),
        ("--zebra=3", "there is no flag --zebra. --help lists those there are."),
        ("--store", "Missing value for flag --store"),
        ("extra", "unexpected argument 'extra'; options are written --name=value, --help lists them."),
    ],
)
def test_a_flag_that_cannot_be_read_is_one_sentence_and_runs_nothing(values, capsys, argument, sentence):
    ran = []
    assert end(values, capsys, ran.append, argument) == (2, "", f"error: {sentence}\n")
    assert ran == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["here", "--folds=3"], (0, "")),
        (["--folds=3", "here"], (0, "")),
        ([], (2, "error: RESULTS_DIR is missing; it is the one argument without a flag, see --help.\n")),
        ([""], (2, "error: RESULTS_DIR is missing; it is the one argument without a flag, see --help.\n")),
        (
            ["here", "there"],
            (2, "error: unexpected argument 'there'; options are written --name=value, --help lists them.\n"),
        ),
    ],
)
def test_a_driver_may_take_one_argument(values, capsys, arguments, expected):
    seen = []
    with pytest.raises(SystemExit) as ended:
        cli.run(seen.append, ["driver", *arguments], values=values, argument="RESULTS_DIR")
    assert (ended.value.code or 0, capsys.readouterr().err) == expected
    assert seen == ([["driver", "here"]] if expected[0] == 0 else [])


def test_one_run_leaves_no_flag_to_the_next(values, capsys):
    end(values, capsys, lambda argv: None, "--folds=3", "--encoder=a", "--overwrite")
    seen = []
    end(values, capsys, lambda argv: seen.append((values.folds, values.encoder, values.overwrite)))
    assert seen == [(5, [], False)]


@pytest.mark.parametrize("asked", ["--help", "-h", "--helpfull"])
def test_help_shows_the_docstring_and_every_flag_and_runs_nothing(values, capsys, asked):
    ran = []

    def main(argv):
        ran.append(argv)

    status, out, err = end(values, capsys, main, "--folds=x", asked)
    assert (status, err, ran) == (0, "", [])
    assert out.startswith("How a driver ends: exit status")
    for shown in (
        "--folds=...   (default: 5)\n      How many parts people are dealt into.",
        "--protocol=default|published   (default: default)\n      What is measured.",
        "--[no]overwrite   (default: no)\n",
        "--encoder=...   (may be given several times)\n      One of several.\n",
        "--store=...\n      Where embeddings are.",
    ):
        assert shown in out


def test_a_reader_that_leaves_is_no_error():
    program = (
        "from absl import flags\nfrom experiments.run import cli\n"
        "cli.run(lambda argv: print('row\\n' * 100000), ['driver'], values=flags.FlagValues())\n"
    )
    driver = subprocess.Popen(
        [sys.executable, "-c", program], cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert driver.stdout is not None
    assert driver.stderr is not None
    assert driver.stdout.read(4) == b"row\n"
    driver.stdout.close()
    assert driver.stderr.read() == b""
    assert driver.wait(60) == 141
