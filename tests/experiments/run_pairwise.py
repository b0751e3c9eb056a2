"""``experiments.pairwise`` on a store of which this process has only its own rows: run_pairwise.py LOG FLAGS.

After the store was opened and checked, every training row that is not of this process's share (or of its share of the
control ``shuffled``) is overwritten with noise, so that results show what was read. LOG gets how many rows that were.
"""

import os
import pathlib
import sys

import numpy as np

from experiments import pairwise
from experiments.run import cli
from experiments.run.config import PairwiseConfig
from experiments.run.data import Data
from jaxalign.core.people import published_split
from jaxalign.moments.hosts import Hosts

log = pathlib.Path(sys.argv.pop(1))
opened = Data.open


def overwritten(config: PairwiseConfig, tell: bool) -> Data:
    data, noise = opened(config, tell), np.random.default_rng(1)
    (seed,) = config.protocol.seeds
    train = published_split(data.identities, seed, config.protocol.train_fraction).train
    here = Hosts(int(os.environ["SLURM_PROCID"]), int(os.environ["SLURM_NTASKS"]))
    mine = here.share(len(train))
    random, counts = np.random.default_rng(seed), []
    for name in data.encoders:
        shuffled = train[random.permutation(len(train))]
        others = np.setdiff1d(train, np.concatenate([train[mine], shuffled[mine]]))
        rows = np.array(data.store[name])
        rows[others] = noise.normal(size=(len(others), rows.shape[1]))
        data.store._mapped[name] = rows  # type: ignore[assignment]
        counts.append(str(len(others)))
    log.write_text(" ".join(counts))
    return data


Data.open = overwritten  # type: ignore[method-assign]
cli.run(pairwise.main, values=pairwise.FLAGS)
