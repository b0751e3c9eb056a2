"""Independent programs side by side on the cores of a CPU."""

import contextlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import jax
from threadpoolctl import threadpool_limits

Item = TypeVar("Item")
MOST_WORKERS = 16  # each holds a source's blocks of the moments
SPARE_WORKERS, FEW_NUMBERS = 2, 1 << 23
_ONE_BLAS_THREAD = contextlib.ExitStack()
_WANTING_IT: list[object] = []
_LOCK = threading.Lock()


def concurrently(
    function: Callable[[Item], Any], items: Sequence[Item], most: int = MOST_WORKERS, spare: int = 0
) -> Iterator[Any]:
    """``map(function, items)``, on a CPU an item for each core and ``spare`` more, no more than ``most``, at a time.

    The results come in order.

    Decompositions run in LAPACK, whose threads spin for a while after every call and keep the products that follow
    from their cores; one LAPACK thread for each of several programs is faster. The limit holds until the last item
    and is taken back then. Settings of JAX that hold on the caller's thread only do not reach ``function``.
    """

    def work(item: Item) -> Any:
        return jax.block_until_ready(function(item))

    threads = at_once(len(items), most, spare)
    if threads < 2:
        yield from map(work, items)
        return
    with _one_blas_thread(), ThreadPoolExecutor(threads) as pool:
        yield from pool.map(work, items)


def at_once(items: int, most: int = MOST_WORKERS, spare: int = 0) -> int:
    """How many of so many items ``concurrently`` works on at a time."""
    return min(_cores() + spare, items, most) if jax.default_backend() == "cpu" else 1


def spare_workers(numbers: int) -> int:
    """Workers beside one for each core, for work that waits for programs on all cores and holds matrices so large."""
    return SPARE_WORKERS if numbers <= FEW_NUMBERS else 0


@contextlib.contextmanager
def beside(items: Iterable[Item]) -> Iterator[Future[list[Item]]]:
    """Goes through ``items`` on a thread of its own while the block runs; gives up when the block fails.

    Compilation takes one core: what is traced and compiled there does not hold up the block on another core.
    """
    failed = threading.Event()

    def go_through() -> list[Item]:
        found: list[Item] = []
        for item in items:
            if failed.is_set():
                break
            found.append(item)
        return found

    _load_lapack()
    with ThreadPoolExecutor(1) as pool:
        try:
            yield pool.submit(go_through)
        except BaseException:
            failed.set()
            raise


@contextlib.contextmanager
def _one_blas_thread() -> Iterator[None]:
    """Limits BLAS and LAPACK to one thread until the last of several overlapping callers is done."""
    _load_lapack()  # the limit finds only libraries that are loaded
    caller = object()
    with _LOCK:
        if not _WANTING_IT:
            _ONE_BLAS_THREAD.enter_context(threadpool_limits(1, user_api="blas"))
        _WANTING_IT.append(caller)
    try:
        yield
    finally:
        with _LOCK:
            _WANTING_IT.remove(caller)
            if not _WANTING_IT:
                _ONE_BLAS_THREAD.close()


def _load_lapack() -> None:
    """Imports what jaxlib calls, which it does itself at the first decomposition: two threads at it may block."""
    import scipy.linalg  # noqa: F401


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
