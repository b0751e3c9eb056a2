"""Flag values: what is read, what is refused, and with which words."""

import dataclasses
import functools
import importlib
import re

import pytest
from processes import finished, start

from experiments.run import cli, flags
from experiments.run.computing import Compiling
from experiments.run.config import PairwiseConfig, Stores
from experiments.run.hosts import Joining
from experiments.run.protocols import Protocol
from jaxalign.core.errors import UserError

KNOWN = flags.of(PairwiseConfig, Protocol, Compiling, Joining, Stores)


@pytest.mark.parametrize("name", KNOWN)
def test_help_is_sentences(name):
    text = KNOWN[name].help
    assert text[0].isupper() or text[0] == "`"
    assert len(text) > 30
    assert "  " not in text


COMMANDS = (
    "apply capacity convert_weights data_efficiency embed families geometry import_embeddings pairwise "
)
COMMANDS += "rank_sweep report ridge_path stability study sweep train_zoo transfer"


@pytest.mark.parametrize("name", COMMANDS.split())
def test_help_names_only_flags_that_the_command_has(name):
    command = importlib.import_module(f"experiments.{name}")
    there = {form for name in command.FLAGS for form in (f"--{name}", f"--no{name}")}
    named = set(re.findall(r"--\w+", cli.help_text(command.main, command.FLAGS).replace("--[no]", "--")))
    assert named <= there


@dataclasses.dataclass(frozen=True, kw_only=True)
class Baking:
    """A configuration as commands have them."""

    minutes: int = flags.field(40, "How long to bake.")
    cakes: tuple[int, ...] = flags.field(
        "1,2", "How many of each.", read=functools.partial(flags.whole_numbers, low=1, high=9)
    )
    glazed: bool = flags.field(False, "Whether there is a glaze.")
    warmth: str = flags.field(None, "Which oven.", choices=("gas", "wood"), initial="gas")
    note: str = "no flag"


def test_flags_are_the_fields_of_a_configuration():
    values = flags.define(Baking, without=("glazed",), minutes=50)
    values(["bake", "--cakes=3,4"])
    assert (values.minutes, values.cakes, values.warmth) == (50, "3,4", None)
    assert "glazed" not in values and "note" not in values
    given = flags.every(Baking, values)
    assert given == {"minutes": 50, "cakes": "3,4", "glazed": False, "warmth": None}
    assert flags.read(Baking, given) == {**given, "cakes": (3, 4)}
    assert vars(flags.namespace(values, warmth="wood")) == {"minutes": 50, "cakes": "3,4", "warmth": "wood"}
    assert flags.namespace(values, only_defaults=True).cakes == "1,2"
    with pytest.raises(UserError, match="--cakes"):
        flags.read(Baking, {**given, "cakes": "10"})
    with pytest.raises(KeyError):
        flags.define(Baking, seconds=3)


NUMBERS = functools.partial(flags.numbers, low=0, high=1)
WHOLE = functools.partial(flags.whole_numbers, low=0, high=100)
WORDS = functools.partial(flags.words, known=("arcface", "clip"), what="encoder")


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (flags.penalty, "0.1", 0.1),
        (flags.penalty, "1e-3,1,100", (1e-3, 1.0, 100.0)),
        (flags.penalty, "0.1, 1", (0.1, 1.0)),
        (flags.penalty, "cv", "cv"),
        (flags.penalty, "gcv", "gcv"),
        (flags.ranks, "64", (64,)),
        (flags.ranks, "8,full", (8, None)),
        (flags.ranks, "cv", "cv"),
        (flags.ranks, "full", (None,)),
        (flags.one_rank, "7", 7),
        (NUMBERS, "0.001,1", (0.001, 1.0)),
        (WHOLE, "42,0", (42, 0)),
        (WORDS, "clip, arcface", ("clip", "arcface")),
    ],
)
def test_values_are_read(read, text, value):
    assert read("flag", text) == value


@pytest.mark.parametrize(
    ("read", "texts"),
    [
        (flags.penalty, ["0", "-1", "nan", "inf", "a", "", "0.1,,1", "cv,1", "0.1,0.1"]),
        (flags.ranks, ["0", "-3", "1.5", "cv,8", "", "8,8", "full,full", "²", "99999999999"]),
        (flags.one_rank, ["0", "1.5", "", "²", "99999999999"]),
        (NUMBERS, ["0", "1.5", "x", "nan", "0.1,0.1"]),
        (WHOLE, ["-1", "101", "4.2", "x", "1,1"]),
        (WORDS, ["arcface,clap", "clip,clip", ","]),
    ],
)
def test_bad_values_are_refused_by_the_name_of_the_flag(read, texts):
    for text in texts:
        with pytest.raises(UserError, match="^--flag"):
            read("flag", text)


CACHE_SCRIPT = """
import sys, jax, jax.numpy as jnp
from experiments.run.computing import set_compilation_cache
print(set_compilation_cache(sys.argv[1]))
jax.jit(lambda x: x * 3 + 1)(jnp.arange(7.0)).block_until_ready()
"""


def test_compilation_cache_keeps_small_programs_and_can_be_off_or_refused(tmp_path):
    (tmp_path / "file").touch()
    values = ["default", "none", str(tmp_path / "file")]
    started = [
        start("-c", CACHE_SCRIPT, value, cache=tmp_path, XDG_CACHE_HOME="", HOME=tmp_path / str(number))
        for number, value in enumerate(values)
    ]
    default, none, refused = finished(started)
    assert default.returncode == 0, default.stderr
    assert list((tmp_path / "0/.cache/jaxalign/compiled").iterdir())
    assert none.stdout == "None\n"
    assert not (tmp_path / "1").exists()
    assert "UserError: --compilation_cache" in refused.stderr
