"""One of several processes that sum moments: run_moments.py ROWS.npz PORT COUNT INDEX OUT.npz.

All rows but its share are overwritten with NaN before anything is computed, so that the sums show what was read.
"""

import functools
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign import FoldMoments, device_mesh
from jaxalign.core.errors import UserError
from jaxalign.moments.hosts import Hosts, Links, Place
from jaxalign.moments.hosts.reduction import _sum, placed, summed
from jaxalign.moments.moments import Moments
from jaxalign.moments.spread import SpreadMoments

COLLECTIVE = r" = (.+?) ((?:all|collective|reduce)-[a-z-]+)\("
path, port, count, index, out = sys.argv[1:]
place = Place.of(f"127.0.0.1:{port}", int(count), int(index))
links = Links.join(place)
hosts = Hosts(links)
hosts.start()
given = dict(np.load(path))
fold = given.pop("fold")
narrow = {name: given.pop(name) for name in ("scatter", "residue")}
mine = hosts.share(len(fold))
for rows in given.values():
    keep = rows[mine].copy()
    rows[:] = np.nan
    rows[mine] = keep


def of(part: slice, folds: np.ndarray | None, mesh: jax.sharding.Mesh | None = None) -> FoldMoments:
    return FoldMoments.of({name: rows[part] for name, rows in given.items()}, fold=folds, mesh=mesh)


widths = {name: rows.shape[1] for name, rows in given.items()}
found = {}
for name, folds in (("with", fold), ("without", None)):
    moments = hosts.moments(of, len(fold), folds, widths)
    for number, part in enumerate((moments.total, *moments.folds)):
        found |= {
            f"{name} {number} {key}": np.asarray(getattr(part, key)) for key in ("weight", "mean", "scatter")
        }
# The matrix in tiles, on two devices of each process.
mesh = device_mesh(pairs=2)
spread = hosts.moments(functools.partial(of, mesh=mesh), len(fold), fold, widths, mesh)
for number, part in enumerate((spread.total, *spread.folds)):
    assert isinstance(part, SpreadMoments)
    scatter, mean = part.whole_matrix()
    found |= {f"tiles {number} scatter": np.asarray(scatter), f"tiles {number} mean": mean}
    found[f"tiles {number} weight"] = np.asarray(part.weight)
    assert [shard.device for shard in part.scatter[0].addressable_shards] == jax.local_devices()
try:
    mesh = device_mesh(pairs=2) if index == "0" else None
    hosts.moments(functools.partial(of, mesh=mesh), len(fold), None, widths, mesh)
except UserError as error:
    found["refused"] = np.array(str(error))
# What a device without float64 has: float32 and what rounding lost from it.
with jax.enable_x64(True):
    part = {name: rows[hosts.index] for name, rows in narrow.items()}
    one, mean = jnp.float32(1), jnp.zeros(len(part["scatter"]), jnp.float32)
    names = ("alpha",), mean.shape
    total = summed(Moments(one, one, mean, part["scatter"], part["residue"], *names))
    for key, whose in (("collectives", moments), ("collectives of tiles", spread)):
        program = _sum.lower(placed(whose.total)).compile().as_text() or ""
        found[key] = np.array(re.findall(COLLECTIVE, program))
found |= {"narrow scatter": np.asarray(total.scatter), "narrow residue": np.asarray(total.residue)}
np.savez(out, **found)
links.close()
