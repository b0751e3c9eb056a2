"""The mapped rows behind the independent numbers of ``reference_meaning.json``, float64."""

import json
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from jaxalign.core.people import published_split
from jaxalign.data import EmbeddingStore


class Case(NamedTuple):
    """One pair of encoders by one method, of the rows that a cohort was used for."""

    expected: dict
    probes: np.ndarray
    gallery: np.ndarray
    cohort_probes: np.ndarray  # mapped training rows of either side
    cohort_gallery: np.ndarray


class Reference(NamedTuple):
    """What the file says, who was tested, and who is in the cohort."""

    said: dict
    sample_ids: np.ndarray  # of the test rows
    identities: np.ndarray
    cohort_identities: np.ndarray
    rows: dict

    def cases(self) -> Iterator[Case]:
        """Every case."""
        for row in self.said["rows"]:
            if "cohort" not in row:
                continue
            (x, probes), (y, gallery) = self.rows[row["source"]], self.rows[row["target"]]
            weights = np.eye(x.shape[1])
            if row["method"] == "orthogonal":
                left, _, right = np.linalg.svd(x.T @ y, full_matrices=False)
                weights = left @ right
            elif row["method"] != "own":
                weights = np.linalg.solve(x.T @ x + 0.1 * np.eye(x.shape[1]), x.T @ y)
            yield Case(row, probes @ weights, gallery, x @ weights, y)


def reference(shared) -> Reference:
    """Reads the file and the store."""
    said = json.loads((shared / "data" / "reference_meaning.json").read_text())
    store = EmbeddingStore.open(shared / "data" / "lfw_dev", verify=False)
    split = published_split(store.identities, said["seed"])
    place = dict.fromkeys(store.identities, 0)
    test = []
    for row in split.test:  # the first photographs of each person
        place[store.identities[row]] += 1
        if place[store.identities[row]] <= said["cap"]:
            test.append(row)
    train, rows = split.train, {}
    for name in said["models"]:
        every = np.asarray(store[name], np.float64)
        every = every / np.linalg.norm(every, axis=1, keepdims=True)
        rows[name] = every[train] - every[train].mean(axis=0), every[test] - every[train].mean(axis=0)
    return Reference(
        said, np.asarray(store.sample_ids)[test], store.identities[test], store.identities[train], rows
    )
