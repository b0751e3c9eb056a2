"""How a command ends: exit status, one sentence, and what --help shows."""

import os
import signal
import time
import types

import pytest
from absl import flags
from commands import run
from processes import finished, start

from experiments.run import cli
from experiments.run.computing import cache_directory, set_compilation_cache
from jaxalign.core.errors import UserError


@pytest.fixture
def values():
    own = flags.FlagValues()
    flags.DEFINE_integer("folds", 5, "How many parts people are split into.", lower_bound=0, flag_values=own)
    flags.DEFINE_enum("protocol", "default", ["default", "published"], "What is measured.", flag_values=own)
    flags.DEFINE_boolean("overwrite", False, "Replace what is there.", flag_values=own)
    flags.DEFINE_float("fraction", 0.7, "Share of people to fit on.", flag_values=own)
    flags.DEFINE_multi_string("encoder", [], "One of several.", flag_values=own)
    flags.DEFINE_string("store", None, "Where embeddings are.", flag_values=own)
    return own


def end(values, main, *arguments):
    """Exit status, standard output and standard error of a run."""
    done = run(types.SimpleNamespace(main=main, FLAGS=values), *arguments)
    return done.returncode, done.stdout, done.stderr


def raising(error):
    def main(argv):
        raise error

    return main


def test_a_good_run_ends_with_0_and_sees_its_flags(values):
    seen = []
    assert end(values, lambda argv: seen.append((argv, values.folds)), "--folds=3") == (0, "", "")
    assert seen == [(["driver"], 3)]
    assert end(values, lambda argv: 7)[0] == 7


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (UserError("store 'lfw': there is no 'clap'."), (2, "", "error: store 'lfw': there is no 'clap'.\n")),
        (KeyboardInterrupt(), (130, "", "interrupted\n")),
    ],
)
def test_a_users_mistake_and_an_interruption_are_one_line(values, error, expected):
    assert end(values, raising(error)) == expected


def test_a_defect_keeps_its_traceback(values):
    with pytest.raises(ValueError, match="ours"):
        cli.run(raising(ValueError("ours")), ["driver"], values=values)


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("--folds=x", "--folds takes a non-negative integer; got 'x'."),
        ("--folds=-1", "--folds takes a non-negative integer; got '-1'."),
        ("--fraction=half", "--fraction takes a number; got 'half'."),
        ("--protocol=mine", "--protocol takes default or published; got 'mine'."),
        ("--overwrite=maybe", "--overwrite takes true or false; got 'maybe'."),
        ("--fold=3", "there is no flag --fold. Did you mean --folds?"),
        ("--no-overwrite", "there is no flag --no-overwrite. Did you mean --nooverwrite?"),
        ("--zebra=3", "there is no flag --zebra. --help lists those there are."),
        ("--store", "Missing value for flag --store"),
        ("extra", "unexpected argument 'extra'; options are written --name=value, --help lists them."),
    ],
)
def test_a_flag_that_cannot_be_read_is_one_sentence_and_runs_nothing(values, argument, sentence):
    ran = []
    assert end(values, ran.append, argument) == (2, "", f"error: {sentence}\n")
    assert ran == []


@pytest.mark.parametrize(
    ("arguments", "status", "named"),
    [
        (["here", "--folds=3"], 0, ""),
        (["--folds=3", "here"], 0, ""),
        ([], 2, "error: RESULTS_DIR is missing"),
        ([""], 2, "error: RESULTS_DIR is missing"),
        (["here", "there"], 2, "error: unexpected argument 'there'"),
    ],
)
def test_a_driver_may_take_one_argument(values, capsys, arguments, status, named):
    seen = []
    with pytest.raises(SystemExit) as ended:
        cli.run(seen.append, ["driver", *arguments], values=values, argument="RESULTS_DIR")
    assert (ended.value.code or 0) == status
    assert capsys.readouterr().err.startswith(named)
    assert seen == ([["driver", "here"]] if status == 0 else [])


def test_one_run_leaves_no_flag_to_the_next(values):
    end(values, lambda argv: None, "--folds=3", "--encoder=a", "--overwrite")
    seen = []
    end(values, lambda argv: seen.append((values.folds, values.encoder, values.overwrite)))
    assert seen == [(5, [], False)]


@pytest.mark.parametrize("asked", ["--help", "-h", "--helpfull"])
def test_help_shows_the_docstring_and_every_flag_and_runs_nothing(values, asked):
    ran = []

    def main(argv):
        ran.append(argv)

    status, out, err = end(values, main, "--folds=x", asked)
    assert (status, err, ran) == (0, "", [])
    assert out.startswith("How a command ends: exit status")
    for shown in (
        "--folds=...   (default: 5)\n      How many parts people are split into.",
        "--protocol=default|published   (default: default)\n      What is measured.",
        "--[no]overwrite   (default: no)\n",
        "--encoder=...   (may be given several times)\n      One of several.\n",
        "--store=...\n      Where embeddings are.",
    ):
        assert shown in out


