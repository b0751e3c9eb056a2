"""Maps for programs that do not know jaxalign: as a FAISS index and as a scikit-learn pipeline.

``jaxalign.gallery.onnx_file`` writes ONNX. All three compute what ``Exported`` describes.
"""

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxalign.align.affine import AffineMap
from jaxalign.align.saved import NORMALIZED
from jaxalign.core import checks
from jaxalign.core.errors import UserError, extra
from jaxalign.data.atomic import new_file, write_atomically

TOP = 20  # of the cohort: as the score named "cohort" has it


class Arrays(NamedTuple):
    """A map's arrays in one number format; the same as the attributes of ``AffineMap``."""

    center: np.ndarray | None
    factors: list[np.ndarray]
    bias: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class CohortColumns:
    """The two columns behind unit rows that make inner products the score ``cohort``.

    A row gets −½ r, where r is the mean of its ``top`` highest cosines with the cohort, and 1, as
    ``Comparator.vectors`` orders them: (−½ r, 1) for rows of the map's source encoder, (1, −½ r) for the other side.

    Attributes:
      people: centroids of the cohort's people on the *other* side, shape [people, d_out].
      of_source: whether the rows are the source encoder's.
      top: how many of the cohort are averaged.
    """

    people: np.ndarray
    of_source: bool = True
    top: int = TOP

    def __post_init__(self) -> None:
        if np.ndim(self.people) != 2 or not np.isfinite(np.asarray(self.people, np.float64)).all():
            raise UserError(
                f"cohort: expected finite centroids [people, width], got shape {np.shape(self.people)}"
            )
        if not checks.is_whole(self.top, 1) or self.top > len(self.people):
            raise UserError(f"top: expected a number from 1 to {len(self.people):,}, got {self.top!r}")


@dataclasses.dataclass(frozen=True, eq=False)
class Exported:
    """A map as another program is to compute it: scaling before, the map, scaling or the cohort's columns behind.

    Attributes:
      map: one map, no stack.
      normalize: "l2" scales rows to length 1 before the map, "none" leaves them; rows of zeros stay zeros.
      normalize_output: scale mapped rows to length 1.
      cohort: columns to add to the mapped rows, which are then scaled to length 1 first; only ONNX files have them.
      about: what a file should say of the map, such as ``source`` and ``target``; texts.

    Raises:
      UserError: a stack of maps, an unknown ``normalize``, or a cohort of another width than the map gives.
    """

    map: AffineMap
    normalize: str
    normalize_output: bool = False
    cohort: CohortColumns | None = None
    about: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.map.bias.ndim != 1:
            raise UserError(f"export: expected one map, got a stack of shape {self.map.bias.shape[:-1]}")
        if self.normalize not in NORMALIZED:
            raise UserError(f"normalize: expected one of {', '.join(NORMALIZED)}, got {self.normalize!r}")
        if self.cohort is not None and self.cohort.people.shape[1] != self.map.out_dim:
            width = self.cohort.people.shape[1]
            raise UserError(f"cohort: it is of width {width}, the map gives rows of {self.map.out_dim}")

    @property
    def out_dim(self) -> int:
        """Width of the rows that come out, the cohort's columns included."""
        return self.map.out_dim + (2 if self.cohort is not None else 0)

    def arrays(self, dtype: type) -> Arrays:
        """The map's arrays; a ``UserError`` if one holds numbers too large for ``dtype``."""
        given = self.map.center, *self.map.factors, self.map.bias
        with np.errstate(over="ignore"):
            center, *factors, bias = [None if one is None else np.asarray(one).astype(dtype) for one in given]
        if not all(one is None or np.isfinite(one).all() for one in (center, *factors, bias)):
            raise UserError(f"export: the map holds numbers that {np.dtype(dtype).name} cannot hold")
        assert bias is not None
        return Arrays(center, [factor for factor in factors if factor is not None], bias)


def require_free(path: pathlib.Path, overwrite: bool, *kept: pathlib.Path) -> None:
    """Refuses to write over a file unless asked to, over one of ``kept`` ever, and over anything but a file."""
    if not path.exists():
        return
    if any(file.exists() and os.path.samefile(path, file) for file in kept):
        raise UserError(f"{path} is the file that is read; choose another path for --out.")
    if not path.is_file():
        raise UserError(f"{path} exists and is not a file, so it is left alone; choose another path.")
    if not overwrite:
        raise UserError(f"{path} exists already; choose another path or add --overwrite.")


