"""Moments over a mesh of devices: the numbers of NumPy, and no communication that grows with rows."""

import functools
from typing import Any

import jax
import numpy as np
import oracles
import programs
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxalign import FoldMoments, Moments, device_mesh
from jaxalign.moments.moments import chunk_moments
from jaxalign.moments.sharded import MeshAccumulator, ShardedMoments, add_chunk, reduced

pytestmark = pytest.mark.skipif(len(jax.devices()) < 8, reason="needs eight (simulated) devices")


def mesh_of(data: int, pairs: int) -> Mesh:
    return device_mesh(jax.devices()[: data * pairs], pairs=pairs)


@pytest.mark.parametrize("count", [1, 7, 9])
@pytest.mark.parametrize(("data", "pairs"), [(8, 1), (2, 4), (1, 3)])
def test_moments_are_numpys(count: int, data: int, pairs: int) -> None:
    """Fewer rows than devices, encoders that devices do not divide, of two padded widths; large means."""
    generator = np.random.default_rng(count)
    widths = {"a": 3, "b": 130, "c": 2, "d": 3, "e": 5}
    rows: dict[str, Any] = {
        name: generator.normal(size=(count, width)) + 1e3 for name, width in widths.items()
    }
    rows["b"] = rows["b"].astype(np.float32)
    weights = generator.uniform(0.1, 2, count)
    moments = Moments.of(rows, weights, mesh=mesh_of(data, pairs))
    mean, scatter = oracles.second_moments(rows, weights)
    np.testing.assert_allclose(moments.power(), scatter.diagonal(), atol=1e-8)
    whole = Moments.gathered(moments)
    np.testing.assert_allclose(whole.mean, mean, rtol=1e-12)
    np.testing.assert_allclose(whole.scatter, scatter, atol=1e-8)
    assert float(whole.count) == count
    np.testing.assert_allclose(whole.weight, weights.sum(), rtol=1e-12)


@pytest.mark.parametrize(("data", "pairs"), [(4, 1), (2, 2)])
def test_chunks_and_folds_on_a_mesh(data: int, pairs: int) -> None:
    """Several chunks for each device, in slices, some rows left out; and moments of one device sent to a mesh."""
    generator = np.random.default_rng(0)
    rows = {name: generator.normal(size=(9000, 3)).astype(np.float16) + 9 for name in "ab"}
    used, mesh = np.arange(1, 9000), mesh_of(data, pairs)
    how: dict[str, Any] = {"fold": np.arange(len(used)) % 2, "rows": used}
    one_device = FoldMoments.of(rows, **how)
    folds = FoldMoments.of(rows, **how, chunk_rows=2600 * data, mesh=mesh)
    for found in (folds.gathered(), one_device.sharded(mesh).gathered(), one_device):
        for part, chosen in ((found.total, used), *((found.folds[k], used[k::2]) for k in (0, 1))):
            mean, scatter = oracles.second_moments({name: array[chosen] for name, array in rows.items()})
            np.testing.assert_allclose(part.mean, mean, rtol=1e-12)
            np.testing.assert_allclose(part.scatter, scatter, atol=1e-8)
            assert float(part.count) == len(chosen)
    rest = folds.total.subtract(folds.folds[0])
    np.testing.assert_allclose(rest.power(), folds.folds[1].power(), rtol=1e-9)


def test_float32_sums_keep_what_rounding_loses() -> None:
    """Sums of devices whose scatter differs by many orders of magnitude, on devices without float64."""
    random = np.random.default_rng(0)
    scatter = random.normal(size=(4, 6, 6)) * 10.0 ** random.integers(-6, 6, size=(4, 6, 6))
    scatter[:, 0, 0] = 0
    parts = scatter.astype(np.float32), (1e-8 * scatter).astype(np.float32)
    mesh = mesh_of(4, 1)
    ones, means = np.ones(4, np.float32), np.zeros((4, 6), np.float32)
    partial = Moments(ones, ones, means, *parts, ("a",), (6,))  # pyright: ignore[reportArgumentType]
    total = reduced(jax.device_put(partial, NamedSharding(mesh, P("data"))), mesh=mesh)
    exact = sum(part.astype(np.float64).sum(0) for part in parts)
    found = np.asarray(total.scatter, np.float64) + np.asarray(total.residue)
    assert total.scatter.dtype == np.float32
    assert (np.abs(found - exact) / (np.abs(parts[0]).max(0) + 1e-30)).max() < 1e-12  # plain sums: 1e-7


@pytest.mark.parametrize(("data", "pairs", "dtype"), [(8, 1, np.float64), (2, 4, np.float32)])
def test_no_program_of_moments_sends_rows(data: int, pairs: int, dtype: Any) -> None:
    """Chunks are added without communication; what the reduction sends does not depend on their rows."""
    mesh, widths = mesh_of(data, pairs), (128, 100, 24, 300)
    with jax.enable_x64(True):
        shapes: Any = jax.eval_shape(lambda: Moments.empty("abcd", widths, dtype))
        if pairs > 1:
            shapes = ShardedMoments.like(shapes, mesh)
        accumulator = MeshAccumulator(shapes, mesh)
        for rows in (960, 40_000):
            chunk = tuple(np.zeros((rows, width), np.float16) for width in widths), np.zeros(rows, dtype)
            program = add_chunk.lower(accumulator.partial, *accumulator.place(chunk)).compile()
            assert programs.collectives(program) == []
            leaves = map(jax.tree.leaves, (program.output_shardings, accumulator.partial))
            assert all(found.is_equivalent_to(given.sharding, given.ndim) for found, given in zip(*leaves))
        sent = programs.collectives(reduced.lower(accumulator.partial, mesh=mesh).compile())
    assert {kind for kind, _ in sent} == {"all-reduce"}
    most = sum(widths) ** 2 if pairs == 1 else 384 * sum(widths)  # the largest row block of a device
    assert max(size for _, size in sent) == most


def test_moments_of_shards_on_devices_merge() -> None:
    """Moments taken inside ``shard_map`` on each device, from its own rows, merge to those of all rows."""
    random = np.random.default_rng(6)
    rows = {"x": random.normal(size=(80, 12)) + 1e4, "y": random.normal(size=(80, 9))}

    def of_shard(x: jax.Array, y: jax.Array) -> Moments:
        weights = jax.numpy.ones(len(x), x.dtype)
        moments = chunk_moments((x, y), weights, ("x", "y"), (12, 9), np.dtype(np.float64))
        return jax.tree.map(lambda leaf: leaf[None], moments)

    with jax.enable_x64(True):
        mapped = jax.shard_map(of_shard, mesh=mesh_of(8, 1), in_specs=P("data"), out_specs=P("data"))
        stacked = jax.jit(mapped)(*map(jax.numpy.asarray, rows.values()))
    shards = [jax.tree.map(lambda leaf, k=k: np.asarray(leaf[k]), stacked) for k in range(8)]
    merged = functools.reduce(Moments.merge, shards)
    mean, scatter = oracles.second_moments(rows)
    np.testing.assert_allclose(merged.mean, mean, rtol=1e-14)
    np.testing.assert_allclose(merged.scatter, scatter, rtol=1e-7, atol=1e-6)
