"""Which rows are compared with which: pairs read from a file, or drawn as the published protocol does."""

import dataclasses
import os
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jaxalign.biometrics.plan import first_copies
from jaxalign.core.errors import UserError
from jaxalign.core.files import csv_lines, read_text
from jaxalign.core.names import labels, normal_name
from jaxalign.core.people import legacy_generator

Path = str | os.PathLike[str]
Names = Sequence[str] | np.ndarray
_IMAGE_SUFFIX = re.compile(r"\.(jpe?g|png|bmp|gif|webp|tiff?|p[gpn]m|npy)$", re.IGNORECASE)
_TRUTH = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


@dataclasses.dataclass(frozen=True, eq=False)
class PairList:
    """Comparisons of the row ``left[k]`` with the row ``right[k]``.

    Attributes:
      left, right: row numbers, int64, shape [m].
      genuine: whether both are of one person, bool, shape [m].
      fold: of each pair, from 0, integers, shape [m]; empty for no folds.
    """

    left: np.ndarray
    right: np.ndarray
    genuine: np.ndarray
    fold: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int32))

    def __len__(self) -> int:
        return len(self.left)

    def among(self, rows: ArrayLike) -> "PairList":
        """The pairs of which both rows are among these (row numbers, none twice), numbered by position in ``rows``."""
        rows = np.asarray(rows, np.int64)
        highest = max((int(part.max(initial=-1)) for part in (rows, self.left, self.right)), default=-1)
        position = np.full(highest + 1, -1)
        position[rows] = np.arange(len(rows))
        left, right = position[self.left], position[self.right]
        kept = (left >= 0) & (right >= 0)
        return PairList(left[kept], right[kept], self.genuine[kept], self.fold[kept])


def published_pairs(
    identities: ArrayLike, seed: int, images: Sequence | np.ndarray | None = None
) -> PairList:
    """Every genuine pair, then as many impostor pairs, as the published protocol compares; one fold.

    Genuine pairs are i < j within a person, all of them. Impostor pairs are drawn independently and evenly from all
    ordered pairs of rows of two people.

    Args:
      identities: the person of each row, shape [n].
      seed: of the draw, from 0 to 2³² − 1.
      images: an image's number or name for each row, shape [n]: copies of an image are no genuine pair.

    Raises:
      UserError: nobody has two rows, or there is one person only.

    References:
      Rubab, Tong, Ross, arXiv 2604.07282, 2026.
    """
    people, person = np.unique(labels("identities", identities)[0], return_inverse=True)  # pyright: ignore[reportArgumentType]
    generator = legacy_generator(seed)
    genuine = _genuine_pairs(person)
    if images is not None:
        copy = first_copies(images, person)[genuine]
        genuine = genuine[:, copy[0] != copy[1]]
    count = len(genuine[0])
    if count == 0:
        raise UserError(f"each of the {len(people):,} people has one image, so there is no genuine pair.")
    if len(people) < 2:
        raise UserError(f"all {len(person):,} images are of one person, so there is no impostor pair.")
    both = np.concatenate([genuine, _impostor_pairs(person, count, generator)], axis=1)
    return PairList(*both, np.repeat([True, False], count), np.zeros(2 * count, np.int32))  # pyright: ignore[reportCallIssue]


