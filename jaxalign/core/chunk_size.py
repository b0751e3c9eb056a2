"""How many rows to compute with at once: from the memory of the device, and fewer where it turns out too small."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign.core.errors import UserError

Result = TypeVar("Result")
ATTEMPTS = 4  # each with half the rows of the one before


def check(rows: object, name: str = "chunk_rows") -> int | None:
    """A number of rows that a caller gives: a whole one of at least 1, or None."""
    if rows is None:
        return None
    if not isinstance(rows, (int, np.integer)) or isinstance(rows, bool) or rows < 1:
        raise UserError(f"{name}: expected a whole number of at least 1, or None, got {rows!r}")
    return int(rows)


def rows_that_fit(most: int, row_bytes: int, fixed_bytes: int, unknown: int | None = None) -> int:
    """Rows of a chunk: ``most``, or as many as the device has memory for.

    Args:
      most: where the device has enough memory.
      row_bytes: memory on the device for each row of a chunk.
      fixed_bytes: memory that is needed beside the chunk.
      unknown: most where the device does not say how much memory it has (CPUs do not); the same without.
    """
    device = next(iter(jnp.zeros(()).devices()))
    memory: dict[str, Any] = device.memory_stats() or {}
    if "bytes_limit" not in memory:
        return max(1, most if unknown is None else min(most, unknown))
    free = memory["bytes_limit"] - memory.get("bytes_in_use", 0) - fixed_bytes
    return max(1, min(most, free // row_bytes))


def halved_until_it_fits(
    run: Callable[[int], Result], rows: int, what: str, name: str = "chunk_rows"
) -> Result:
    """``run(rows)``; where memory runs out, again from the start with half the rows, and so on.

    Args:
      run: computes with chunks of a number of rows.
      rows: to begin with.
      what: is computed, for the sentence, such as "moments of width 20,480".
      name: of the argument that gives the number of rows.

    Raises:
      UserError: memory ran out with the smallest of ``ATTEMPTS`` sizes as well.
    """
    tried: list[int] = []
    while True:
        tried.append(rows)
        try:
            return run(rows)
        except (jax.errors.JaxRuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(tried) == ATTEMPTS or rows == 1:
                sizes = ", ".join(f"{size:,}" for size in tried)
                raise UserError(
                    f"{what} do not fit into the memory of the device: chunks of {sizes} rows were tried. Give "
                    f"{f'a {name} below {rows:,} or ' if rows > 1 else ''}a device with more memory."
                ) from error
        rows = max(1, rows // 2)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device's or the host's memory ran out."""
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)
