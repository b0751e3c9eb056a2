"""One run of a command by several processes: which they are, what they must agree on, and how they end."""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import re
import sys
import traceback
from collections.abc import Iterator
from typing import Any

import jax

from experiments.run import cli
from experiments.run.config import PairwiseConfig
from experiments.run.data import Data
from experiments.run.parts import Parts
from experiments.run.results import plain
from experiments.run.units import Units
from jaxalign.core.errors import UserError
from jaxalign.data.manifest import Manifest
from jaxalign.moments.hosts import ALONE, Hosts, end_process
from jaxalign.version import __version__

GO_ON = "Methods that were finished are kept; the same commands go on from there."
# Flags that concern one host or process 0 alone.
_OWN = {"store", "images", "crop", "bad_images", "embedding_cache", "out", "overwrite", "heatmaps"}
_OWN |= {"save_maps", "pair_list", "devices"}


@contextlib.contextmanager
def joined(values: Any, config: PairwiseConfig) -> Iterator[Hosts]:
    """The processes of this run while the block runs; a single process if no flag names others.

    All processes leave the block together. If one fails by a ``UserError``, the others raise its sentence. If one
    ends, the collective that waits for it fails, and the others end with exit status 1.

    Args:
      values: absl's flag values.
      config: of the run.

    Raises:
      UserError: flags contradict each other, JAX does not find the processes, or another process failed.
    """
    place = _place(values)
    if place is None or place[1] == 1:
        yield ALONE
        return
    _require_divisible(config)
    with _silent_standard_output():
        hosts = Hosts.start(*place)
        try:
            yield hosts
            hosts.gather()
        except UserError as mistake:
            hosts.fail(str(mistake))
            raise
        except KeyboardInterrupt:
            end_process("interrupted.", cli.INTERRUPTED)
        except jax.errors.JaxRuntimeError as error:
            end_process(
                f"a process of the run ended, or process {hosts.index} of {hosts.count} cannot go on: "
                f"{str(error).splitlines()[0]} {GO_ON}",
                1,
            )
        except BaseException:
            traceback.print_exc()
            end_process(f"a defect stopped process {hosts.index} of {hosts.count}.", 1)


def open_data(hosts: Hosts, config: PairwiseConfig) -> Data:
    """The data of a run, which all processes must have alike.

    Raises:
      UserError: as ``Data.open``; or, on every process, what differs between two of them.
    """
    if hosts.count > 1:
        hosts.agree(described(config), _compare)
    data = Data.open(config)
    if hosts.count > 1:
        hosts.agree({"usable rows": hashlib.sha256(data.rows.tobytes()).hexdigest()}, _compare)
    return data


def parts_of(hosts: Hosts, config: PairwiseConfig) -> Parts:
    """The finished parts of this run, in a directory beside --out."""
    if hosts.count == 1:
        return Parts(hosts, None)
    return Parts(hosts, Units.beside(config.out, described(config)))


def described(config: PairwiseConfig) -> dict[str, Any]:
    """What all processes must agree on, as JSON has it; files by their content."""
    assert config.store is not None
    shared = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    content = {key: plain(value) for key, value in shared.items() if key not in _OWN}
    store = describe_store(config.store, config.models)
    content |= {"version of jaxalign": __version__, f"store {store['dataset']!r}:": store}
    if config.pair_list is not None:
        path = pathlib.Path(config.pair_list)
        try:
            content["checksum of --pair_list"] = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    return json.loads(json.dumps(content))


def describe_store(path: str, models: tuple[str, ...] | None) -> dict[str, Any]:
    """A store by its content: name, rows and checksums, as its manifest has them.

    Raises:
      UserError: there is no store, or its manifest is damaged.
    """
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
    """What differs between two descriptions, one phrase each.

    Args:
      one, other: as JSON has them; lists under "stores" are compared store by store.
      sides: what to call them.
      where: what is compared.
    """
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
        raise UserError(
            f"{' and '.join(given)} need{'s' * (len(given) == 1)} {' and '.join(missing)} as well; or give "
            "--hosts=auto alone."
        )
    coordinator, count, index = explicit.values()
    found = re.fullmatch(r"(\[[^\s\[\]]+\]|[^\s\[\]]+?):([0-9]{1,5})", coordinator.strip())
    if not found or not 0 < int(found[2]) < 2**16:
        raise UserError(f"--coordinator is written host:port, such as 10.0.0.1:8476; got '{coordinator}'.")
    if count < 1 or not 0 <= index < count:
        raise UserError(f"--process_id is 0 ... {max(count, 1) - 1} of --num_processes={count}; got {index}.")
    return coordinator.strip(), count, index


def _require_divisible(config: PairwiseConfig) -> None:
    if config.store is None or config.images is not None:
        raise UserError(
            "several processes align a store: give --store and no --images; python -m experiments.embed makes one."
        )
    if config.save_maps:
        raise UserError("--save_maps is for one process; leave it out, or run without other processes.")


@contextlib.contextmanager
def _silent_standard_output() -> Iterator[None]:
    """Hides what gloo prints when devices first meet: standard output is for results, printed after the block."""
    sys.stdout.flush()
    before, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(before, 1)
        os.close(before)
        os.close(nowhere)


def _compare(first: Any, other: Any, number: int) -> str | None:
    found = list(differences(first, other, ("at process 0", f"at process {number}")))
    if not found:
        return None
    return f"the processes do not agree: {'; '.join(found[:3])}. Give all of them the same flags and stores."


def _short(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(_short(item) for item in value)
    text = str(value)
    return text[:12] + "..." if re.fullmatch("[0-9a-f]{64}", text) else text
