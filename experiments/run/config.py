"""What a run of the main driver does, read from the flags and checked before any work starts."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from experiments.run import flags
from experiments.run.flag_definitions import DEFINITIONS
from experiments.run.protocols import GRADIENT, METHODS, PENALISED, PROTOCOLS, RANKED, Protocol
from jaxalign.align.gradient import LowRankSettings
from jaxalign.core.errors import UserError

LARGEST_SEED = 2**32 - 1  # of NumPy's legacy generator, which the published split uses
KINDS = ("identification", "verification")
CONTROLS = ("own", "shuffled", "pixels")
# Without photographs or embeddings of one's own: made people, one split, every control, the picture of the README, and
# one method of each kind, so that a first run, which compiles, takes about a minute.
DEMONSTRATION = {
    "images": "faces:200x8",
    "seeds": "42",
    "methods": "identity,orthogonal,ridge,canonical,shared",
    "controls": "all",
    "heatmaps": "rank1",
}
WITH_DATA = {"images": None, "seeds": None, "methods": None, "controls": "none", "heatmaps": "all"}


@dataclasses.dataclass(frozen=True)
class PairwiseConfig:
    """The exact configuration of a run; ``config.json`` holds it.

    Attributes:
      store, out: paths; the store is None where only photographs are given.
      images: specification of photographs to embed, or None; ``crop`` and ``bad_images`` say how, ``embedding_cache``
        where to keep them.
      models: encoders, or None for all of the store or all bundled ones; ``sources`` and ``targets`` likewise, among
        the models.
      protocol: with every setting that a flag changed.
      ranks: of the methods in ``RANKED``: None for the methods' own choice, "cv", or numbers where None is no
        limit.
      loss, steps, fit_rank: of the methods in ``GRADIENT``; no rank for the methods' own.
      folds: of cross-validation.
      max_per_person: test photographs a person at most; 0 for all.
      measures: of ``KINDS``.
      rank_k: ranks of identification.
      fmr: false match rates, ascending.
      pair_list: path of a list of comparisons, or None.
      gallery: "all" test photographs, the "first" of each person, or one "pooled" template for each person.
      controls: what to measure beside the methods, of ``CONTROLS``.
      heatmaps: names of measures to draw, or None for all; empty for none.
      intervals: resamples of test people; 0 for none.
      nonfinite, overwrite, save_maps, curves, devices: as the flags.
    """

    store: str | None
    images: str | None
    crop: str
    bad_images: str
    embedding_cache: str
    out: str
    models: tuple[str, ...] | None
    sources: tuple[str, ...] | None
    targets: tuple[str, ...] | None
    protocol: Protocol
    ranks: tuple[int | None, ...] | str | None
    loss: str
    steps: int
    fit_rank: int | None
    folds: int
    max_per_person: int
    measures: tuple[str, ...]
    rank_k: tuple[int, ...]
    fmr: tuple[float, ...]
    pair_list: str | None
    gallery: str
    controls: tuple[str, ...]
    heatmaps: tuple[str, ...] | None
    nonfinite: str
    overwrite: bool
    save_maps: bool
    intervals: int = 0
    curves: bool = False
    devices: int | None = None

    @classmethod
    def from_flags(cls, values: Any) -> "PairwiseConfig":
        """Reads absl's flag values.

        Raises:
          UserError: a value is not usable, or two contradict each other.
        """
        demonstration = values.store is None and values.images is None
        usual = DEMONSTRATION if demonstration else WITH_DATA
        given = {
            name: usual[name] if getattr(values, name) is None else getattr(values, name) for name in usual
        }
        if values.methods is None and values.protocol != "default":
            given["methods"] = None  # a protocol's own
        config = cls(
            store=values.store,
            images=given["images"],
            crop=values.crop,
            bad_images=values.bad_images,
            embedding_cache=values.embedding_cache,
            out=values.out,
            models=_encoders("models", values.models),
            sources=_encoders("sources", values.sources),
            targets=_encoders("targets", values.targets),
            protocol=_protocol(values, given["seeds"], given["methods"]),
            ranks=None if values.ranks is None else flags.ranks(values.ranks),
            loss=values.loss,
            steps=values.steps,
            fit_rank=None if values.fit_rank is None else _one_rank(values.fit_rank),
            folds=values.folds,
            max_per_person=values.max_per_person,
            measures=flags.words("measures", values.measures, KINDS, "kind of measure"),
            rank_k=flags.whole_numbers("rank_k", values.rank_k, 1, 10_000),
            fmr=tuple(sorted(flags.numbers("fmr", values.fmr, 0, 1))),
            pair_list=values.pair_list,
            gallery=values.gallery,
            controls=_controls(given["controls"], given["images"]),
            heatmaps=None,
            nonfinite=values.nonfinite,
            overwrite=values.overwrite,
            save_maps=values.save_maps,
            intervals=values.intervals,
            devices=values.devices,
            curves=values.curves and values.pair_list is None and values.gallery == "all",
        )
        config._check()
        return dataclasses.replace(config, heatmaps=_heatmaps(given["heatmaps"], config.measure_names()))

    def _check(self) -> None:
        methods = self.protocol.methods
        for name in ("store", "images"):
            if getattr(self, name) == "":
                raise UserError(f"--{name} is empty. {DEFINITIONS[name].help}")
        if self.images and self.models is None and (self.store or not self.images.startswith("faces:")):
            raise UserError("--images needs --models: the encoders to embed with, separated by commas.")
        if self.ranks is not None and not RANKED & set(methods):
            raise UserError(f"--ranks applies to {', '.join(sorted(RANKED))}; --methods has none of them.")
        if self.ranks == "cv" and "reduced_rank" not in methods:
            raise UserError("--ranks=cv chooses the rank of reduced_rank, which is not among --methods.")
        if GRADIENT & set(methods):
            both = True if "joint" in methods else None
            LowRankSettings(two_sided=both, **self.gradient_options()).settled()
        elif self.fit_rank is not None:
            raise UserError(
                f"--fit_rank applies to {', '.join(sorted(GRADIENT))}; --methods has none of them."
            )
        if self.folds < 2:
            raise UserError(f"--folds takes a whole number of 2 or more, got {self.folds}.")
        if self.pair_list is not None and "verification" not in self.measures:
            raise UserError("--pair_list is for verification, which is not among --measures.")
        if self.pair_list is not None and self.protocol.comparisons != "all":
            raise UserError("--pair_list and --comparisons=balanced exclude each other; leave one out.")
        if self.gallery != "all" and (self.pair_list is not None or self.protocol.comparisons != "all"):
            raise UserError(
                f"--gallery={self.gallery} goes with all comparisons; leave --pair_list and --comparisons "
                f"out."
            )

        if self.intervals and (
            self.gallery != "all" or self.pair_list is not None or self.protocol.comparisons != "all"
        ):
            raise UserError("--intervals goes with --gallery=all and all comparisons; leave one of them out.")

    def measure_names(self) -> tuple[str, ...]:
        """What the results may hold in the column ``measure``."""
        names = []
        if "identification" in self.measures:
            names += [*(f"rank{k}" for k in self.rank_k), "map", "map50"]
        if "verification" in self.measures:
            names += ["auc", "eer", *(f"tmr@fmr={rate:g}" for rate in self.fmr)]
            names += ["accuracy", "accuracy_error"] if self.pair_list else []
        return tuple(names)

    def pairs(self, encoders: tuple[str, ...]) -> list[tuple[str, str]]:
        """The ordered pairs to align, of a store opened with these encoders."""
        for flag, names in (("sources", self.sources), ("targets", self.targets)):
            for name in names or ():
                if name not in encoders:
                    raise UserError(f"--{flag}: there is no encoder '{name}' among {', '.join(encoders)}.")
        pairs = [(s, t) for s in self.sources or encoders for t in self.targets or encoders if s != t]
        if not pairs:
            raise UserError("--sources and --targets leave no pair of two different encoders.")
        return pairs

    def cuts(self, method: str) -> tuple[int | None, ...]:
        """Ranks to measure a method at; None is the method as fitted, without a further limit."""
        if method not in RANKED or self.ranks is None or isinstance(self.ranks, str):
            return (None,)
        return self.ranks

    def fit_options(self, method: str, widest: int) -> dict[str, Any]:
        """Keyword arguments of ``fit_pairs`` for a method; one fit serves every rank.

        Args:
          method: its name.
          widest: largest width among the encoders.
        """
        options: dict[str, Any] = {}
        if method in PENALISED:
            options["l2"] = self.protocol.l2
        if method in self.chosen_ranks():
            options["rank"] = "cv"
        if method == "shared" and isinstance(self.ranks, tuple):
            options["rank"] = max(widest if rank is None else rank for rank in self.ranks)
        return options

    def gradient_options(self) -> dict[str, Any]:
        """Settings of the methods that are fitted by gradient."""
        return {"loss": self.loss, "steps": self.steps, "rank": self.fit_rank}

    def check_fit_rank(self, pairs: list[tuple[str, str]], dims: Mapping[str, int]) -> None:
        """Refuses a rank that a pair's narrower side has not."""
        if self.fit_rank is None or "low_rank" not in self.protocol.methods:
            return
        for pair in pairs:
            if self.fit_rank > min(dims[name] for name in pair):
                raise UserError(
                    f"--fit_rank={self.fit_rank}: {pair[0]} → {pair[1]} has only {min(dims[name] for name in pair)} "
                    "dimensions to map through."
                )

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
        penalised = (PENALISED & set(self.protocol.methods)) | ({"shuffled", "pixels"} & set(self.controls))
        chosen = not isinstance(self.protocol.l2, float) and self.protocol.l2 != "gcv"
        return bool(penalised) and (chosen or bool(self.chosen_ranks() & set(self.protocol.methods)))


