"""What methods and measures are, one sentence each, for the report and for documents."""

import re
from collections.abc import Iterable

METHODS = {
    "identity": "No map: rows are compared as they are, the narrower side padded with zeros.",
    "translation": "No map but centring: each side's training mean is subtracted.",
    "orthogonal": "The rotation (orthogonal Procrustes) that best carries the source's rows onto the target's.",
    "similarity": "A rotation with one scale and a translation.",
    "linear": "Least squares without a penalty, the solution of least norm.",
    "ridge": "Least squares with a penalty on large weights (ridge regression).",
    "reduced_rank": "Ridge regression through a limited number of dimensions.",
    "canonical": "Both sides are mapped to the directions in which they correlate most (canonical correlation).",
    "shared": "One space for all encoders, into which each is mapped.",
    "low_rank": "Maps of low rank, fitted by gradient for the comparison itself.",
    "joint": "One map for each encoder into one space, fitted by gradient over all pairs together.",
    "own": "Control: each encoder against itself, which bounds what a map can be expected to reach.",
    "shuffled": "Control: ridge fitted on rows that do not belong together, which reaches chance.",
    "pixels": "Control: ridge from 64 principal components of the pixels instead of an encoder.",
}
MEASURES = {
    r"rank(\d+)": "Share of photographs for which the right person is among the best {} of the gallery.",
    r"map(\d+)": "Mean average precision: how far up the photographs of the right person are among the first {}.",
    r"map": "Mean average precision: how far up the gallery all photographs of the right person are.",
    r"auc": "Probability that a comparison of one person scores above one of two people; chance is 50 %.",
    r"eer": "Error rate at the threshold where false matches and false non-matches are equally frequent.",
    r"tmr@fmr=(.+)": "Share of comparisons of one person that match where a share of {} of those of two people does.",
    r"accuracy": "Share of right decisions on the listed pairs, at thresholds chosen on the other folds.",
}
RELATIVE_WORDS = (
    "Relative numbers divide by the geometric mean of what the two encoders reach by themselves. They may exceed "
    "100 %: a map trained on people keeps what tells people apart, and so can do better than an encoder by itself."
)
SYNTHETIC = (
    "The faces are synthetic: people who do not exist. The numbers say nothing about photographs of people."
)


def define(names: Iterable[str]) -> list[tuple[str, str]]:
    """The definition of each method or measure that has one, in the order given, each once."""
    found = []
    for name in dict.fromkeys(names):
        if name in METHODS:
            found.append((name, METHODS[name]))
        for pattern, words in MEASURES.items():
            if match := re.fullmatch(pattern, name):
                found.append((name, words.format(*match.groups())))
    return found
