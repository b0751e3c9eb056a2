"""One run of a driver by several processes: where each stands, what they must agree on, and how they end."""

import contextlib
import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Iterator
from typing import Any

from experiments.run import cli, devices
from experiments.run.agreement import describe_store, differences
from experiments.run.config import PairwiseConfig
from experiments.run.data import Data
from experiments.run.parts import Parts
from experiments.run.results import plain
from experiments.run.units import Units
from jaxalign.core.errors import UserError
from jaxalign.moments.hosts import ALONE, Hosts, Links, Place
from jaxalign.version import __version__

# Of the host and not of the run, or of process 0 alone.
_OWN = (
    "store",
    "images",
    "crop",
    "bad_images",
    "embedding_cache",
    "out",
    "overwrite",
    "heatmaps",
    "save_maps",
    "pair_list",
    "devices",
)


@contextlib.contextmanager
def joined(values: Any, config: PairwiseConfig) -> Iterator[Hosts]:
    """The processes of this run while the block runs; a process on its own where no flag names others.

    Where the block ends well, this process waits until process 0 has written the results. Where it fails, the other
    processes end with its sentence.

    Args:
      values: absl's flag values.
      config: of the run.

    Raises:
      UserError: flags contradict each other, or the processes do not come together.
    """
    place = _place(values)
    if place is None or place.count == 1:
        yield ALONE
        return
    _require_divisible(config)
    links = Links.join(place)
    links.advice = "Methods that were finished are kept; the same commands go on from there."
    try:
        yield Hosts(links)
    except UserError as mistake:
        links.fail(str(mistake), cli.FAILED)
        raise
    except KeyboardInterrupt:
        links.fail("interrupted.", cli.INTERRUPTED)
        raise
    except BaseException as defect:
        links.fail(f"a defect stopped it: {defect!r}", 1)
        raise
    links.close()


def open_data(hosts: Hosts, config: PairwiseConfig) -> Data:
    """The data of a run, which all processes must have alike; then starts JAX among them.

    Raises:
      UserError: as ``Data.open``; or, on every process, what differs between two of them.
    """
    if hosts.count > 1:
        hosts.agree(described(config), _compare)
    data = Data.open(config)
    if hosts.count > 1:
        rows = hashlib.sha256(data.rows.tobytes()).hexdigest()
        hosts.agree({"usable rows": rows}, _compare)
        hosts.start(lambda: devices.chosen(config.devices))
    return data


def parts_of(hosts: Hosts, config: PairwiseConfig) -> Parts:
    """The finished parts of this run, in a directory beside --out."""
    if hosts.count == 1:
        return Parts(hosts, None)
    return Parts(hosts, Units.beside(config.out, described(config)))


def _place(values: Any) -> Place | None:
    explicit = {name: getattr(values, name) for name in ("coordinator", "num_processes", "process_id")}
    given = [f"--{name}" for name, value in explicit.items() if value is not None]
    if values.hosts is not None:
        if given:
            raise UserError(f"--hosts={values.hosts} and {given[0]} exclude each other; leave one out.")
        return Place.detected()
    if not given:
        return None
    missing = [f"--{name}" for name, value in explicit.items() if value is None]
    if missing:
        raise UserError(
            f"{' and '.join(given)} need{'s' * (len(given) == 1)} {' and '.join(missing)} as well; or give "
            "--hosts=auto alone."
        )
    return Place.of(values.coordinator, values.num_processes, values.process_id)


def _require_divisible(config: PairwiseConfig) -> None:
    if config.store is None or config.images is not None:
        raise UserError(
            "several processes align a store: give --store and no --images; python -m experiments.embed makes one."
        )
    if config.save_maps:
        raise UserError("--save_maps is for one process; leave it out, or run without other processes.")


def described(config: PairwiseConfig) -> dict[str, Any]:
    """What all processes must agree on; files by their content."""
    assert config.store is not None
    shared = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    content = {key: plain(value) for key, value in shared.items() if key not in _OWN}
    store = describe_store(config.store, config.models)
    where = f"store {store['dataset']!r}:"
    content |= {"version of jaxalign": __version__, where: store}
    if config.pair_list is not None:
        content["checksum of --pair_list"] = _checksum(pathlib.Path(config.pair_list))
    return json.loads(json.dumps(content))


def _checksum(path: pathlib.Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error


def _compare(first: Any, other: Any, number: int) -> str | None:
    found = list(differences(first, other, ("at process 0", f"at process {number}")))
    if not found:
        return None
    return f"the processes do not agree: {'; '.join(found[:3])}. Give all of them the same flags and stores."
