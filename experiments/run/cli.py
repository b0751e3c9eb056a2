"""How a command starts and ends: flags, ``--help``, and a user's mistake as one sentence and exit status 2.

if __name__ == "__main__":
    cli.run(main, values=FLAGS)
"""

import contextlib
import functools
import io
import math
import os
import pathlib
import re
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

from absl import flags

from experiments.run import signals
from jaxalign.core.devices import cores
from jaxalign.core.errors import UserError, UserNote
from jaxalign.core.memory import available_addresses, available_memory

FAILED = 2
INTERRUPTED = 130  # as a shell reports a program ended by Ctrl-C
PIPE_CLOSED = 141  # likewise for a reader of our output that went away, such as `head`
START_ADDRESSES = 2**31  # that JAX and pyarrow reserve as they start (measured: docs/scale.md),
CORE_ADDRESSES = 2**27  # and for the two threads of each core
HOME = re.compile(r"(?<![^,:=])~(?=/|,|$)")  # at the start of a path
NO_MEMORY = re.compile("RESOURCE_EXHAUSTED|[Oo]ut of memory|can't start new thread|[Cc]annot allocate memory")
ADVICE = "Take fewer encoders or photographs at once, or a machine or limit with more memory."
GROUPS = {  # of the flags that several commands have, for --help
    "Data": "store stores images models crop bad_images identity_column embedding_cache sources targets nonfinite",
    "Fitting": "protocol methods l2 ranks loss steps fit_rank folds normalize seeds train_fraction",
    "Measuring": "measures rank_k fmr max_per_person own_photograph comparisons pair_list gallery controls intervals "
    "scores open_set fpir draws calibration prior cost_miss cost_false",
    "Output": "out overwrite curves heatmaps save_maps tables",
    "Computing": "devices hosts coordinator num_processes process_id compilation_cache",
}
HELP = frozenset({"--help", "-help", "-h", "--helpshort", "--helpfull"})


@contextlib.contextmanager
def _notes_as_sentences() -> Iterator[None]:
    """Within, warnings about a user's data are printed as one sentence each, without the place in our code."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserNote)
        warnings.showwarning = functools.partial(_show_warning, warnings.showwarning)
        yield


@_notes_as_sentences()
def run(
    main: Callable[[list[str]], Any],
    argv: Sequence[str] | None = None,
    *,
    values: flags.FlagValues,
    argument: str = "",
) -> NoReturn:
    """Reads the flags, runs a command, and ends the program with its exit status.

    Args:
      main: the command. It gets the arguments that are not flags, the program's name first, and returns the exit
        status; None is 0. ``--help`` shows the docstring of its module.
      argv: the command line, the program's name first; by default ``sys.argv``.
      values: the flags that the command takes.
      argument: the name of the one argument that the command needs beside its flags, if any.

    Raises:
      SystemExit: always. Status 2 for a ``UserError`` or a flag that cannot be read, with ``error:`` and one
        sentence on standard error; 130 for Ctrl-C, 143 for SIGTERM. Any other exception is a defect and passes through.
    """
    argv = list(sys.argv if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that lacks a sign of ours shows another
            stream.reconfigure(errors="replace")
    with signals.heard():
        status = _status(main, argv, values, argument)
    sys.exit(status)


def _status(
    main: Callable[[list[str]], Any], argv: list[str], values: flags.FlagValues, argument: str
) -> Any:
    """Runs a command; its exit status."""
    try:
        if HELP.intersection(argv[1:]):
            print(help_text(main, values))
            status = 0
        else:
            rest = _parse(argv, values, argument)
            _require_addresses()
            status = main(rest)
        sys.stdout.flush()
    except UserError as mistake:
        signals.end_if_asked()  # its files may have been removed under it
        print(f"error: {mistake}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        signals.end_if_asked()
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Python flushes standard output once more when it ends; nobody reads it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except (MemoryError, RuntimeError, OSError) as error:  # JAX's errors are RuntimeErrors
        signals.end_if_asked()
        if not isinstance(error, MemoryError) and not NO_MEMORY.search(str(error)):
            raise
        print(f"error: memory ran out ({_memory()}). {ADVICE}", file=sys.stderr)
        return FAILED
    return status


def _require_addresses() -> None:
    """Raises ``UserError`` where ``ulimit -v`` leaves so little that JAX may abort as it starts."""
    free, needed = available_addresses(), START_ADDRESSES + cores() * CORE_ADDRESSES
    if free is not None and free < needed:
        raise UserError(
            f"JAX and pyarrow reserve {needed / 2**30:.2f} GiB of addresses, far more than they use, and ulimit -v "
            f"leaves {free / 2**30:.2f} GiB: raise that limit by {math.ceil((needed - free) / 2**20):,} MiB, or limit "
            "memory by a control group (docs/scale.md)."
        )


def _memory() -> str:
    free = available_memory()
    return "the system does not say how much there is" if free is None else f"{free / 2**30:.1f} GiB are free"


def _show_warning(otherwise: Callable[..., Any], message: Warning | str, category: type, *where: Any) -> None:
    if issubclass(category, UserNote):
        print(f"note: {message}", file=sys.stderr)
    else:
        otherwise(message, category, *where)


def help_text(main: Callable[..., Any], values: flags.FlagValues) -> str:
    """The docstring of the command's module and its flags in groups, each with its default."""
    lines = [(sys.modules[main.__module__].__doc__ or "").strip()]
    left = list(values)
    for title, names in GROUPS.items():
        lines += _group(title, [name for name in names.split() if name in left], values)
        left = [name for name in left if name not in names.split()]
    return "\n".join(lines + _group("Of this command", left, values))


