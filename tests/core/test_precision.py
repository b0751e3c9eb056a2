"""Products at a format's full precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from jaxalign.core.precision import double_precision, multiply_transposed


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_product_with_a_transpose_is_numpys(dtype):
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(2, 7, 5)), rng.normal(size=(2, 7, 3))
    with double_precision():
        sides = jnp.asarray(left, dtype), jnp.asarray(right, dtype)
        one = jax.jit(multiply_transposed)(sides[0][0], sides[1][0])
        both = jax.jit(jax.vmap(multiply_transposed))(*sides)
    tolerance = 20 * float(np.finfo(dtype).eps)
    assert one.dtype == both.dtype == dtype
    assert_allclose(one, left[0].T @ right[0], atol=tolerance)
    assert_allclose(both, np.einsum("bnp,bnq->bpq", left, right), atol=tolerance)


def test_on_a_cpu_the_left_side_is_turned_before_the_product():
    """XLA's fast kernel takes no side that is transposed inside the product."""
    if jax.default_backend() != "cpu":
        pytest.skip("accelerators multiply a transposed side as it is")
    with double_precision():
        sides = jnp.zeros((256, 256)), jnp.zeros((256, 256))
        program = jax.jit(multiply_transposed).lower(*sides).compile().as_text()
    assert program is not None
    dots = [line for line in program.splitlines() if " dot(" in line]
    assert dots and all("lhs_contracting_dims={1}" in line for line in dots)
