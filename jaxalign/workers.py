"""Independent programs side by side on the cores of a CPU."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import jax
from threadpoolctl import threadpool_limits

Item = TypeVar("Item")
MOST_WORKERS = 16  # each holds a source's blocks of the moments


def concurrently(function: Callable[[Item], Any], items: Sequence[Item]) -> Iterator[Any]:
    """``map(function, items)``, several items at a time on a CPU; the results come in order.

    Decompositions run in LAPACK, whose threads spin for a while after every call and keep the products that follow
    from their cores; one LAPACK thread for each of several programs is faster. The limit holds until the last item
    and is taken back then. Settings of JAX that hold on the caller's thread only do not reach ``function``.
    """

    def work(item: Item) -> Any:
        return jax.block_until_ready(function(item))

    cores = min(_cores(), len(items), MOST_WORKERS)
    if jax.default_backend() != "cpu" or cores < 2:
        yield from map(work, items)
        return
    import scipy.linalg  # noqa: F401  # what jaxlib calls: the limit finds only libraries that are loaded

    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(cores) as pool:
        yield from pool.map(work, items)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