def _group(title: str, names: Sequence[str], values: flags.FlagValues) -> list[str]:
    lines = ["", f"{title}:"] if names else []
    wrapper = textwrap.TextWrapper(100, " " * 6, " " * 6, break_on_hyphens=False)
    for name in names:
        # What absl adds to the help is shown by the usage.
        told = re.sub(
            r"^<[^>]*>: |;\s+repeat this option to specify a list of values$", "", values[name].help or ""
        )
        lines += ["", f"  {_usage(values[name])}", wrapper.fill(told)]
    return lines


def _usage(flag: flags.Flag) -> str:
    """The flag as one writes it, and its default."""
    if flag.boolean:
        return f"--[no]{flag.name}   (default: {'yes' if flag.default else 'no'})"
    form = f"--{flag.name}=" + ("|".join(_choices(flag)) or "...")
    if isinstance(flag, flags.MultiFlag):
        return form + "   (may be given several times)"
    return form if flag.default in (None, "") else f"{form}   (default: {flag.default})"


def _choices(flag: flags.Flag) -> Sequence[str]:
    return getattr(flag.parser, "enum_values", ())


def _parse(argv: list[str], values: flags.FlagValues, argument: str) -> list[str]:
    """Reads flags into ``values``, starting from their defaults: one run leaves nothing to the next."""
    for name in values:
        values[name].unparse()
    try:
        rest = values(argv)
    except flags.IllegalFlagValueError as error:
        raise UserError(_explain(error, values)) from error
    except flags.UnrecognizedFlagError as error:
        near = re.findall(r"[\w-]+", str(error).partition("Did you mean:")[2])
        if error.flagname.startswith("no"):
            near = [f"no{name}" if values[name].boolean else name for name in near]
        near = [f"--{name}" for name in near]
        hint = f"Did you mean {' or '.join(near)}?" if near else "--help lists those there are."
        raise UserError(f"there is no flag --{error.flagname}. {hint}") from error
    except flags.Error as error:
        raise UserError(" ".join(str(error).split())) from error
    taken = 2 if argument else 1
    if len(rest) > taken:
        advice = "options are written --name=value, --help lists them"
        raise UserError(f"unexpected argument '{rest[taken]}'; {advice}.")
    if argument and (len(rest) < taken or not rest[1]):
        raise UserError(f"{argument} is missing; it is the one argument without a flag, see --help.")
    for name in values:
        values[name].value = _at_home(values[name].value)
    return [_at_home(text) for text in rest]


def _at_home(value: Any) -> Any:
    """Text, or a list of texts, where ``~/`` at the start of a path is the user's home directory.

    Shells replace it at the start of a word only, and not in ``--out=~/results`` or ``folder:~/faces``.
    """
    if isinstance(value, list):
        return [_at_home(item) for item in value]
    if not isinstance(value, str) or not HOME.search(value):
        return value
    try:
        return HOME.sub(lambda _: str(pathlib.Path.home()), value)
    except RuntimeError as error:
        raise UserError(f"'{value}' is in the home directory, which this user does not have.") from error


def _explain(error: flags.Error, values: flags.FlagValues) -> str:
    """What a flag takes and what it got, from absl's ``flag --name=value: reason``."""
    text = " ".join(str(error).split())
    found = re.match(r"flag --([\w-]+)=(.*?): ", text)
    if not found or found[1] not in values:
        return text
    flag = values[found[1]]
    whole = flag.parser.syntactic_help.replace("an integer", "a whole number")
    expected = "true or false" if flag.boolean else " or ".join(_choices(flag)) or whole
    return f"--{flag.name} takes {expected or 'another value'}; got '{found[2]}'."