def read_lfw_pairs(path: Path, identities: Names, sample_ids: Names) -> PairList:
    """Reads a list in the format of LFW's pairs.txt; the pairs are in the order of the file.

    The first line has the number of folds and of genuine pairs per fold (``10 300``; the number of pairs alone is one
    fold). Then each fold has so many genuine lines ``Name i j`` and as many impostor lines ``NameA i NameB j``,
    separated by tabs. Image i of Name is the sample ``Name_000i``, with or without a folder and a suffix, or
    ``Name/i``, with or without leading zeros and a suffix.

    Args:
      path: of the list.
      identities: the person of each row, shape [n].
      sample_ids: the name of each row, shape [n].

    Raises:
      UserError: the file is missing, cut short or of another format, an image is not among the samples, or the
        identities contradict a line.

    References:
      Huang et al., "Labeled Faces in the Wild", University of Massachusetts, Amherst, Technical Report 07-49,
      2007.
    """
    lines = [(number, line) for number, line in enumerate(_lines(path), 1) if line.strip()]
    folds, each = _lfw_header(path, lines)
    if len(lines) - 1 != 2 * folds * each:
        raise UserError(
            f"{path}: the first line announces {folds} folds of {each} genuine and {each} impostor pairs, "
            f"which is {2 * folds * each:,} lines; {len(lines) - 1:,} follow. The file may be cut short."
        )
    pairs = []
    for index, (number, line) in enumerate(lines[1:]):
        genuine = index % (2 * each) < each
        left, right = _lfw_names(f"{path}, line {number}", line, genuine)
        pairs.append(_Pair(number, left, right, genuine, index // (2 * each)))
    return _matched(path, pairs, identities, sample_ids)


def read_pairs_csv(path: Path, identities: Names, sample_ids: Names) -> PairList:
    """Reads a list of pairs from a CSV file with a header; arguments, result and errors as in ``read_lfw_pairs``.

    Columns ``left`` and ``right`` hold sample ids, whole or without folder and suffix, with slashes or backslashes;
    values are separated by commas, semicolons or tabs. Optional: ``genuine``
    (1 or 0, else from the identities) and ``fold`` (a whole number, else 0).
    """
    lines = csv_lines(read_text(path, "a list of pairs"), path)
    header = [name.strip() for name in lines[0][1]] if lines else []
    if not {"left", "right"} <= set(header):
        raise UserError(f"{path}: expected columns left,right in line 1, got {','.join(header)!r}.")
    pairs = []
    for number, line in lines[1:]:
        if len(line) != len(header):
            raise UserError(f"{path}, line {number}: expected {len(header)} values, as in the first line.")
        pairs.append(_csv_pair(path, number, dict(zip(header, line))))
    return _matched(path, pairs, identities, sample_ids)


class _Pair(NamedTuple):
    """One line of a file; ``genuine`` is None where the file does not say."""

    line: int
    left: str
    right: str
    genuine: bool | None
    fold: int


def _csv_pair(path: Path, line: int, record: dict) -> _Pair:
    where = f"{path}, line {line}"
    genuine = _TRUTH.get(record["genuine"].strip().lower()) if "genuine" in record else None
    if "genuine" in record and genuine is None:
        raise UserError(f"{where}: expected 1 or 0 in the column genuine, got {record['genuine']!r}.")
    fold = _number(record.get("fold", "0"), f"{where}: column fold")
    return _Pair(line, record["left"].strip(), record["right"].strip(), genuine, fold)


def _matched(path: Path, pairs: list[_Pair], identities: Names, sample_ids: Names) -> PairList:
    """Looks the pairs up among the samples and checks them against the identities."""
    if not pairs:
        raise UserError(f"{path} holds no pairs.")
    rows_of = _rows_by_name(labels("sample ids", sample_ids)[0])

    def named(name: str) -> str:
        normal = normal_name(name)
        return normal if normal in rows_of else normal.replace("\\", "/")

    pairs = [pair._replace(left=named(pair.left), right=named(pair.right)) for pair in pairs]
    names = dict.fromkeys(name for pair in pairs for name in (pair.left, pair.right))
    missing = [name for name in names if not rows_of.get(name)]
    if missing:
        raise UserError(
            f"{path}: {len(missing):,} of its {len(names):,} images are not among the "
            f"{len(sample_ids):,} samples (first: {missing[0]!r}; a sample is {str(sample_ids[0])!r})."
        )
    for name in names:
        if len(rows_of[name]) > 1:
            first, second = (str(sample_ids[row]) for row in rows_of[name][:2])
            raise UserError(f"{path}: {name!r} may be the sample {first!r} or {second!r}.")
    left, right = np.array([(rows_of[pair.left][0], rows_of[pair.right][0]) for pair in pairs], np.int64).T
    identities = labels("identities", identities)[0]
    same = identities[left] == identities[right]
    for index, pair in enumerate(pairs):
        where = f"{path}, line {pair.line}"
        if pair.genuine is not None and pair.genuine != same[index]:
            says, is_so = ("one person", "two people") if pair.genuine else ("two people", "one person")
            raise UserError(f"{where}: {pair.left} and {pair.right} are {says}; the data: {is_so}.")
        if left[index] == right[index]:
            raise UserError(f"{where}: {pair.left} is compared with itself.")
    return PairList(left, right, same, np.array([pair.fold for pair in pairs], np.int32))


def _rows_by_name(sample_ids: Names) -> dict[str, list[int]]:
    """Every way to name a sample: whole, without folder and suffix, as ``person_0001`` for ``person/1``."""
    whole = {str(sample): [row] for row, sample in enumerate(sample_ids)}
    short: dict[str, list[int]] = {}
    for sample, rows in whole.items():
        *folders, last = re.split(r"[/\\]", _IMAGE_SUFFIX.sub("", sample))
        names = {last}
        if folders and last.isascii() and last.isdigit():
            names.add(f"{folders[-1]}_{int(last):04d}")
        for name in names - {sample}:
            short.setdefault(name, []).extend(rows)
    return short | whole  # a whole name means that sample, whatever else it may abbreviate


def _lfw_header(path: Path, lines: list[tuple[int, str]]) -> tuple[int, int]:
    first = lines[0][1].strip() if lines else ""
    found = re.fullmatch(r"(?:([1-9][0-9]{0,8})\s+)?([1-9][0-9]{0,8})", first)
    if found is None:
        raise UserError(
            f"{path}: expected a first line with the number of folds and of pairs, such as '10 300', got {first!r}."
        )
    return int(found[1] or 1), int(found[2])


def _lfw_names(where: str, line: str, genuine: bool) -> tuple[str, str]:
    fields = [field.strip() for field in (line.split("\t") if "\t" in line else line.split())]
    if len(fields) != (3 if genuine else 4):
        form = "a genuine pair 'Name i j'" if genuine else "an impostor pair 'NameA i NameB j'"
        raise UserError(f"{where}: expected {form}, got {line.strip()!r}.")
    first, second = (_number(field, where) for field in (fields[1], fields[-1]))
    return f"{fields[0]}_{first:04d}", f"{fields[0 if genuine else 2]}_{second:04d}"


def _number(text: str, where: str) -> int:
    if not re.fullmatch(r"\s*[0-9]{1,9}\s*", text):
        raise UserError(f"{where}: expected a whole number, got {text!r}.")
    return int(text)


def _lines(path: Path) -> list[str]:
    return read_text(path, "a list of pairs").split("\n")


def _genuine_pairs(person: np.ndarray) -> np.ndarray:
    """All i < j of one person, sorted by i, then j, shape [2, pairs]."""
    by_person = np.argsort(person, kind="stable")
    block = person[by_person]
    pairs = [np.zeros((2, 0), np.int64)]
    for apart in range(1, np.bincount(person).max()):
        first = np.flatnonzero(block[apart:] == block[:-apart])
        pairs.append(by_person[np.stack([first, first + apart])])
    found = np.concatenate(pairs, axis=1)
    return found[:, np.lexsort(found[::-1])]


def _impostor_pairs(person: np.ndarray, number: int, generator: np.random.RandomState) -> np.ndarray:
    """Ordered pairs of two people's rows, drawn evenly, shape [2, number].

    With rows sorted by person, the partners of a row are those before its person's block and those after it; one random
    number below the count of all such pairs picks a row and a partner.
    """
    by_person = np.argsort(person, kind="stable")
    counts = np.bincount(person)
    starts = np.cumsum(counts) - counts
    block = person[by_person]
    partners = len(person) - counts[block]
    up_to = np.cumsum(partners)
    drawn = generator.randint(0, up_to[-1], size=number, dtype=np.int64)
    left = np.searchsorted(up_to, drawn, side="right")
    right = drawn - (up_to[left] - partners[left])
    right += np.where(right >= starts[block[left]], counts[block[left]], 0)
    return by_person[np.stack([left, right])]
