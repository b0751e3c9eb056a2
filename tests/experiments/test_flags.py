"""Flag values: what is read, what is refused, and with which words."""

import pathlib
import subprocess
import sys

import pytest

from experiments.run import flags
from experiments.run.config import Compiling, Joining, PairwiseConfig, Stores
from experiments.run.protocols import Protocol
from jaxalign.core.errors import UserError

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
CONTRACT = ["store", "models", "methods", "ranks", "l2", "seeds", "protocol", "normalize", "out", "overwrite"]
KNOWN = flags.of(PairwiseConfig, Protocol, Compiling, Joining, Stores)


def test_every_name_that_others_script_against_is_there():
    assert set(CONTRACT) <= set(KNOWN)


@pytest.mark.parametrize("name", KNOWN)
def test_help_is_sentences(name):
    text = KNOWN[name].help
    assert text[0].isupper() or text[0] in "`"
    assert len(text) > 30
    assert "  " not in text


@pytest.mark.parametrize(
    ("text", "value"),
    [("0.1", 0.1), ("1e-3,1,100", (1e-3, 1.0, 100.0)), ("cv", "cv"), ("gcv", "gcv"), ("0.1, 1", (0.1, 1.0))],
)
def test_penalty_reads(text, value):
    assert flags.penalty("l2", text) == value


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "a", "", "0.1,,1", "cv,1", "0.1,0.1"])
def test_penalty_refuses(text):
    with pytest.raises(UserError, match=r"^--l2"):
        flags.penalty("l2", text)


@pytest.mark.parametrize(
    ("text", "value"), [("64", (64,)), ("8,full", (8, None)), ("cv", "cv"), ("full", (None,))]
)
def test_ranks_read(text, value):
    assert flags.ranks("ranks", text) == value


@pytest.mark.parametrize("text", ["0", "-3", "1.5", "cv,8", "", "8,8", "full,full", "²", "99999999999"])
def test_ranks_refuse(text):
    with pytest.raises(UserError, match=r"^--ranks"):
        flags.ranks("ranks", text)


def test_words_refuse_an_unknown_name_with_the_list_of_those_there():
    with pytest.raises(UserError, match="no encoder 'clap'; there are arcface, clip"):
        flags.words("models", "arcface,clap", ("arcface", "clip"), "encoder")
    with pytest.raises(UserError, match="names clip twice"):
        flags.words("models", "clip,clip", ("arcface", "clip"), "encoder")
    with pytest.raises(UserError, match="names no encoder"):
        flags.words("models", ",", ("arcface", "clip"), "encoder")


def test_numbers_have_limits():
    assert flags.numbers("fmr", "0.001,1", 0, 1) == (0.001, 1.0)
    for text in ["0", "1.5", "x", "nan", "0.1,0.1"]:
        with pytest.raises(UserError, match=r"^--fmr"):
            flags.numbers("fmr", text, 0, 1)
    assert flags.whole_numbers("seeds", "42,0", 0, 100) == (42, 0)
    for text in ["-1", "101", "4.2", "x", "1,1"]:
        with pytest.raises(UserError, match=r"^--seeds"):
            flags.whole_numbers("seeds", text, 0, 100)


CACHE_SCRIPT = """
import sys, jax, jax.numpy as jnp
from experiments.run.data import set_compilation_cache
print(set_compilation_cache(sys.argv[1]))
jax.jit(lambda x: x * 3 + 1)(jnp.arange(7.0)).block_until_ready()
"""


def _run_cache_script(value, home):
    command = [sys.executable, "-c", CACHE_SCRIPT, value]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(home), "JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=120
    )


def test_compilation_cache_keeps_small_programs_in_a_directory_per_user(tmp_path):
    done = _run_cache_script("default", tmp_path)
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / ".cache/jaxalign/compiled").iterdir())


def test_compilation_cache_can_be_off_or_refused(tmp_path):
    assert _run_cache_script("none", tmp_path).stdout == "None\n"
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    refused = _run_cache_script(str(tmp_path / "file"), tmp_path)
    assert "UserError: --compilation_cache" in refused.stderr
