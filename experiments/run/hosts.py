"""One run of a command by several processes: what they must agree on, how they end, and what each has measured.

A part of such a run is everything of one seed and method. Process 0 gathers it from all processes and stores it until
the run is done, so that a run that was cut short goes on after the parts that are there.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from experiments.run import cli, flags, signals
from experiments.run.aligning import Aligning, Pair, Place
from experiments.run.config import OF_PHOTOGRAPHS, PairwiseConfig
from experiments.run.data import Data
from experiments.run.results import FitRow, plain
from experiments.run.units import Units
from jaxalign.biometrics import Sampled
from jaxalign.core.errors import UserError
from jaxalign.core.files import regular_file
from jaxalign.data.manifest import Manifest
from jaxalign.moments.hosts import ALONE, Hosts, end_process
from jaxalign.report import Row, Setting
from jaxalign.report.records import ProjectedPoint
from jaxalign.version import __version__

GO_ON = "Methods that were finished are kept; the same commands go on from there."
# Flags that concern one host or process 0 alone.
_OWN = {"store", *OF_PHOTOGRAPHS, "out", "overwrite", "heatmaps"}
_OWN |= {"save_maps", "pair_list", "devices"}

Content = dict[str, list[Any]]  # as JSON holds it
TUPLES = {"rows": Row, "fits": FitRow, "curves": Row, "views": ProjectedPoint}  # lists of an ``Aligning``


@dataclasses.dataclass(frozen=True, kw_only=True)
class Joining:
    """How one of several processes of a run finds the others."""

    hosts: str | None = flags.field(
        None,
        "`auto`: this process is one of several, which JAX detects (TPU pod slice, SLURM, Open MPI, Kubernetes); every "
        "one is started with the same flags. Each reads its share of the training rows and fits and measures its "
        "share of the pairs; the first writes the results. Needs --store. docs/hosts.md.",
        choices=("auto",),
    )
    coordinator: str | None = flags.field(
        None,
        "The same without detection: host:port of process 0, where it listens. Needs --num_processes and --process_id. "
        "Example: --coordinator=10.0.0.1:8476",
    )
    num_processes: int | None = flags.field(
        None, "With --coordinator: how many processes there are.", kind=int
    )
    process_id: int | None = flags.field(
        None, "With --coordinator: which of them this one is, from 0.", kind=int
    )


@contextlib.contextmanager
def joined(values: Any, config: PairwiseConfig) -> Iterator[Hosts]:
    """The processes of this run while the block runs; a single process if no flag in ``values`` names others.

    All processes leave the block together. If one fails by a ``UserError``, the others raise its sentence. If one
    ends, the collective that waits for it fails, and the others end with exit status 1.

    Raises:
      UserError: flags contradict each other, JAX does not find the processes, or another process failed.
    """
    place = _place(values)
    if place is None or place[1] == 1:
        yield ALONE
        return
    if config.store is None or config.images is not None:
        advice = "give --store and no --images; python -m experiments.embed makes one"
        raise UserError(f"several processes align a store: {advice}.")
    if config.save_maps:
        raise UserError("--save_maps is for one process; leave it out, or run without other processes.")
    with _gloo_silenced():
        hosts = Hosts.start(*place)
        signals.listen()  # JAX has set its own handler of SIGTERM
        this = f"process {hosts.index} of {hosts.count}"
        try:
            yield hosts
            hosts.gather()
        except UserError as mistake:
            hosts.fail(str(mistake))
            raise
        except KeyboardInterrupt:
            signals.end_if_asked()
            end_process("interrupted.", cli.INTERRUPTED)
        except jax.errors.JaxRuntimeError as error:
            reason = str(error).splitlines()[0]
            end_process(f"a process of the run ended, or {this} cannot go on: {reason} {GO_ON}", 1)
        except BaseException:
            traceback.print_exc()
            end_process(f"a defect stopped {this}.", 1)


def open_data(hosts: Hosts, config: PairwiseConfig) -> Data:
    """The data of a run; ``UserError`` on every process where two do not have it alike."""
    if hosts.count > 1:
        hosts.agree(described(config), _compare)
    data = Data.open(config, tell=hosts.first)
    if hosts.count > 1:
        hosts.agree({"usable rows": hashlib.sha256(data.rows.tobytes()).hexdigest()}, _compare)
    return data


def described(config: PairwiseConfig) -> dict[str, Any]:
    """What all processes must agree on, as JSON has it; files by their content."""
    assert config.store is not None
    content = {key: value for key, value in plain(config).items() if key not in _OWN}
    store = describe_store(config.store, config.models)
    content |= {"version of jaxalign": __version__, f"store {store['dataset']!r}:": store}
    if config.pair_list is not None:
        path = regular_file(config.pair_list, "a list of pairs")
        try:
            content["checksum of --pair_list"] = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    return json.loads(json.dumps(content))


def describe_store(path: str, models: tuple[str, ...] | None) -> dict[str, Any]:
    """A store by its content: name, rows and checksums, as its manifest has them."""
    manifest = Manifest.read(pathlib.Path(path))
    names = [name for name in manifest.encoders if models is None or name in models]
    return {
        "dataset": manifest.dataset,
        "rows": manifest.rows,
        "samples checksum": manifest.samples_sha256,
        "checksum of": {name: manifest.encoders[name].sha256 for name in names},
    }


def differences(
    one: Any, other: Any, sides: tuple[str, str] = ("there", "here"), where: str = ""
) -> Iterator[str]:
    """What differs between two descriptions as JSON has them, one phrase each; ``stores`` are compared one by one."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in dict.fromkeys([*one, *other]):
            yield from differences(one.get(key), other.get(key), sides, f"{where} {key}".strip())
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other) and where == "stores":
        for left, right in zip(one, other):
            yield from differences(left, right, sides, f"store {left.get('dataset')!r}:")
    elif one != other:
        yield f"{where} is {_short(one)} {sides[0]}, {_short(other)} {sides[1]}"


