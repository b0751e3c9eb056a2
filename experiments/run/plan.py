"""What a study consists of: its parts, their order, their flags, and the directory that they go to."""

import dataclasses
import importlib
import pathlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from absl import flags as absl_flags

from experiments.run import analysis, flags, results
from experiments.run.analysis import Analysis
from experiments.run.config import PairwiseConfig
from experiments.run.data import Data
from jaxalign.core.errors import UserError
from jaxalign.report.labels import file_stem

# Modules of ``experiments`` with an ANALYSIS, in the order in which they run: of each store, or of all together.
OF_EACH = (
    *("pairwise", "geometry", "families"),
    *("rank_sweep", "ridge_path", "capacity", "data_efficiency", "stability"),
)
OF_ALL = ("transfer",)
# Parts of the same stores that an analysis reads where they are there, instead of measuring again.
READS = {"geometry": ("pairwise",), "families": ("pairwise", "geometry"), "transfer": ("pairwise",)}
# Where a part of the study differs from its command's defaults.
DEFAULTS: dict[str, dict[str, Any]] = {
    "pairwise": {"methods": "identity,orthogonal,ridge,canonical,shared", "seeds": "42", "intervals": 1000},
}
# Without stores and models: as many encoders as a study of three minutes has time for, one of each kind.
DEMONSTRATION = ",".join(
    f"zoo:{name}"
    for name in ("arcface_plain", "cosface_residual", "vit_cosface", "masked_autoencoder", "attributes_plain")
)
REPORT = "report"
UNFINISHED = ".unfinished"  # what a run that was killed leaves


@dataclasses.dataclass(frozen=True)
class Part:
    """One directory of the study: an analysis of one store or of all, with its flags.

    Attributes:
      name: of the directory.
      analysis, stores, values, config: what to run, on what, with which flags.
      earlier: directories of parts to read results from, which are done before.
    """

    name: str
    analysis: Analysis
    stores: tuple[Data, ...]
    values: Any
    config: PairwiseConfig
    earlier: tuple[pathlib.Path, ...] = ()


def chosen_parts(text: str) -> tuple[str, ...]:
    """The modules of the parts to run, in order."""
    everything = (*OF_EACH, *OF_ALL)
    named = everything if text == "all" else flags.words("parts", text, everything, "part")
    return tuple(name for name in everything if name in named)


def asked(values: absl_flags.FlagValues) -> dict[str, Any]:
    """The flags that were given to the study, and what stands for those that were not where there is no data."""
    given = {name: values[name].value for name in values if values[name].present}
    if not {"stores", "images", "models"} & set(given):
        given["models"] = DEMONSTRATION
    return given


def open_all(values: absl_flags.FlagValues, given: Mapping[str, Any]) -> list[Data]:
    """The stores of the study, or one of synthetic faces."""
    every = flags.namespace(values, **given)
    if every.stores is None:
        return [Data.open(analysis.configure(every))]
    return analysis.open_stores(every, least=1)[1]


def planned(
    names: Sequence[str], stores: Sequence[Data], given: Mapping[str, Any], out: pathlib.Path
) -> Iterator[Part]:
    """Every part: store by store, then those of all stores.

    Raises:
      UserError: a flag does not suit a part, or there is no part for so few stores.
    """
    if len(stores) == 1 and not any(name in OF_EACH for name in names):
        raise UserError(f"--parts={','.join(names)} takes at least two stores.")
    here = [name for name in names if name in OF_EACH]

    def earlier(name: str, stores: Sequence[Data]) -> list[pathlib.Path]:
        read = [other for other in READS.get(name, ()) if other in here]
        return [out / directory_of(other, data) for data in stores for other in read]

    for data in stores:
        for name in here:
            yield _part(out / directory_of(name, data), name, (data,), given, earlier(name, [data]))
    for name in names:
        if name in OF_ALL and len(stores) > 1:
            yield _part(out / name, name, tuple(stores), given, earlier(name, stores))


def directory_of(name: str, data: Data) -> str:
    """The name of a part's directory; that of a data set may have letters that a file's must not have."""
    return f"{name}-{file_stem(data.store.dataset)}"


def _part(
    place: pathlib.Path,
    name: str,
    stores: tuple[Data, ...],
    given: Mapping[str, Any],
    earlier: Sequence[pathlib.Path] = (),
) -> Part:
    """A part with its flags: those given to the study, else its own defaults."""
    part, here = importlib.import_module(f"experiments.{name}").ANALYSIS, {"out": str(place)}
    if "stores" in given:
        here["store"] = str(stores[0].store.path)
    values = flags.namespace(part.flags, only_defaults=True, **{**DEFAULTS.get(name, {}), **given, **here})
    config = analysis.configure(values, part.methods, **part.also)
    return Part(place.name, part, stores, values, config, tuple(earlier))


def check_output(out: pathlib.Path, overwrite: bool) -> None:
    """Says before any work starts whether the study may be written.

    Raises:
      UserError: ``out`` is a file, or holds something that is not a study, or one that may not be replaced.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"--out={out} exists and is not a directory; choose another place for the study.")
    for entry in sorted(out.iterdir()) if out.exists() else ():
        if entry.name.partition("-")[0] in (*OF_EACH, *OF_ALL, REPORT):
            results.check_output(entry, overwrite)
        elif entry.name != "config.json" and not entry.name.endswith(UNFINISHED):
            raise UserError(
                f"--out={out} holds files that are not a study ({entry.name}); choose another directory."
            )
    if not out.exists():
        results.check_output(out, overwrite)


def remove_stale(out: pathlib.Path, done: Sequence[str]) -> None:
    """Removes what an older study left and this one has not replaced: its parts, and the report on them."""
    for entry in out.iterdir():
        if entry.is_dir() and entry.name not in done:
            shutil.rmtree(entry)
