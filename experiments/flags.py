"""The flags of every driver, defined in one place so that one name means one thing everywhere.

A driver names those it takes: ``FLAGS = flags.define("store", "models", "out")``. Values that absl cannot
check are read by the functions below, which answer a bad one with a sentence.
"""

import dataclasses
import math
import os
import pathlib
import sys
from collections.abc import Collection, Sequence
from typing import Any

from absl import flags as absl_flags

from experiments.protocols import METHODS, PROTOCOLS, Penalty
from jaxalign.errors import UserError
from jaxalign.low_rank import LOSSES


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
    # What to write.
    "out": Flag(
        "results/pairwise",
        "Directory for the results: results.csv, results.parquet, config.json, table.txt, heat maps. Made if "
        "missing; must not hold other results.",
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
    # One run by several hosts.
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


def define(*names: str, **defaults: Any) -> absl_flags.FlagValues:
    """Registers flags of ``DEFINITIONS`` for the calling driver; twice does no harm.

    Args:
      names: flags that the driver takes, with their usual default.
      defaults: flags that it takes with a default of its own.

    Returns:
      absl's flag values; read them after ``cli.run`` has parsed the command line.
    """
    caller = sys._getframe(1).f_globals.get("__name__", "__main__")
    module = sys.argv[0] if caller == "__main__" else caller
    for name in (*names, *defaults):
        if name not in absl_flags.FLAGS:
            _register(name, DEFINITIONS[name], defaults.get(name, DEFINITIONS[name].default))
        absl_flags.FLAGS.register_key_flag_for_module(module, absl_flags.FLAGS[name])
    return absl_flags.FLAGS


def _register(name: str, flag: Flag, default: Any) -> None:
    if flag.choices:
        absl_flags.DEFINE_enum(name, default, list(flag.choices), flag.help)
    elif flag.kind == "yes_no":
        absl_flags.DEFINE_boolean(name, default, flag.help)
    elif flag.kind == "whole":
        absl_flags.DEFINE_integer(name, default, flag.help, lower_bound=0)
    elif flag.kind == "fraction":
        absl_flags.DEFINE_float(name, default, flag.help)
    else:
        absl_flags.DEFINE_string(name, default, flag.help)


def words(name: str, text: str, known: Collection[str], what: str) -> tuple[str, ...]:
    """Names separated by commas, each known and none twice.

    Args:
      name: of the flag.
      text: as given.
      known: the names there are.
      what: they are, for the sentence, such as "encoder".
    """
    items = tuple(item.strip() for item in text.split(",") if item.strip())
    if not items:
        raise UserError(f"--{name} names no {what}; there are {', '.join(known)}.")
    for item in items:
        if item not in known:
            raise UserError(f"--{name}: there is no {what} '{item}'; there are {', '.join(known)}.")
    _refuse_twice(name, items)
    return items


def numbers(name: str, text: str, low: float, high: float) -> tuple[float, ...]:
    """Numbers separated by commas, each above ``low`` and at most ``high``."""
    values = []
    for item in _items(name, text):
        try:
            value = float(item)
        except ValueError:
            value = math.nan
        if not low < value <= high:
            limit = f"above {low:g} and at most {high:g}" if math.isfinite(high) else f"above {low:g}"
            raise UserError(f"--{name} takes numbers {limit}, separated by commas; got '{item}'.")
        values.append(value)
    _refuse_twice(name, values)
    return tuple(values)


def whole_numbers(name: str, text: str, low: int, high: int) -> tuple[int, ...]:
    """Whole numbers separated by commas, each from ``low`` to ``high``."""
    values = []
    for item in _items(name, text):
        if not item.isascii() or not item.isdigit() or not low <= int(item) <= high:
            raise UserError(
                f"--{name} takes whole numbers from {low} to {high}, separated by commas; got '{item}'."
            )
        values.append(int(item))
    _refuse_twice(name, values)
    return tuple(values)


def penalty(text: str) -> Penalty:
    """The value of ``--l2``: a number above 0, a grid of such, "cv" or "gcv"."""
    if text in ("cv", "gcv"):
        return text
    values = []
    for item in _items("l2", text):
        try:
            value = float(item)
        except ValueError:
            value = math.nan
        if not 0 < value < math.inf:
            raise UserError(
                "--l2 takes a number above 0, several separated by commas, cv, or gcv (without a penalty the "
                f"method is linear); got '{item}'."
            )
        values.append(value)
    _refuse_twice("l2", values)
    return values[0] if len(values) == 1 else tuple(values)


def ranks(text: str) -> tuple[int | None, ...] | str:
    """The value of ``--ranks``: numbers, None for "full"; or "cv", which stands alone."""
    items = _items("ranks", text)
    if items == ["cv"]:
        return "cv"
    values = []
    for item in items:
        if item != "full" and not (item.isascii() and item.isdigit() and 0 < int(item) < 2**31):
            raise UserError(
                f"--ranks takes whole numbers of 1 or more or full, separated by commas, or cv alone; got "
                f"'{text}'."
            )
        values.append(None if item == "full" else int(item))
    _refuse_twice("ranks", ["full" if value is None else value for value in values])
    return tuple(values)


def set_compilation_cache(value: str) -> pathlib.Path | None:
    """Makes JAX keep compiled programs in a directory, small programs of the CPU included.

    Args:
      value: of ``--compilation_cache``.

    Returns:
      The directory, or None where nothing is kept: asked for, or the directory cannot be written.
    """
    import jax

    if value in ("none", ""):
        jax.config.update("jax_enable_compilation_cache", False)
        return None
    directory = cache_directory(value, "compiled")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        usable = os.access(directory, os.W_OK | os.X_OK)
    except OSError:
        usable = False
    if not usable:
        if value != "default":
            raise UserError(f"--compilation_cache={value} is not a directory that can be written.")
        return None
    jax.config.update("jax_compilation_cache_dir", str(directory))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return directory


def cache_directory(value: str, kind: str) -> pathlib.Path:
    """The directory that a flag names, or the user's own for what is kept of one kind."""
    if value != "default":
        return pathlib.Path(value).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base) / "jaxalign" / kind


def _items(name: str, text: str) -> list[str]:
    items = [item.strip() for item in text.split(",")]
    if not all(items):
        raise UserError(f"--{name}={text} has an empty item; give values separated by single commas.")
    return items


def _refuse_twice(name: str, items: Sequence[object]) -> None:
    for item in items:
        if list(items).count(item) > 1:
            raise UserError(f"--{name} names {item} twice.")
