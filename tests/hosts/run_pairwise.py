"""``experiments.pairwise``, noting which rows of which encoder it takes from the store: run_pairwise.py LOG FLAGS."""

import json
import pathlib
import sys

import numpy as np

from experiments import cli, pairwise
from jaxalign.embeddings import EmbeddingStore

log = pathlib.Path(sys.argv.pop(1))
take = EmbeddingStore.take


def recorded(self: EmbeddingStore, rows: np.ndarray) -> dict[str, np.ndarray]:
    with log.open("a") as file:
        file.write(json.dumps({"encoders": list(self.encoders), "rows": np.asarray(rows).tolist()}) + "\n")
    return take(self, rows)


EmbeddingStore.take = recorded  # type: ignore[method-assign]
cli.run(pairwise.main)
