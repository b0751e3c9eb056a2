"""The configurations of commands: the flags that users set, read and checked before any work starts."""

import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping
from typing import Any

from experiments.run import flags
from experiments.run.photographs import PhotographFlags
from experiments.run.protocols import GRADIENT, PENALISED, PROTOCOLS, RANKED, Protocol
from jaxalign.align.gradient import LOSSES
from jaxalign.align.methods import SOLVERS
from jaxalign.biometrics import SCORES
from jaxalign.biometrics.open_set import CANDIDATES, FPIRS
from jaxalign.core.errors import UserError

OF_PHOTOGRAPHS = tuple(flags.of(PhotographFlags))
KINDS = ("identification", "verification")
CONTROLS = ("own", "shuffled", "pixels")
# What a run does where flags and protocol say nothing: one method of each kind on one split, and the picture of the
# README, so that a first run, which compiles, takes about a minute. Without data it is of synthetic people.
USUAL = {"seeds": "42", "methods": "identity,orthogonal,ridge,canonical,shared", "heatmaps": "rank1"}
USUAL |= {"controls": "own,shuffled"}
DEMONSTRATION = {"images": "faces:200x8", "controls": "all"}


def _names(name: str, text: str) -> tuple[str, ...] | None:
    """Encoders as given; whether the store has them is checked when it is opened."""
    return None if text == "all" else flags.words(name, text, None, "encoder")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairwiseConfig(PhotographFlags):
    """The exact configuration of a run; ``config.json`` holds it, and the help of its flag says what a field does.

    Attributes:
      models, sources, targets, heatmaps: None for all there are.
      protocol: with every setting that a flag changed.
      ranks: None for the methods' own choice, "cv", or numbers where None is no limit.
      fit_rank: None for the methods' own.
      fmr, fpir: ascending.
      usual_scores: whether ``scores`` are the usual ones, which nobody asked for.
    """

    store: str | None = flags.field(
        None,
        "Directory of embeddings: one data set under several encoders. Make one from your own files with "
        "`python -m experiments.import_embeddings`. Example: --store=my_store",
    )
    models: tuple[str, ...] | None = flags.field(
        "all",
        "Encoders to align, separated by commas: names in the store, or `all` of it; of photographs also encoders to "
        "embed with, such as clip, hf:DIR, onnx:FILE or zoo:NAME (bundled; all of them for synthetic photographs). "
        "Example: --models=arcface,clip",
        read=_names,
    )
    sources: tuple[str, ...] | None = flags.field("all", "Map only from these of the models.", read=_names)
    targets: tuple[str, ...] | None = flags.field("all", "Map only into these of the models.", read=_names)
    nonfinite: str = flags.field(
        "fail",
        "What to do with rows that cannot be compared, because one encoder gave NaN, infinity or all zeros: `fail` "
        "names them and stops; `drop` leaves those photographs out of every encoder and says how many.",
        choices=("fail", "drop"),
    )
    protocol: Protocol = flags.field(
        "default",
        "`published`: the protocol of arXiv 2604.07282 (ridge penalty 0.1, training means subtracted for the "
        "baseline too, the same image in the gallery; reported without it as well). `default`: ours (penalty by "
        "cross-validation over people, the same image never in the gallery, more methods).",
        choices=PROTOCOLS,
        read=lambda _, name: PROTOCOLS[name],
    )
    ranks: tuple[int | None, ...] | str | None = flags.field(
        None,
        "For reduced_rank, canonical and shared: compare in at most so many dimensions; one result for each of the "
        "list. `full` sets no limit, `cv` chooses per pair on training people (reduced_rank). Without it: canonical "
        "full, shared 96, reduced_rank cv. Example: --ranks=16,64,full",
        read=flags.ranks,
    )
    loss: str = flags.field("contrastive", "What low_rank and joint minimise.", choices=LOSSES)
    steps: int = flags.field(400, "Steps of Adam for low_rank and joint.")
    fit_rank: int | None = flags.field(
        None,
        "Dimensions that low_rank and joint are fitted in. Without it: 128, or as many as the encoders have.",
        read=flags.one_rank,
    )
    folds: int = flags.field(5, "Number of parts that training people are split into for cross-validation.")
    max_per_person: int = flags.field(
        0,
        "Test at most so many photographs a person, the first ones; 0 takes all. People with hundreds of photographs "
        "otherwise dominate every rate. Example: --max_per_person=20",
    )
    measures: tuple[str, ...] = flags.field(
        "identification,verification",
        "What to measure, separated by commas: identification (who is it: rank-k, mean average precision), "
        "verification (same person or not: AUC, EER, true match rate at a false match rate).",
        read=functools.partial(flags.words, known=KINDS, what="kind of measure"),
    )
    rank_k: tuple[int, ...] = flags.field(
        "1,5,10,20",
        "Identification: a hit counts if the right person is among the best k. Example: --rank_k=1,10",
        read=functools.partial(flags.whole_numbers, low=1, high=10_000),
    )
    fmr: tuple[float, ...] = flags.field(
        "0.0001,0.001,0.01,0.1",
        "Verification: false match rates (also called FAR) at which to report the true match rate (TAR). A rate with "
        "too few comparisons stays empty. Example: --fmr=0.001,0.01",
        read=lambda name, text: tuple(sorted(flags.numbers(name, text, 0, 1))),
    )
    pair_list: str | None = flags.field(
        None,
        "Verification on the pairs of a file instead: LFW's pairs.txt, or a CSV of pairs. Only pairs of two test "
        "photographs count. Example: --pair_list=pairs.txt",
    )
    gallery: str = flags.field(
        "all",
        "What a probe is compared with: `all` test photographs of the target, the `first` of each person, or one "
        "`pooled` template (mean of the photographs) for each person.",
        choices=("all", "first", "pooled"),
    )
    scores: tuple[str, ...] = flags.field(
        None,
        f"What two mapped rows are compared by, separated by commas, of: {', '.join(SCORES)}. `cohort` takes off "
        "how near each of them lies to training people, which helps most at low false match rates; the "
        "strength of `snorm` is a = 1/2, b = 1/4. All but the cosine take 20 training people or more. Without it: "
        "cosine,cohort, or cosine under --protocol=published. Example: --scores=cosine",
        read=functools.partial(flags.words, known=SCORES, what="score"),
    )
    open_set: bool = flags.field(
        False,
        "Measure open-set identification too: half of the test people with two photographs or more are enrolled with "
        "one, all other photographs search that gallery. Measures fnir@fpir=..., fnir20@fpir=..., sel@fpir=...",
    )
    fpir: tuple[float, ...] = flags.field(
        ",".join(map(str, FPIRS)),
        "With --open_set: false positive identification rates at which to report errors. Example: --fpir=0.01,0.03,0.1",
        read=lambda name, text: tuple(sorted(flags.numbers(name, text, 0, 1))),
    )
    draws: int = flags.field(
        1,
        "With --open_set: galleries to draw, over which measures are averaged; the first is fixed, others are random. "
        "Example: --draws=5",
    )
    calibration: bool = flags.field(
        False,
        "Measure what decisions by calibrated scores cost too: cllr, min_cllr and calibration_loss in bits, by a "
        "logistic rule that is fitted to other test people, and min_dcf@prior=..., the least detection cost.",
    )
    prior: float = flags.field(
        0.01, "With --calibration: how often comparisons are of one person. Example: --prior=0.001"
    )
    cost_miss: float = flags.field(1.0, "With --calibration: the cost of a false non-match.")
    cost_false: float = flags.field(1.0, "With --calibration: the cost of a false match.")
    controls: tuple[str, ...] = flags.field(
        None,
        "What to measure beside the methods, to judge them by: `own` (each encoder against itself), `shuffled` (ridge "
        "on rows that do not belong together, for the first seed), `pixels` (ridge from 64 principal components of the "
        "photographs), `all` of them or `none`. Without it: own and shuffled, or all where no data is given. "
        "Example: --controls=own",
    )
    intervals: int = flags.field(
        0,
        "Resamples of test people for intervals of 95 % (columns low and high) and for paired differences of methods; "
        "0 for none. Example: --intervals=1000",
    )
    curves: bool = flags.field(
        True,
        "Write points of CMC and DET curves of every pair (curves.csv, curves.parquet) and two-dimensional views of a "
        "few people (projection.csv).",
    )
    out: str = flags.field(
        "results/pairwise",
        "Directory for what is written: results.csv, results.parquet, config.json, table.txt, heat maps; of a report "
        "the page, figures and tables. Made if missing; must not hold anything else.",
    )
    overwrite: bool = flags.field(False, "Replace the results that --out holds.")
    save_maps: bool = flags.field(False, "Save every fitted map, in the directory maps of --out.")
    heatmaps: tuple[str, ...] | None = flags.field(
        None,
        "Pictures of source by target, one per method and measure: measures separated by commas, `all` or `none`. "
        "Without it: rank1. Example: --heatmaps=rank1,tmr@fmr=0.001",
    )
    devices: int | None = flags.field(
        None,
        "Devices of this process that share the work. Without it: every accelerator, or one CPU.",
        kind=int,
    )
    usual_scores: bool = False

    @classmethod
    def from_flags(cls, values: Any) -> "PairwiseConfig":
        """Reads the values of flags, given as attributes; a flag that ``values`` lacks has its default."""
        given = flags.every(cls, values) | flags.every(Protocol, values)
        demonstration = given["store"] is None and given["images"] is None
        usual_scores = given["scores"] is None
        if usual_scores:
            given["scores"] = "cosine" if given["protocol"] == "published" else "cosine,cohort"
        for name, usual in (USUAL | (DEMONSTRATION if demonstration else {})).items():
            if given[name] is None and (name not in ("methods", "seeds") or given["protocol"] == "default"):
                given[name] = usual
        read = flags.read(cls, given)
        read["protocol"] = read["protocol"].replace(**flags.read(Protocol, given))
        read["controls"] = _controls(given["controls"], given["images"])
        read["curves"] &= given["pair_list"] is None and given["gallery"] == "all"
        config = cls(**read, usual_scores=usual_scores)
        config._check()
        drawn: dict[str, tuple[str, ...] | None] = {"all": None, "none": ()}
        if (named := given["heatmaps"]) not in drawn:
            drawn[named] = flags.words("heatmaps", named, config.measure_names(), "measure")
        return dataclasses.replace(config, heatmaps=drawn[named])

    def _check(self) -> None:
        """Raises ``UserError`` where values contradict each other."""
        for name in ("store", "images"):
            if getattr(self, name) == "":
                raise UserError(f"--{name} is empty. {flags.of(PairwiseConfig)[name].help}")
        for sentence in self._contradictions():
            raise UserError(sentence)
        for method in sorted(GRADIENT & set(self.protocol.methods)):
            SOLVERS[method](**self.fit_options(method, 0)).validate()

    def _contradictions(self) -> Iterator[str]:
        methods = set(self.protocol.methods)
        listed, balanced = self.pair_list is not None, self.protocol.comparisons != "all"
        some_rows, costs = self.gallery != "all", (self.prior, self.cost_miss, self.cost_false)
        if self.identity_column and not self.images:
            yield "--identity_column names a column of --images, which is missing."
        if self.images and self.models is None and (self.store or not self.images.startswith("faces:")):
            yield "--images needs --models: the encoders to embed with, separated by commas."
        for name, value, of in (("ranks", self.ranks, RANKED), ("fit_rank", self.fit_rank, GRADIENT)):
            if value is not None and not of & methods:
                yield f"--{name} applies to {', '.join(sorted(of))}; --methods has none of them."
        if self.ranks == "cv" and "reduced_rank" not in methods:
            yield "--ranks=cv chooses the rank of reduced_rank, which is not among --methods."
        if self.folds < 2:
            yield f"--folds takes a whole number of 2 or more, got {self.folds}."
        if listed and "verification" not in self.measures:
            yield "--pair_list is for verification, which is not among --measures."
        if listed and balanced:
            yield "--pair_list and --comparisons=balanced exclude each other; leave one out."
        if some_rows and (listed or balanced):
            yield f"--gallery={self.gallery} goes with all comparisons; leave --pair_list and --comparisons out."
        if self.draws < 1:
            yield f"--draws takes a whole number of 1 or more, got {self.draws}."
        if not self.open_set and (self.fpir != FPIRS or self.draws > 1):
            yield "--fpir and --draws are of open-set identification; add --open_set."
        if self.open_set and some_rows:
            yield "--open_set enrols one photograph a person; leave --gallery out."
        if not self.calibration and costs != (0.01, 1, 1):
            yield "--prior, --cost_miss and --cost_false are of detection costs; add --calibration."
        if not 0 < self.prior < 1:
            yield f"--prior takes a number between 0 and 1, got {self.prior:g}."
        if not all(0 < cost < math.inf for cost in costs[1:]):
            yield f"--cost_miss and --cost_false take positive numbers, got {costs[1]:g} and {costs[2]:g}."
        if self.calibration and some_rows:
            yield "--calibration compares all test photographs; leave --gallery out."
        if self.intervals and (some_rows or listed or balanced):
            yield "--intervals goes with --gallery=all and all comparisons; leave one of them out."

    def with_protocol(self, **settings: Any) -> "PairwiseConfig":
        """The same run with other settings of the protocol, even of those that it fixes."""
        return dataclasses.replace(self, protocol=dataclasses.replace(self.protocol, **settings))

    def measure_names(self) -> tuple[str, ...]:
        """What the results may hold in the column ``measure``."""
        names = (
            [*(f"rank{k}" for k in self.rank_k), "map", "map50"] if "identification" in self.measures else []
        )
        if "verification" in self.measures:
            names += ["auc", "eer", *(f"tmr@fmr={rate:g}" for rate in self.fmr)]
            names += ["accuracy", "accuracy_error"] if self.pair_list else []
        if self.open_set:
            kinds = "fnir", f"fnir{CANDIDATES}", "sel"
            names += [f"{kind}@fpir={rate:g}" for rate in self.fpir for kind in kinds]
        if self.calibration:
            names += ["cllr", "min_cllr", "calibration_loss", f"min_dcf@prior={self.prior:g}"]
        return tuple(names)

    def pairs(self, dims: Mapping[str, int]) -> list[tuple[str, str]]:
        """The ordered pairs to align, of encoders with these widths, which the flags must suit."""
        for flag, names in (("sources", self.sources), ("targets", self.targets)):
            for name in names or ():
                if name not in dims:
                    raise UserError(f"--{flag}: there is no encoder '{name}' among {', '.join(dims)}.")
        pairs = [(s, t) for s in self.sources or dims for t in self.targets or dims if s != t]
        if not pairs:
            raise UserError("--sources and --targets leave no pair of two different encoders.")
        asked = max(rank or 0 for rank in self.ranks) if isinstance(self.ranks, tuple) else 0
        if asked > (largest := sum(dims.values())):
            have = f"the encoders have only {largest} dimensions together; --ranks=full sets no limit"
            raise UserError(f"--ranks asks for {asked}, but {have}.")
        if self.fit_rank is not None and "low_rank" in self.protocol.methods:
            for source, target in pairs:
                if self.fit_rank > (width := min(dims[source], dims[target])):
                    has = f"{source} → {target} has only {width} dimensions"
                    raise UserError(f"--fit_rank={self.fit_rank}: {has} to map through.")
        return pairs

    def cuts(self, method: str) -> tuple[int | None, ...]:
        """Ranks to measure a method at; None is the method as fitted, without a further limit."""
        return self.ranks if method in RANKED and isinstance(self.ranks, tuple) else (None,)

    def fit_options(self, method: str, widest: int) -> dict[str, Any]:
        """Keyword arguments of ``fit_pairs`` for a method; one fit serves every rank up to the ``widest`` encoder's."""
        if method in GRADIENT:
            return {"loss": self.loss, "steps": self.steps, "rank": self.fit_rank}
        options: dict[str, Any] = {"l2": self.protocol.l2} if method in PENALISED else {}
        if method in self.chosen_ranks():
            options["rank"] = "cv"
        if method == "shared" and isinstance(self.ranks, tuple):
            options["rank"] = max(widest if rank is None else rank for rank in self.ranks)
        return options

    def rank_as_fitted(self, method: str) -> bool:
        """Whether the fit itself has a rank to report, though no number was asked for."""
        if method in GRADIENT:
            return method == "joint" or self.fit_rank is not None
        return method in self.chosen_ranks() or (method == "shared" and not isinstance(self.ranks, tuple))

    def chosen_ranks(self) -> frozenset[str]:
        """Methods whose rank differs from pair to pair."""
        return frozenset() if isinstance(self.ranks, tuple) else frozenset({"reduced_rank"})

    def needs_folds(self) -> bool:
        """Whether anything is chosen by cross-validation."""
        penalised = PENALISED & set(self.protocol.methods)
        chosen = not isinstance(self.protocol.l2, float) and self.protocol.l2 != "gcv"
        return bool(penalised) and (chosen or bool(self.chosen_ranks() & set(self.protocol.methods)))


def _controls(text: str, images: str | None) -> tuple[str, ...]:
    """The controls of a run; ``all`` leaves out the pixels of photographs that are not given."""
    if text == "none":
        return ()
    there = CONTROLS if images else tuple(name for name in CONTROLS if name != "pixels")
    chosen = there if text == "all" else flags.words("controls", text, CONTROLS, "control")
    if "pixels" in chosen and not images:
        raise UserError("--controls=pixels needs the photographs: give --images, or leave pixels out.")
    return chosen


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stores:
    """Several data sets."""

    stores: str | None = flags.field(
        None,
        "Directories of embeddings, separated by commas, each a data set of its own. Example: --stores=lfw,cfp",
    )
