"""What methods and measures are, one sentence each, for the report and for documents."""

import re
from collections.abc import Iterable

from jaxalign.report.result_table import Measure

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
SCORES = {
    "cosine": "Score: the cosine of the two mapped rows.",
    "cohort": "Score: the cosine less how near each of the two lies to strangers, the 20 nearest of a cohort.",
    "snorm": "Score: the cosine, shifted and scaled by how near each of the two lies to a cohort of strangers.",
    "dual_softmax": "Score: the cosine less the log of both softmax sums over a cohort of strangers.",
    "plda": "Score: the log-likelihood ratio of one person against two, from how training people vary.",
    "plda_cohort": "Score: `plda` less how near each of the two lies to strangers, the 20 nearest of a cohort.",
}
FUSIONS = {
    "mean": "Fusion: the mean of the scores of several encoders in one shared space.",
    "znorm": "Fusion: the mean of scores, each brought to the mean and spread of impostor scores in training.",
    "minmax": "Fusion: the mean of scores, each brought to the range that it has in training.",
    "logistic": "Fusion: a weighted sum of scores, the weights by logistic regression on training comparisons.",
    "mean_template": "Fusion: one row, the mean of several encoders' rows in the shared space.",
    "concatenation": "Fusion: the rows of several encoders one behind the other, without a map.",
    "heterogeneous": "Each person is enrolled under one encoder of the set, drawn at random, as is each probe.",
}
MEASURES = {
    r"rank(\d+)": "Share of photographs for which the right person is among the best {} of the gallery.",
    r"map(\d+)": "Mean average precision: how far up the photographs of the right person are among the first {}.",
    r"map": "Mean average precision: how far up the gallery all photographs of the right person are.",
    r"auc": "Probability that a comparison of one person scores above one of two people; chance is 50 %.",
    r"eer": "Error rate at the threshold where false matches and false non-matches are equally frequent.",
    r"tmr@fmr=(.+)": "Share of comparisons of one person that match where a share of {} of those of two people does.",
    r"fnir@fpir=(.+)": "Share of searches for enrolled people that do not find them first and above the threshold at "
    "which a share of {} of the searches for people who are not enrolled finds anybody.",
    r"fnir(\d+)@fpir=(.+)": "The same as FNIR, if the enrolled person may be among the best {} candidates, at FPIR {}.",
    r"sel@fpir=(.+)": "Mean number of candidates that a search for a person who is not enrolled returns, at FPIR {}.",
    r"cllr": "Cost of scores that were calibrated on other people, in bits: 0 is perfect, 1 tells nothing.",
    r"min_cllr": "The least Cllr that any calibration of these scores could reach, in bits.",
    r"calibration_loss": "The part of Cllr that better calibration could remove, in bits.",
    r"min_dcf@prior=(.+)": "Least cost of decisions where a share of {} of comparisons is of one person; at most 1.",
    r"accuracy": "Share of right decisions on the listed pairs, at thresholds chosen on the other folds.",
    # Of attacks on templates.
    r"attack_same_image@fmr=(.+)": "Share of leaked templates that pass as their own image, at FMR {}.",
    r"attack_other_image@fmr=(.+)": "Share of leaked templates that pass as another image of their owner, at FMR {}.",
    r"attack_other_person@fmr=(.+)": "Share of leaked templates that pass as an image of another person, at FMR {}.",
    r"pairs_to_key@fmr=(.+)": "Pairs of photographs that an attacker needs until a leak is a key, at FMR {}.",
    r"reidentified_rank1": "Share of searches for people in a leak that find them first.",
    r"reidentified@fpir=(.+)": "The same above the threshold at which a share of {} of strangers finds anybody.",
    r"d_sys": "Global linkability of two databases: 0 where scores tell nothing, 1 where they always tell.",
    r"maximal_linkability": "The most that any attacker learns from one score on who is who, in bits.",
    # Of two encoders, before any map.
    r"linear_cka(_unbiased)?": "Covariance between two spaces relative to that within each; 1 where they agree.",
    r"rsa_spearman": "Rank correlation of the cosines of every two photographs under one encoder and the other.",
    r"mutual_knn": "Share of a photograph's nearest neighbours that it has under both encoders.",
    r"mean_cca": "Mean canonical correlation: how well directions of one space follow linearly from the other.",
    r"svcca": "Mean canonical correlation of the principal components that hold 99 % of each space's variance.",
    r"pwcca": "Mean canonical correlation, weighted by how much of the embeddings each direction carries.",
    r"principal_angles": "Mean cosine of the angles between the subspaces in which two encoders tell people apart.",
    r"procrustes_distance": "Angle that is left between two spaces after the best rotation; 0 for spaces that agree.",
    # Of one encoder.
    r"intrinsic_dimension_(twonn|mle)": "Dimensions that photographs fill, from distances to nearest neighbours.",
    r"participation_ratio": "Number of directions that carry the variance.",
    r"first_component_share": "Share of the variance that lies in the one direction with most of it.",
    r"hubness_skewness": "Skewness of how often photographs are neighbours of others; high where few are near most.",
    r"(within|between)_person_scatter": "Variance of embeddings {} people.",
    r"between_within_ratio": "How far people lie apart, divided by how far photographs of one person do.",
    r"anisotropy": "Mean cosine of two photographs: 0 where directions are even, 1 where all embeddings point one way.",
    # Of maps.
    r"effective_rank": "Number of dimensions that a map uses.",
    r"map_agreement": "How near the mapped rows of two fits, each on half of the people, are; 1 is equal.",
    r"(score|ranking)_agreement": "Correlation of a probe's {}s under two fits, each on half of the people.",
    r"round_trip": "How near a row comes to itself after the map there and the map back; 1 is equal.",
    r"three_way": "How near the way by a third encoder comes to the direct map; 1 is equal.",
}
RELATIVE_WORDS = (
    "Relative numbers divide by the geometric mean of what the two encoders reach by themselves. They may exceed "
    "100 %: a map trained on people keeps what tells people apart, and so can do better than an encoder by itself."
)
SYNTHETIC = (
    "The faces are synthetic: people who do not exist. The numbers say nothing about photographs of people."
)


def define(names: Iterable[str]) -> list[tuple[str, str]]:
    """The definition of each method, score or measure that has one, under its name on the page, each once."""
    found = []
    for name in dict.fromkeys(name.partition(":")[0] for name in names):
        if words := (METHODS | SCORES | FUSIONS).get(name):
            found.append((name, words))
        for pattern, words in MEASURES.items():
            if match := re.fullmatch(pattern, name):
                found.append((Measure(name).brief, words.format(*match.groups())))
    return found