def faiss_index(exported: Exported) -> Any:
    """An empty flat FAISS index that maps the rows it is given and compares them by cosine.

    Every row passes the map, in ``add`` as in ``search``. Where only one side is mapped, the other is added or searched
    as unit rows in the inner index, ``faiss.downcast_index(index.index)``: for instance an old gallery is added there,
    and ``index.search`` takes probes of the new network.

    Args:
      exported: mapped rows are scaled to length 1 in any case, so that inner products are cosines.

    Returns:
      A ``faiss.IndexPreTransform`` around an ``IndexFlatIP``; products are float32.

    Raises:
      UserError: faiss is not installed; cohort columns, which no transform of FAISS computes.
    """
    with extra("formats"):
        import faiss

    if exported.cohort is not None:
        raise UserError("export: FAISS has no transform for the cohort's columns; export an ONNX file")

    def shifted(center: np.ndarray) -> Any:
        """Subtracts ``center``."""
        step = faiss.CenteringTransform(len(center))
        faiss.copy_array_to_vector(center, step.mean)
        step.is_trained = True
        return step

    center, factors, bias = exported.arrays(np.float32)
    steps: list[Any] = [faiss.NormalizationTransform(exported.map.in_dim, 2.0)] * (exported.normalize == "l2")
    steps += [] if center is None else [shifted(center)]
    for factor in factors:
        step = faiss.LinearTransform(factor.shape[0], factor.shape[1], False)
        faiss.copy_array_to_vector(np.ascontiguousarray(factor.T).ravel(), step.A)
        step.is_trained = True
        steps.append(step)
    steps += [shifted(-bias), faiss.NormalizationTransform(len(bias), 2.0)]
    index = faiss.IndexPreTransform(faiss.IndexFlatIP(len(bias)))
    for step in reversed(steps):
        index.prepend_transform(step)
    return index


def write_faiss(exported: Exported, out: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Writes ``faiss_index`` to a file for ``faiss.read_index``; it is there whole or not at all.

    Raises:
      UserError: see ``faiss_index``; or ``out`` exists or cannot be written.
    """
    out = pathlib.Path(out).expanduser()
    require_free(out, overwrite)
    index = faiss_index(exported)
    import faiss

    with new_file(out):
        write_atomically(out, lambda file: file.write(faiss.serialize_index(index).tobytes()))


def sklearn_pipeline(exported: Exported) -> Any:
    """The map as a fitted scikit-learn ``Pipeline``, which a pickle of it restores without jaxalign.

    ``pipeline.transform(rows)`` maps rows [n, d_in] of any format in float64. Its steps are scikit-learn's own, so it
    can stand before any estimator. Whoever loads a pickle runs what it says: load only your own, and give others the
    map's file.

    Raises:
      UserError: scikit-learn is not installed; cohort columns, for which it has no step.
    """
    with extra("sklearn"):
        from sklearn.pipeline import Pipeline
        from sklearn.preprocessing import FunctionTransformer, Normalizer, StandardScaler

    if exported.cohort is not None:
        raise UserError("export: scikit-learn has no step for the cohort's columns; export an ONNX file")

    def shifted(center: np.ndarray) -> StandardScaler:
        """Subtracts ``center``, which is the mean of the one row that it is fitted to."""
        return StandardScaler(with_std=False).fit(center[None])

    center, factors, bias = exported.arrays(np.float64)
    steps: list[tuple[str, Any]] = [
        ("float64", FunctionTransformer(np.asarray, kw_args={"dtype": np.float64}))
    ]
    if exported.normalize == "l2":
        steps.append(("unit", Normalizer()))
    if center is not None:
        steps.append(("center", shifted(center)))
    for number, factor in enumerate(factors):
        steps.append((f"factor{number}", FunctionTransformer(np.dot, kw_args={"b": factor})))
    steps.append(("bias", shifted(-bias)))
    if exported.normalize_output:
        steps.append(("unit_output", Normalizer()))
    return Pipeline(steps)
