"""Work side by side: order, failures, and the limit on BLAS threads, which is the whole process's."""

import subprocess
import sys
import threading
import time

import pytest
from threadpoolctl import threadpool_info

from jaxalign.core.devices import beside, concurrently


def blas_threads():
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


def test_results_come_in_order():
    assert list(concurrently(lambda k: (time.sleep(0.01 * (5 - k)), k)[1], range(5))) == list(range(5))


def test_blas_has_one_thread_until_the_last_result():
    list(concurrently(lambda k: k, range(2)))  # loads the libraries
    before = blas_threads()
    assert all(threads == {1} for threads in concurrently(lambda k: blas_threads(), range(3)))
    assert blas_threads() == before


def test_items_are_gone_through_while_the_block_runs():
    reached = threading.Event()

    def items():
        yield 1
        reached.set()
        yield 2

    with beside(items()) as found:
        assert reached.wait(10)
    assert found.result() == [1, 2]


def test_an_error_of_the_items_is_the_callers():
    def items():
        yield 1
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"), beside(items()) as found:
        found.result()


def test_what_remains_is_given_up_when_the_block_fails():
    started, going_on, after = threading.Event(), threading.Event(), []

    def items():
        yield 1
        started.set()
        going_on.wait(10)
        yield 2
        after.append("went on")

    with pytest.raises(KeyError), beside(items()):
        started.wait(10)
        threading.Timer(0.05, going_on.set).start()
        raise KeyError
    assert not after


def test_lapack_is_loaded_before_a_thread_starts():
    program = """
import sys
from jaxalign.core.devices import beside
def loaded():
    yield "scipy.linalg" in sys.modules
assert "scipy.linalg" not in sys.modules
with beside(loaded()) as found:
    assert found.result() == [True]
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
