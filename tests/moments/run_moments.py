"""One of several processes that sum moments: run_moments.py ROWS.npz PORT COUNT INDEX OUT.npz.

All rows but its share are overwritten with NaN before anything is computed, so that the sums show what was read.
"""

import json
import sys
from typing import Any

import jax
import numpy as np

from jaxalign import FoldMoments, device_mesh
from jaxalign.core.errors import UserError
from jaxalign.moments.hosts import Hosts
from jaxalign.moments.sharded import ShardedMoments

path, port, count, index, out = sys.argv[1:]
hosts = Hosts.start(f"127.0.0.1:{port}", int(count), int(index))
found: dict[str, Any] = {"gathered": json.dumps(hosts.gather({"from": hosts.index, "ü": float("inf")}))}
found["broadcast"] = json.dumps(hosts.broadcast([hosts.index, "ä" * 1000 * hosts.index]))
given = dict(np.load(path))
fold = given.pop("fold")
for rows in given.values():
    keep = rows[hosts.share(len(fold))].copy()
    rows[:] = np.nan
    rows[hosts.share(len(fold))] = keep


def of(part, folds, mesh):
    return FoldMoments.of({name: rows[part] for name, rows in given.items()}, fold=folds, mesh=mesh)


for name, folds, mesh in (
    ("with folds", fold, None),
    ("without", None, None),
    ("rows on two devices", fold, device_mesh(pairs=1)),
    ("matrix on two devices", fold, device_mesh(pairs=2)),
):
    moments = hosts.moments(of, len(fold), folds, mesh)
    for number, part in enumerate((moments.total, *moments.folds)):
        sharded = isinstance(part, ShardedMoments)
        assert sharded == name.startswith("matrix")
        assert {shard.device for shard in jax.tree.leaves(part)[-1].addressable_shards} <= {
            *jax.local_devices()
        }
        scatter = part.matrix() if sharded else part.scatter
        for key, value in (("weight", part.weight), ("mean", part.mean), ("scatter", scatter)):
            found[f"{name} {number} {key}"] = np.asarray(value)
try:
    hosts.moments(of, len(fold), None, device_mesh(pairs=2) if index == "0" else None)
except UserError as error:
    found["refused"] = str(error)
np.savez(out, allow_pickle=False, **found)