def _place(values: Any) -> tuple[str | None, int | None, int | None] | None:
    """Coordinator, number of processes and index of this one, all None for JAX to find; None for a single process."""
    explicit = {name: getattr(values, name) for name in ("coordinator", "num_processes", "process_id")}
    given = [f"--{name}" for name, value in explicit.items() if value is not None]
    missing = [f"--{name}" for name, value in explicit.items() if value is None]
    if values.hosts is not None:
        if given:
            raise UserError(f"--hosts={values.hosts} and {given[0]} exclude each other; leave one out.")
        return None, None, None
    if not given:
        return None
    if missing:
        also = f"need{'s' * (len(given) == 1)} {' and '.join(missing)} as well"
        raise UserError(f"{' and '.join(given)} {also}; or give --hosts=auto alone.")
    coordinator, count, index = explicit.values()
    found = re.fullmatch(r"(\[[^\s\[\]]+\]|[^\s\[\]]+?):([0-9]{1,5})", coordinator.strip())
    if not found or not 0 < int(found[2]) < 2**16:
        raise UserError(f"--coordinator is written host:port, such as 10.0.0.1:8476; got '{coordinator}'.")
    if count < 1 or not 0 <= index < count:
        raise UserError(f"--process_id is 0 ... {max(count, 1) - 1} of --num_processes={count}; got {index}.")
    return coordinator.strip(), count, index


@contextlib.contextmanager
def _gloo_silenced() -> Iterator[None]:
    """Hides what gloo prints when devices first meet, on descriptor 1: standard output is for results."""
    sys.stdout.flush()
    before, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    shown = os.fdopen(before, "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors)
    os.dup2(nowhere, 1)
    try:
        with contextlib.redirect_stdout(shown):
            yield
    finally:
        os.dup2(before, 1)
        shown.close()
        os.close(nowhere)


def _compare(first: Any, other: Any, number: int) -> str | None:
    found = list(differences(first, other, ("at process 0", f"at process {number}")))
    if not found:
        return None
    return f"the processes do not agree: {'; '.join(found[:3])}. Give all of them the same flags and stores."


def _short(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(_short(item) for item in value)
    if isinstance(value, dict):
        return f"{len(value)} entries"
    text = str(value)
    return text[:12] + "..." if re.fullmatch("[0-9a-f]{64}", text) else text


class Parts:
    """The parts of a run: their names at every process, their content at process 0, which stores them in ``units``."""

    def __init__(self, hosts: Hosts, units: Units | None):
        self.hosts, self.units = hosts, units
        self._names = set(hosts.broadcast(units.names() if units is not None and hosts.first else []))

    @classmethod
    def of(cls, hosts: Hosts, config: PairwiseConfig) -> "Parts":
        """The finished parts of this run, in a directory beside --out; a process on its own stores none."""
        return cls(hosts, None if hosts.count == 1 else Units.beside(config.out, described(config)))

    def __len__(self) -> int:
        """How many there are."""
        return len(self._names)

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def add(self, run: Aligning, name: str, measure: Callable[[Aligning], None]) -> None:
        """Adds a part to what process 0 has found, ``run``: read where it is there, else measured now by all processes.

        ``measure`` adds what this process has to measure of the part.
        """
        if self.units is None:
            measure(run)
            return
        if name not in self:
            mine = Aligning(run.config, run.data, run.hosts)
            measure(mine)
            contents = self.hosts.gather(content_of(mine))
            if contents is not None:
                self.units.write(name, _together(contents, run))
        if self.hosts.first:
            add_content(run, self.units.read(name))

    def remove(self) -> None:
        """Deletes all, the run being done."""
        if self.units is not None and self.hosts.first:
            self.units.remove()


def content_of(found: Aligning) -> Content:
    """What was measured, as JSON can hold it. Every item begins with its place or its pair of encoders."""
    return {name: [list(row) for row in getattr(found, name)] for name in TUPLES} | {
        "sampled": [
            [list(place), [[*key, one.estimate, one.samples.tolist()] for key, one in of.items()]]
            for place, of in found.sampled.items()
        ],
        "doubtful": [[source, target, *dataclasses.astuple(of)] for source, target, of in found.doubtful],
        "without_value": [[list(place), reason] for place, reason in found.without_value.items()],
    }


def add_content(found: Aligning, content: Content) -> None:
    """Adds what ``content_of`` made to what was measured."""
    for name, kind in TUPLES.items():
        getattr(found, name).extend(kind(*row) for row in content[name])
    found.doubtful |= {
        (source, target, Setting(*setting)) for source, target, *setting in content["doubtful"]
    }
    found.without_value |= {Place(*place): reason for place, reason in content["without_value"]}
    found.sampled |= {
        Place(*place): {
            (own, name): Sampled(estimate, np.array(samples)) for own, name, estimate, samples in of
        }
        for place, of in content["sampled"]
    }


def _together(contents: Sequence[Content], run: Aligning) -> Content:
    """The contents of all processes, pair by pair in the order of a process on its own."""
    pairs = [*((name, name) for name in run.encoders), *run.pairs]
    order = {pair: number for number, pair in enumerate(pairs)}

    def pair_of(kind: str, item: Any) -> Pair:
        if kind == "doubtful":
            return item[0], item[1]
        place = item if kind in TUPLES else item[0]
        return place[1], place[2]

    together = {kind: [item for content in contents for item in content[kind]] for kind in contents[0]}
    for kind, items in together.items():
        items.sort(key=lambda item, kind=kind: order[pair_of(kind, item)])
    return together
