"""One of several processes that sum moments: run_moments.py ROWS.npz PORT COUNT INDEX OUT.npz.

All rows but its share are overwritten with NaN before anything is computed, so that the sums show what was read.
"""

import sys

import jax
import numpy as np

from jaxalign import FoldMoments, device_mesh
from jaxalign.core.errors import UserError
from jaxalign.core.rows import LazyRows
from jaxalign.moments.hosts import Hosts, Links, Place
from jaxalign.moments.moments import Moments
from jaxalign.moments.sharded import ShardedMoments

path, port, count, index, out = sys.argv[1:]
place = Place.of(f"127.0.0.1:{port}", int(count), int(index))
links = Links.join(place)
hosts = Hosts(links)
hosts.start()
given = dict(np.load(path))
fold = given.pop("fold")
mine = hosts.share(len(fold))
for rows in given.values():
    keep = rows[mine].copy()
    rows[:] = np.nan
    rows[mine] = keep


def of(part: slice, folds: np.ndarray | None, mesh: jax.sharding.Mesh | None) -> FoldMoments:
    return FoldMoments.of({name: LazyRows.of(rows, np.arange(len(rows))[part]) for name, rows in given.items()},
                          fold=folds, mesh=mesh)  # fmt: skip


found = {}
for name, folds, mesh in (
    ("with", fold, None),
    ("without", None, None),
    ("sharded", fold, device_mesh(pairs=2)),
):
    moments = hosts.moments(of, len(fold), folds, mesh)
    for number, part in enumerate((moments.total, *moments.folds)):
        assert isinstance(part, Moments if mesh is None else ShardedMoments)
        assert part.weight.is_fully_addressable
        whole = Moments.gathered(part)
        found |= {
            f"{name} {number} {key}": np.asarray(getattr(whole, key)) for key in ("weight", "mean", "scatter")
        }
try:
    mesh = device_mesh(pairs=2) if index == "0" else None
    hosts.moments(of, len(fold), None, mesh)
except UserError as error:
    found["refused"] = np.array(str(error))
np.savez(out, **found)
links.close()
