"""Recognition measures the slow way, from a full matrix of scores: loops and sorting in numpy, none of ours."""

from typing import NamedTuple

import numpy as np
from sklearn.metrics import roc_auc_score


class Ranked(NamedTuple):
    """By probe, in row order, for the probes that have a mate."""

    probe: np.ndarray
    rank: np.ndarray
    average_precision: np.ndarray
    average_precision_50: np.ndarray


def signs(rows: int, seed: int, width: int = 64) -> np.ndarray:
    """Rows of ±1: with a width that is a power of four their cosines are exact in float32, and many are tied."""
    return np.random.default_rng(seed).choice([-1.0, 1.0], (rows, width)).astype(np.float32)


def cosines(probes: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """Float64 cosines of all rows."""
    wide = (side.astype(np.float64) for side in (probes, gallery))
    left, right = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in wide)
    return left @ right.T


def ranked(scores: np.ndarray, mated: np.ndarray, own: np.ndarray, own_included: bool) -> Ranked:
    """Sorts each probe's gallery; among equal scores non-mated rows come first."""
    found = []
    for probe in range(len(scores)):
        columns = np.arange(scores.shape[1])
        if not own_included and own[probe] >= 0:
            columns = np.delete(columns, own[probe])
        hits = mated[probe, columns]
        if not hits.any():
            continue
        hits = hits[np.lexsort((hits, -scores[probe, columns]))]
        precision = hits.cumsum() / np.arange(1, len(hits) + 1)
        cut = precision[:50][hits[:50]]
        best_cut = cut.mean() if len(cut) else np.nan
        found.append((probe, int(hits.argmax()) + 1, precision[hits].mean(), best_cut))
    return Ranked(*(np.array(column) for column in zip(*found))) if found else Ranked(*[np.zeros(0)] * 4)


def split(scores: np.ndarray, mated: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Genuine and impostor scores; a photograph is not compared with itself."""
    genuine = mated.copy()
    there = np.flatnonzero(own >= 0)
    genuine[there, own[there]] = False
    return scores[genuine], scores[~mated]


def auc(genuine: np.ndarray, impostor: np.ndarray) -> float:
    """Scikit-learn's, ties one half."""
    labels = np.append(np.ones(len(genuine)), np.zeros(len(impostor)))
    return float(roc_auc_score(labels, np.append(genuine, impostor)))


def eer(genuine: np.ndarray, impostor: np.ndarray) -> float:
    """Mean of FMR and FNMR where they differ least, over every distinct score as threshold and one beyond all."""
    thresholds = np.append(np.unique(np.append(genuine, impostor)), np.inf)
    fmr = 1 - np.searchsorted(np.sort(impostor), thresholds) / len(impostor)
    fnmr = np.searchsorted(np.sort(genuine), thresholds) / len(genuine)
    best = np.argmin(np.abs(fmr - fnmr))
    return float(fmr[best] + fnmr[best]) / 2


def operating_point(genuine: np.ndarray, impostor: np.ndarray, fmr: float) -> tuple[float, int, int]:
    """The smallest score, or infinity, whose FMR does not exceed ``fmr``; genuine and impostors accepted there."""
    thresholds = np.append(np.unique(np.append(genuine, impostor)), np.inf)
    false = len(impostor) - np.searchsorted(np.sort(impostor), thresholds)
    first = np.flatnonzero(false / len(impostor) <= fmr)[0]
    return float(thresholds[first]), int(np.sum(genuine >= thresholds[first])), int(false[first])