def _protocol(values: Any, seeds: str | None, methods: str | None) -> Protocol:
    protocol = PROTOCOLS[values.protocol]
    own = {"both": ("included", "excluded"), None: None}.get(values.own_photograph, (values.own_photograph,))
    fraction = values.train_fraction
    if fraction is not None and not 0 < fraction < 1:
        raise UserError(f"--train_fraction takes a number between 0 and 1, got {fraction:g}.")
    return protocol.replace(
        normalize=values.normalize,
        train_fraction=fraction,
        seeds=None if seeds is None else flags.whole_numbers("seeds", seeds, 0, LARGEST_SEED),
        methods=None if methods is None else flags.words("methods", methods, METHODS, "method"),
        l2=None if values.l2 is None else flags.penalty(values.l2),
        own_photograph=own,
        comparisons=values.comparisons,
    )


def _one_rank(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 2**31):
        raise UserError(f"--fit_rank takes one whole number of 1 or more, got '{text}'.")
    return int(text)


def _encoders(name: str, text: str) -> tuple[str, ...] | None:
    """Names as given; whether they are in the store is seen when it is opened."""
    if text == "all":
        return None
    return flags.words(name, text, tuple(part.strip() for part in text.split(",")), "encoder")


def _controls(text: str, images: str | None) -> tuple[str, ...]:
    if text == "none":
        return ()
    there = CONTROLS if images else tuple(name for name in CONTROLS if name != "pixels")
    chosen = there if text == "all" else flags.words("controls", text, CONTROLS, "control")
    if "pixels" in chosen and not images:
        raise UserError("--controls=pixels needs the photographs: give --images, or leave pixels out.")
    return chosen


def _heatmaps(text: str, names: tuple[str, ...]) -> tuple[str, ...] | None:
    if text in ("all", "none"):
        return None if text == "all" else ()
    return flags.words("heatmaps", text, names, "measure")
