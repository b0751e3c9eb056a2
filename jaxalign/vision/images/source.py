"""What a source of photographs is: samples in a fixed order, and the picture of each as its file holds it."""

import collections
import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np

from jaxalign.core.errors import UserError

Content = bytes | np.ndarray


class BadImageError(UserError):
    """A photograph that cannot be used, and why; skipped or fatal as the user chooses."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """Who is on one photograph, and what it is called: its id (unique in a source), the person and the file, if any.

    ``further`` is what else a list says of the photograph, by the name of the column in a store.
    """

    sample_id: str
    identity: str
    path: str | None = None
    further: Mapping[str, str] = dataclasses.field(default_factory=dict, compare=False)


@dataclasses.dataclass(frozen=True, eq=False)
class Picture:
    """One photograph, not yet read.

    Attributes:
      sample: who and what.
      load: reads it, in any thread: an image file's bytes, or pixels, uint8 [h, w, 3] or [h, w]. Raises ``OSError``
        or ``BadImageError`` where that fails.
      landmarks: five points (x, y) of the upright picture in pixels, float64 [5, 2], where the source has them; see
        ``landmarks``.
    """

    sample: Sample
    load: Callable[[], Content]
    landmarks: np.ndarray | None = None


class ImageSource(Protocol):
    """A data set of photographs. ``open_images`` makes one; a new kind is a class like this and a row there.

    Attributes:
      dataset: name of the data set.
      samples: all of them, in the order of ``pictures``; None where the source is streamed, so that their number is
        unknown before the end.
    """

    @property
    def dataset(self) -> str: ...

    @property
    def samples(self) -> Sequence[Sample] | None: ...

    def pictures(self, start: int = 0) -> Iterator[Picture]:
        """Goes through the photographs in the same order every time; the first ``start`` are left out unread."""
        ...


@dataclasses.dataclass(frozen=True)
class SourceOptions:
    """What a specification string has no room for; None looks for the usual names. A source refuses what it lacks.

    Attributes:
      image_column: with the photograph (``hub:``) or its path (``csv:``).
      identity_column: with the person.
      sample_id_column: with the sample's name.
      landmarks_column: with five points as ten numbers.
      split: of a hub data set, such as "train".
      config: of a hub data set that has several.
      revision: of a hub data set: a branch, a tag or a commit.
      streaming: read a hub data set while it comes in, without a copy on disk.
      bad_images: "fail" refuses a list of which files are missing; "skip" leaves that to the reading of photographs.
    """

    image_column: str | None = None
    identity_column: str | None = None
    sample_id_column: str | None = None
    landmarks_column: str | None = None
    split: str | None = None
    config: str | None = None
    revision: str | None = None
    streaming: bool = False
    bad_images: str = "fail"

    def refuse_all_but(self, known: Sequence[str], form: str) -> None:
        """Raises ``UserError`` for an option that is not among ``known``, which this kind of source does not have."""
        for field in dataclasses.fields(self):
            if field.name not in (*known, "bad_images") and getattr(self, field.name) != field.default:
                raise UserError(f"the option {field.name} means nothing to images given as {form}.")


def read_file(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a file; a picture's ``load`` for sources that keep paths."""
    with open(path, "rb") as file:
        return file.read()


def reason(error: BaseException) -> str:
    """The first line of what another library says."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def check_samples(samples: Sequence[Sample], where: str) -> None:
    """Refuses a data set that nothing can be measured on.

    Raises:
      UserError: it has no samples or those of one person only, or a name occurs twice or cannot be stored.
    """
    if not samples:
        raise UserError(f"{where} holds no photographs.")
    for sample in samples:
        check_names(sample, where)
    counts = collections.Counter(sample.sample_id for sample in samples)
    sample_id, count = counts.most_common(1)[0]
    if count > 1:
        twice = f"the sample id {sample_id!r} is on {count:,} photographs"
        raise UserError(f"{where}: {twice}; each needs its own.")
    people = {sample.identity for sample in samples}
    if len(people) == 1:
        only = f"the one of all {len(samples):,} photographs is {people.pop()!r}"
        raise UserError(f"{where}: recognition needs at least two people; {only}.")


def check_names(sample: Sample, where: str) -> None:
    """Raises ``UserError`` if a name is empty, holds a NUL or cannot be written as UTF-8, so that no store holds it."""
    for what, name in (("sample id", sample.sample_id), ("person", sample.identity)):
        if not name.strip() or "\0" in name:
            raise UserError(f"{where}: the photograph {sample.sample_id!r} has the {what} {name!r}.")
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise UserError(f"{where}: the name {name!r} is not text in UTF-8; rename the file.") from error
