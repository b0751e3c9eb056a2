"""The one decision about number formats: float64 where the device has it, whatever the caller's settings."""

import contextlib
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign.core.pytree import Leaf


@contextlib.contextmanager
def double_precision(allowed: bool = True) -> Iterator[None]:
    """Allows float64 (or not) inside the block, on this thread only; the caller's global settings stay as they are."""
    with jax.enable_x64(allowed), jax.debug_nans(False), jax.debug_infs(False), usual_promotion():
        yield


@contextlib.contextmanager
def usual_promotion() -> Iterator[None]:
    """JAX's usual promotion of formats and ranks inside the block, whatever the caller has set."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def moment_dtype() -> np.dtype:
    """float64, or float32 on TPU, which has no float64 units (sums of moments are then compensated)."""
    return np.dtype(np.float32 if jax.default_backend() == "tpu" else np.float64)


def multiply(left: Leaf, right: Leaf) -> jax.Array:
    """The matrix product at the format's full precision (accelerators round float32 inputs otherwise)."""
    return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)


def multiply_transposed(left: Leaf, right: Leaf) -> jax.Array:
    """``leftᵀ right`` as ``multiply``, for two matrices inside a program.

    On a CPU a float64 left side is turned first: XLA's fast kernels for that format take none that is transposed.
    """
    if left.dtype != np.float64:
        return multiply(left.T, right)
    turned = jax.lax.platform_dependent(left.T, cpu=jax.lax.optimization_barrier, default=lambda same: same)
    return multiply(turned, right)
