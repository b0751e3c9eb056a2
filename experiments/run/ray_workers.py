"""Workers of a sweep as Ray actors, on this machine or a cluster. They compute items; the driver writes the files.

The driver gives an item only to an actor that has answered, and takes it back when the actor or its node dies. Ray's
own retries are off: with ``max_task_retries=-1`` a call whose node has died waits forever.
"""

import contextlib
import logging
import math
import socket
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from experiments.run import signals
from experiments.run.computing import set_compilation_cache
from experiments.run.data import Data
from experiments.run.grid import Computing, Item, SweepConfig
from experiments.run.hosts import differences
from jaxalign.core.errors import UserError

WAIT_SECONDS = 0.5  # for an answer, until the driver looks whether it is to end
MOST_DEATHS = 3  # of the workers of one item, before the item counts as failed


class Worker:
    """What runs in an actor. Mistakes are raised by ``open``, not by ``__init__``, where Ray would hide them."""

    computing: Computing

    def open(self, config: SweepConfig, described: dict[str, Any], compilation_cache: str) -> None:
        """Opens the stores of the sweep; ``UserError`` where they are not those that the driver sees."""
        set_compilation_cache(compilation_cache)
        found = list(differences(described, config.describe(), ("at the driver", "at a worker")))
        if found:
            raise UserError(f"the stores of a worker's host are different: {'; '.join(found[:3])}.")
        stores = [Data.open(config.for_store(number), tell=False) for number in range(len(config.stores))]
        self.computing = Computing(config, stores)

    def content(self, item: Item) -> dict[str, Any]:
        """What the item's file is to hold."""
        return self.computing.content(item, lambda _: None)


@contextlib.contextmanager
def started(workers: int, cluster: str | None) -> Iterator[Any]:
    """Ray while the block runs: a cluster, or without an address ``workers`` processes of this machine."""
    try:
        import ray
    except ImportError as error:
        raise UserError("--workers needs Ray; install it with: pip install 'jaxalign[cluster]'") from error
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if cluster is None:
            # "local" always: without an address Ray tries for minutes to join a cluster that has ended.
            ray.init("local", num_cpus=workers, include_dashboard=False, **quiet)
        else:
            host, _, port = cluster.rpartition(":")
            if host:  # Ray itself would try for minutes, and then end the process
                socket.create_connection((host, int(port)), timeout=10).close()
            ray.init(cluster, **quiet)
        signals.listen()  # Ray has set its own handler of SIGTERM
    except Exception as error:
        where = "on this machine" if cluster is None else f"at --cluster={cluster}"
        raise UserError(f"--workers: Ray does not start {where}: {' '.join(str(error).split())}") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def computed(
    ray: Any, workers: int, items: Sequence[Item], opening: Sequence[Any], deadline: float = math.inf
) -> Iterator[tuple[Item, dict[str, Any]]]:
    """Items and their contents as they are finished, each once; none begins after ``deadline`` (``time.monotonic``).

    Raises:
      UserError: a worker cannot open the stores (``opening``: arguments of ``Worker.open``), or dies whenever it tries.
    """
    actor_class = ray.remote(**_resources(ray.cluster_resources()))(Worker)
    left, deaths = list(items), Counter[Item | None]()  # deaths of None: of workers that open the stores
    pending: dict[Any, tuple[Any, Item | None]] = {}  # by the call: the actor, and its item if any

    def hire() -> None:
        actor = actor_class.remote()
        pending[actor.open.remote(*opening)] = actor, None

    for _ in range(min(workers, len(left))):
        hire()
    idle: list[tuple[Any, Item | None]] = []  # actors, each with its last item
    while left or any(item is not None for _, item in pending.values()):
        if time.monotonic() > deadline:
            left.clear()
        while idle and left:
            actor, last = idle.pop()
            item = next_item(left, last)
            left.remove(item)
            pending[actor.content.remote(item)] = actor, item
        finished, _ = ray.wait(list(pending), timeout=WAIT_SECONDS)
        signals.check()
        if not finished:
            continue
        (reference,) = finished
        actor, item = pending.pop(reference)
        try:
            content = ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error
        except ray.exceptions.RayError as death:  # of the actor or its node; the result is lost
            ray.kill(actor)
            deaths[item] += 1
            died = f"{MOST_DEATHS} workers died"
            if item is not None and deaths[item] < MOST_DEATHS:
                left.append(item)
            elif item is not None:
                yield item, {"failed": f"{died} while they computed it; the last: {death}"}
            elif deaths[item] == MOST_DEATHS:
                raise UserError(f"{died} before they had opened the stores: {death}") from death
            if left:
                hire()
        else:
            idle.append((actor, item))
            if item is None:
                deaths[item] = 0
            else:
                yield item, content


def next_item(left: Sequence[Item], last: Item | None) -> Item:
    """The item that a worker should do next.

    First one whose maps it has in memory, then one whose moments it has, then one of the split and fit with the most
    items left, so that workers spread over splits and each reads few.
    """
    splits, fits = Counter(item.split for item in left), Counter(item.fit for item in left)

    def key(item: Item) -> tuple[Any, ...]:
        same_fit = last is not None and item.fit == last.fit
        same_split = last is not None and item.split == last.split
        return not same_fit, not same_split, -splits[item.split], -fits[item.fit], item.number

    return min(left, key=key)


def _resources(there: dict[str, float]) -> dict[str, Any]:
    """What an actor takes: an accelerator where the cluster has any, else a processor, on nodes in turn."""
    if there.get("GPU"):
        return {"num_gpus": 1}
    if there.get("TPU"):
        return {"resources": {"TPU": 1}}
    return {"num_cpus": 1, "scheduling_strategy": "SPREAD"}