def test_a_reader_that_leaves_is_no_error(tmp_path):
    program = (
        "from absl import flags\nfrom experiments.run import cli\n"
        "cli.run(lambda argv: print('row\\n' * 100000), ['driver'], values=flags.FlagValues())\n"
    )
    command = start("-c", program, cache=tmp_path)
    assert command.stdout is not None and command.stderr is not None
    assert command.stdout.read(4) == "row\n"
    command.stdout.close()
    assert command.stderr.read() == ""
    assert command.wait(60) == 141


COMMAND = """
import pathlib, sys, time
from concurrent.futures import ThreadPoolExecutor
from absl import flags
from experiments.run import cli, results
from experiments.run.progress import Progress
out, mode = sys.argv[1:]
def main(_):
    with results.writer(out) as write, Progress(0) as progress, ThreadPoolExecutor(1) as pool:
        write.text("table.txt", "half")
        if mode == "thread":
            pool.submit(time.sleep, 60)
        print("running", flush=True)
        while True:
            time.sleep(60 if mode == "program" else 0.01)
            progress.show("a step")
cli.run(main, ["driver"], values=flags.FlagValues())
"""
SLOW = "from experiments.run import signals; signals.GRACE_SECONDS = 1e6\nimport pathlib"


@pytest.mark.skipif(os.name != "posix", reason="sends signals")
@pytest.mark.parametrize("mode", ["steps", "program", "thread"])
@pytest.mark.parametrize("sent", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_ends_a_command_cleanly(tmp_path, mode, sent):
    """Between steps, while one step takes long, and while another thread is at work."""
    command = start("-c", COMMAND, tmp_path / "deep" / "out", mode, cache=tmp_path)
    assert command.stdout is not None and command.stdout.readline() == "running\n"
    command.send_signal(getattr(signal, sent))
    (done,) = finished([command], timeout=30)
    assert done.returncode == 128 + getattr(signal, sent)
    assert done.stderr == "interrupted\n"
    assert not list(tmp_path.rglob("*out*"))


@pytest.mark.skipif(os.name != "posix", reason="limits addresses")
def test_a_limit_of_addresses_that_jax_would_abort_at_is_refused(tmp_path):
    code = "import resource; resource.setrlimit(resource.RLIMIT_AS, (1_200_000_000,) * 2); "
    code += "from experiments import pairwise as p; p.cli.run(p.main, ['p', '--seeds=1'], values=p.FLAGS)"
    (done,) = finished([start("-c", code, cache=tmp_path, cwd=tmp_path)])
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "ulimit -v leaves 0." in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="sends signals")
def test_the_second_signal_does_not_wait(tmp_path):
    command = start(
        "-c", COMMAND.replace("import pathlib", SLOW, 1), tmp_path / "out", "program", cache=tmp_path
    )
    assert command.stdout is not None and command.stdout.readline() == "running\n"
    for _ in range(2):
        command.send_signal(signal.SIGINT)
        time.sleep(0.3)  # so that the system does not merge the two
    (done,) = finished([command], timeout=30)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")
    assert not list(tmp_path.glob("*out*"))


def test_paths_may_begin_at_home(values, monkeypatch):
    monkeypatch.setenv("HOME", "/users/ann")
    seen = []
    main = lambda argv: seen.append((values.store, values.encoder))  # noqa: E731
    end(values, main, "--store=~/a,~/b", "--encoder=onnx:~/r50.onnx", "--encoder=~", "--encoder=a~/b")
    assert seen == [
        ("/users/ann/a,/users/ann/b", ["onnx:/users/ann/r50.onnx", "/users/ann", "a~/b"]),
    ]


def test_a_user_without_a_home_is_told(values, monkeypatch):
    def home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr("pathlib.Path.home", home)
    assert end(values, lambda argv: None, "--store=~/a")[0] == 2


def test_a_terminal_without_our_signs_shows_others(tmp_path):
    program = (
        "from absl import flags\nfrom experiments.run import cli\n"
        "cli.run(lambda argv: print('a → b'), ['driver'], values=flags.FlagValues())\n"
    )
    (done,) = finished([start("-c", program, cache=tmp_path, PYTHONIOENCODING="ascii")])
    assert (done.returncode, done.stdout, done.stderr) == (0, "a ? b\n", "")


CACHED = """
import sys
import jax
from experiments.run.computing import set_compilation_cache
set_compilation_cache(sys.argv[1])
print(jax.jit(lambda x: x * 3 + 1)(2.0))
"""


def test_a_damaged_program_in_the_cache_is_replaced(tmp_path):
    def run_once():
        (done,) = finished([start("-c", CACHED, tmp_path / "programs", cache=tmp_path)])
        assert (done.returncode, done.stdout, done.stderr) == (0, "7.0\n", "")
        return {path: path.read_bytes() for path in (tmp_path / "programs").glob("*-cache")}

    programs = run_once()
    assert programs
    for path, content in programs.items():
        path.write_bytes(content[: len(content) // 2])
    assert run_once().keys() == programs.keys()
    assert all(len(path.read_bytes()) > len(content) // 2 for path, content in programs.items())


def test_a_user_without_a_home_has_no_cache(monkeypatch):
    def home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("pathlib.Path.home", home)
    assert set_compilation_cache("default") is None
    with pytest.raises(UserError, match="no home directory"):
        cache_directory("default", "embeddings")
