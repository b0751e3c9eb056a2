"""The flags of every driver, defined in one place so that one name means one thing everywhere."""

import dataclasses
from typing import Any

from experiments.run.protocols import METHODS, PROTOCOLS
from jaxalign.align.gradient import LOSSES


@dataclasses.dataclass(frozen=True)
class Flag:
    """One flag.

    Attributes:
      default: its value when it is not given.
      help: for ``--help``: what it is, what happens without it, an example.
      kind: "text", "yes_no", "whole" or "fraction".
      choices: the values allowed, where they are few.
    """

    default: Any
    help: str
    kind: str = "text"
    choices: tuple[str, ...] = ()


DEFINITIONS: dict[str, Flag] = {
    # What to align.
    "store": Flag(
        None,
        "Directory of embeddings: one data set under several encoders. Make one from your own files with "
        "`python -m experiments.import_embeddings --help`. Example: --store=my_store",
    ),
    "images": Flag(
        None,
        "Photographs to embed and align, instead of a store or beside one: `folder:DIR` (a folder per person), "
        "`csv:FILE` (columns path and identity) or `hub:NAME_OR_DIR` (a Hugging Face data set). Embeddings are kept, "
        "so that the next run need not make them again. Without --store and --images: faces:200x8, made "
        "photographs of 200 people who do not exist, 8 of each. Example: --images=folder:faces",
    ),
    "models": Flag(
        "all",
        "Encoders to align, separated by commas: names in --store, or `all` of it; with --images also encoders to "
        "embed with, such as clip, hf:DIR, onnx:FILE or zoo:NAME (bundled; all of them where photographs are made). "
        "Example: --models=arcface,clip",
    ),
    "crop": Flag(
        "none",
        "What to cut from each of --images before an encoder's own preprocessing: `none`, `center:0.6` (that share "
        "of each side), `landmarks` or `landmarks:FILE.csv` (five points, aligned as for ArcFace).",
    ),
    "bad_images": Flag(
        "fail",
        "A photograph that cannot be read stops the run (`fail`) or is left out and named (`skip`).",
        choices=("fail", "skip"),
    ),
    "embedding_cache": Flag(
        "default",
        "Directory that keeps the embeddings of --images. `default` is one per user (~/.cache/jaxalign, or under "
        "XDG_CACHE_HOME).",
    ),
    "sources": Flag("all", "Map only from these of the models. Example: --sources=clip"),
    "targets": Flag("all", "Map only into these of the models. Example: --targets=arcface,adaface"),
    "nonfinite": Flag(
        "fail",
        "What to do with rows that cannot be compared, because one encoder gave NaN, infinity or all zeros: "
        "`fail` names them and stops; `drop` leaves those photographs out of every encoder and says how "
        "many.",
        choices=("fail", "drop"),
    ),
    # How to fit.
    "protocol": Flag(
        "default",
        "`published`: the protocol of arXiv 2604.07282 (ridge penalty 0.1, training means subtracted for the "
        "baseline too, own photograph in the gallery; reported without it as well). `default`: ours (penalty "
        "by cross-validation over people, own photograph never in the gallery, more methods).",
        choices=tuple(PROTOCOLS),
    ),
    "methods": Flag(
        None,
        f"Ways to align, separated by commas, of: {', '.join(METHODS)}. Without it, those of the protocol, "
        "or one of each kind where no data is given. "
        "`identity` is no alignment, the baseline. Example: --methods=identity,orthogonal,ridge",
    ),
    "ranks": Flag(
        None,
        "For reduced_rank, canonical and shared: compare in at most so many dimensions; one result for each "
        "of the list. `full` sets no limit, `cv` chooses per pair on training people (reduced_rank). Without "
        "it: canonical full, shared 96, reduced_rank cv. Example: --ranks=16,64,full",
    ),
    "loss": Flag(
        "contrastive",
        f"What low_rank and joint minimise, of: {', '.join(LOSSES)}. Example: --loss=cosine",
        choices=tuple(LOSSES),
    ),
    "steps": Flag(400, "Steps of Adam for low_rank and joint.", "whole"),
    "fit_rank": Flag(
        None,
        "Dimensions that low_rank and joint are fitted in. Without it: low_rank full, joint 128. Example: "
        "--fit_rank=64",
    ),
    "l2": Flag(
        None,
        "Penalty of ridge and reduced_rank, as scikit-learn's alpha: a number; a grid separated by commas, "
        "chosen from by cross-validation over people; `cv`, the same over a wide grid of ours; `gcv`, "
        "generalised cross-validation, cheaper. Without it: cv, or 0.1 under --protocol=published. Example: "
        "--l2=0.01,0.1,1",
    ),
    "normalize": Flag(
        None,
        "`l2` scales every row to length 1 before anything else (the default), `none` leaves rows as they "
        "are.",
        choices=("l2", "none"),
    ),
    "folds": Flag(
        5, "Number of parts that training people are split into for cross-validation.", kind="whole"
    ),
    # On whom.
    "seeds": Flag(
        None,
        "Seeds of the random split of people into training and test, separated by commas; every seed is one "
        "complete run, and the table gives mean and standard deviation. Without it: 42,123,217,7,531. "
        "Example: --seeds=42",
    ),
    "train_fraction": Flag(
        None, "Share of people to fit on; all others are tested. Without it: 0.7.", kind="fraction"
    ),
    "max_per_person": Flag(
        0,
        "Test at most so many photographs a person, the first ones; 0 takes all. People with hundreds of "
        "photographs otherwise dominate every rate. Example: --max_per_person=20",
        kind="whole",
    ),
    # What to measure.
    "measures": Flag(
        "identification,verification",
        "What to measure, separated by commas: identification (who is it: rank-k, mean average precision), "
        "verification (same person or not: AUC, EER, true match rate at a false match rate).",
    ),
    "rank_k": Flag(
        "1,5,10,20",
        "Identification: a hit counts if the right person is among the best k. Example: --rank_k=1,10",
    ),
    "gallery": Flag(
        "all",
        "What a probe is compared with: `all` test photographs of the target, the `first` of each person, or "
        "one `pooled` template (mean of the photographs) for each person.",
        choices=("all", "first", "pooled"),
    ),
    "fmr": Flag(
        "0.0001,0.001,0.01,0.1",
        "Verification: false match rates (also called FAR) at which to report the true match rate (TAR). A "
        "rate that too few comparisons support stays empty. Example: --fmr=0.001,0.01",
    ),
    "own_photograph": Flag(
        None,
        "Identification: may the gallery hold the very photograph that the probe is, under the other "
        "encoder? `included` flatters the result, `excluded` does not, `both` reports both. Without it: "
        "excluded, or both under --protocol=published.",
        choices=("included", "excluded", "both"),
    ),
    "comparisons": Flag(
        None,
        "Verification: `all` comparisons of different photographs (the default), or the `balanced` sample of "
        "the published code: every genuine pair once and as many random impostor pairs.",
        choices=("all", "balanced"),
    ),
    "pair_list": Flag(
        None,
        "Verification on the pairs of a file instead: LFW's pairs.txt, or a CSV of pairs. Only pairs of two "
        "test photographs count. Example: --pair_list=pairs.txt",
    ),
    "controls": Flag(
        None,
        "What to measure beside the methods, to judge them by: `own` (each encoder against itself), `shuffled` (ridge "
        "on rows that do not belong together), `pixels` (ridge from 64 principal components of the photographs), "
        "`all` of them or `none`. Without it: none, or all where no data is given. Example: --controls=own",
    ),
    "intervals": Flag(
        0,
        "Resamples of test people for intervals of 95 % (columns low and high) and for paired differences of methods; "
        "0 for none. Example: --intervals=1000",
        kind="whole",
    ),
    # What an analysis varies.
    "train_people": Flag(
        None,
        "Numbers of training people to fit on, separated by commas. Without it: from 10 to all, evenly on a "
        "logarithmic scale. Example: --train_people=10,100,1000",
    ),
    "train_pairs": Flag(
        None,
        "Numbers of training photographs to fit on, drawn from all training people, or `none`. Without it: from 10 to "
        "all, evenly on a logarithmic scale. Example: --train_pairs=100,1000",
    ),
    "train_fractions": Flag(
        None,
        "Shares of all people to fit on instead, each at most --train_fraction. Without it under "
        "--protocol=published: 0.1 to 0.7. Example: --train_fractions=0.1,0.3,0.7",
    ),
    "same_names": Flag(
        "person",
        "What it means when two stores have the same name in the column identity: the same `person`, who is left out "
        "of the training side, or nothing (`unrelated` names).",
        choices=("person", "unrelated"),
    ),
    "parts": Flag(
        "all", "Analyses to run, separated by commas, or `all`. Example: --parts=pairwise,transfer"
    ),
    "features": Flag(
        512,
        "Number of random Fourier features, and at most so many products of principal components.",
        "whole",
    ),
    "hidden": Flag(128, "Width of the hidden layer of the small network.", "whole"),
    "rows": Flag(
        2000,
        "At most so many training photographs, drawn at random, to compare spaces on; scores and their nulls are of "
        "the same ones. Example: --rows=500",
        kind="whole",
    ),
    "permutations": Flag(
        20,
        "Times that the photographs of one side are permuted, for what unrelated spaces score.",
        kind="whole",
    ),
    "neighbours": Flag(
        10, "Nearest neighbours of a photograph that encoders may share, and for hubness.", kind="whole"
    ),
    "results": Flag(
        None,
        "Directories of an earlier run, separated by commas, to read results from instead of measuring again: of "
        "`experiments.pairwise`, or of `experiments.geometry` where similarities of spaces are wanted. "
        "Example: --results=results/pairwise",
    ),
    "families": Flag(
        None,
        "Families of encoders, to test whether they explain the distances: names joined by +, or a CSV with columns "
        "encoder and family. Example: --families=face:arcface+adaface,general:clip+dino",
    ),
    # What to write.
    "curves": Flag(
        True,
        "Write points of CMC and DET curves of every pair (curves.csv, curves.parquet) and two-dimensional views of a "
        "few people (projection.csv).",
        kind="yes_no",
    ),
    "out": Flag(
        "results/pairwise",
        "Directory for what is written: results.csv, results.parquet, config.json, table.txt, heat maps; of a report "
        "the page, figures and tables. Made if missing; must not hold anything else.",
    ),
    "overwrite": Flag(False, "Replace the results that --out holds.", kind="yes_no"),
    "save_maps": Flag(False, "Keep every fitted map, in the directory maps of --out.", kind="yes_no"),
    "heatmaps": Flag(
        None,
        "Pictures of source by target, one per method and measure: `all` (as without it; rank1 where no data is "
        "given), `none`, or measures separated by commas. Example: --heatmaps=rank1,tmr@fmr=0.001",
    ),
    "compilation_cache": Flag(
        "default",
        "Directory that keeps compiled programs, so that the next run starts at once. `default` is one per "
        "user (~/.cache/jaxalign, or under XDG_CACHE_HOME), `none` keeps nothing.",
    ),
    "tables": Flag(
        "",
        "Write every table also for a paper, separated by commas: latex (booktabs), markdown; mean ± deviation, best "
        "in bold. Example: --tables=latex",
    ),
    # On what: several hosts, several devices of each.
    "hosts": Flag(
        None,
        "`auto`: this process is one of several, which JAX detects (TPU pod slice, SLURM, Open MPI, Kubernetes); every "
        "one is started with the same flags. Each reads its share of the training rows and fits and measures its "
        "share of the pairs; the first writes the results. Needs --store. docs/hosts.md.",
        choices=("auto",),
    ),
    "coordinator": Flag(
        None,
        "The same without detection: host:port of process 0, where it listens. Needs --num_processes and --process_id. "
        "Example: --coordinator=10.0.0.1:8476",
    ),
    "num_processes": Flag(None, "With --coordinator: how many processes there are.", kind="whole"),
    "process_id": Flag(None, "With --coordinator: which of them this one is, from 0.", kind="whole"),
    "devices": Flag(
        None,
        "How many of this process's devices share rows, pairs and test sets. Without it: every accelerator, or one "
        "CPU.",
        kind="whole",
    ),
    # A sweep by many processes.
    "stores": Flag(
        None,
        "Directories of embeddings, separated by commas, each a data set of its own. Example: --stores=lfw,cfp",
    ),
    "penalties": Flag(
        None,
        "Penalties of ridge and reduced_rank, each measured for itself, separated by commas: numbers, and cv or gcv "
        "beside them. Without it: that of --l2. Example: --penalties=0.01,0.1,1,cv",
    ),
    "stale_seconds": Flag(
        300.0,
        "An item whose process has shown no sign of life for so long is taken over by another.",
        kind="fraction",
    ),
    "retry_failed": Flag(False, "Try items again that have failed.", kind="yes_no"),
    "wait": Flag(
        False,
        "At the end wait for items that other processes hold, and take over those whose process stops.",
        kind="yes_no",
    ),
    "max_items": Flag(0, "End after so many items; 0 sets no limit.", kind="whole"),
    "minutes": Flag(0.0, "Begin no item after so many minutes; 0 sets no limit.", kind="fraction"),
    "merge_only": Flag(
        False, "Write results.csv and results.parquet from the items done so far, and end.", kind="yes_no"
    ),
    "dry_run": Flag(False, "Print how much there is to do, and end; writes nothing.", kind="yes_no"),
}
