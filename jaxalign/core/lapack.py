"""Leading eigenpairs by LAPACK without Python's lock.

SciPy's functions hold the lock until LAPACK returns, which for thousands of columns is seconds in which no other thread
gets on. The same routine of the same library is called here by its address, as SciPy gives it to Cython; ctypes lets
the lock go.
"""

import ctypes
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float


def largest_eigenpairs(
    symmetric: Float[np.ndarray, "d d"], count: int
) -> tuple[Float[np.ndarray, " count"], Float[np.ndarray, "d count"]]:
    """The largest eigenvalues of a finite float64 matrix, ascending, with their eigenvectors.

    Raises:
      numpy.linalg.LinAlgError: LAPACK did not find them.

    Equivalent: ``scipy.linalg.eigh(symmetric, subset_by_index=[d - count, d - 1])``.
    """
    size = len(symmetric)
    matrix = np.array(symmetric, np.float64, order="F")  # overwritten
    values, vectors = np.empty(size), np.empty((size, count), order="F")
    support, found, status = np.empty(2 * count, np.int32), ctypes.c_int(), ctypes.c_int()
    nothing, by = ctypes.c_double(), ctypes.byref
    n, first, last = (ctypes.c_int(number) for number in (size, size - count + 1, size))

    def call(work: np.ndarray, whole: np.ndarray, *sizes: int) -> None:
        work_size, whole_size = map(ctypes.c_int, sizes)
        _routine()(
            *(b"V", b"I", b"L", by(n), matrix.ctypes, by(n)),
            *(by(nothing), by(nothing), by(first), by(last), by(nothing)),
            *(by(found), values.ctypes, vectors.ctypes, by(n), support.ctypes),
            *(work.ctypes, by(work_size), whole.ctypes, by(whole_size), by(status)),
        )
        if status.value:
            raise np.linalg.LinAlgError(f"dsyevr of {size:,} columns ended with status {status.value}")

    work, whole = np.empty(1), np.empty(1, np.int32)
    call(work, whole, -1, -1)  # tells how much it needs
    work, whole = np.empty(int(work[0])), np.empty(int(whole[0]), np.int32)
    call(work, whole, len(work), len(whole))
    return values[:count], vectors


@functools.cache
def _routine() -> Callable[..., None]:
    """LAPACK's dsyevr, every argument by reference."""
    from scipy.linalg import cython_lapack  # pyright: ignore[reportAttributeAccessIssue]

    capsule: Any = cython_lapack.__pyx_capi__["dsyevr"]
    name = ctypes.PYFUNCTYPE(ctypes.c_char_p, ctypes.py_object)(("PyCapsule_GetName", ctypes.pythonapi))
    pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
        ("PyCapsule_GetPointer", ctypes.pythonapi)
    )
    arguments = [ctypes.c_char_p] * 3 + [ctypes.c_void_p] * 18
    return ctypes.CFUNCTYPE(None, *arguments)(pointer(capsule, name(capsule)))
