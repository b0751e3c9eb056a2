"""Photographs decoded in worker threads, once for all encoders, in order and in bounded memory."""

import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import itertools
import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from jaxalign.core import rows
from jaxalign.core.errors import UserError
from jaxalign.vision.images.pictures import WHITE, Color, LandmarkCrop, View, decode_picture, pillow
from jaxalign.vision.images.source import BadImageError, Content, ImageSource, Picture, Sample

BAD_IMAGES = ("fail", "skip")


@dataclasses.dataclass(frozen=True)
class BadImage:
    """A photograph that was skipped, and the reason, to follow "it was skipped because"."""

    sample: Sample
    reason: str


@dataclasses.dataclass(frozen=True, eq=False)
class Batch:
    """The views of some photographs that follow each other in the source.

    Attributes:
      samples: who and what, b of them; none in the last batch where only bad images were left.
      images: an array per view, uint8 [b, height, width, 3]; for a view without a size, [b] objects, each
        uint8 [h, w, 3].
      digests: of each photograph as the source has it, see ``content_digest``.
      bad: those skipped since the batch before.
      stop: how many photographs of the source are done, bad ones included: where to start to go on from here.
    """

    samples: tuple[Sample, ...]
    images: tuple[np.ndarray, ...]
    digests: tuple[str, ...]
    bad: tuple[BadImage, ...]
    stop: int


def load_batches(
    source: ImageSource,
    views: Sequence[View],
    batch_size: int,
    *,
    bad_images: Literal["fail", "skip"] = "fail",
    start: int = 0,
    background: Color = WHITE,
    workers: int | None = None,
    prefetch: int | None = None,
) -> Generator[Batch, None, None]:
    """Goes through the photographs of a source, each decoded once for all views.

    Reading, decoding, cropping and resizing happen in threads, ahead of the consumer; what is ahead is bounded, so
    memory does not grow with the source. Closing the iterator stops the threads.

    Args:
      source: from ``open_images``.
      views: what each encoder sees; views of equal facts are taken once and share one array.
      batch_size: photographs of a batch; the last has what is left.
      bad_images: "fail" stops at the first photograph that cannot be read or has no landmarks; "skip" leaves it out
        and says so in ``Batch.bad``.
      start: photographs of the source to leave out, such as ``Batch.stop`` of an earlier run.
      background: red, green and blue behind transparent pixels.
      workers: threads; None for one per core and one for waiting on the disk, at most 16.
      prefetch: photographs that may be ahead of the consumer; None for two batches and one per worker.

    Returns:
      The batches, in the source's order.

    Raises:
      UserError: at once where an argument is wrong or, unless bad images are skipped, where landmarks are missing;
        from the iterator where a photograph is bad and may not be, or where none could be read.
    """
    if bad_images not in BAD_IMAGES:
        raise UserError(f"bad_images must be one of {', '.join(BAD_IMAGES)}, got {bad_images!r}.")
    for name, value in (("batch_size", batch_size), ("workers", workers), ("prefetch", prefetch)):
        if value is not None and value < 1:
            raise UserError(f"{name} must be at least 1, got {value}.")
    if not views or start < 0:
        raise UserError(f"expected at least one view and a start from 0, got {len(views)} and {start}.")
    pillow()
    if bad_images == "fail":
        _require_landmarks(source, views)
    workers = workers or _workers()
    facts = [view.facts() for view in views]
    first = [facts.index(fact) for fact in facts]  # of each view, the first view of equal facts
    distinct = {index: views[index] for index in first}
    prepare = functools.partial(_prepared, distinct, background)
    results = ordered(prepare, source.pictures(start), workers, prefetch or 2 * batch_size + workers)

    def stacked(good: list[Prepared]) -> tuple[np.ndarray, ...]:
        arrays = {
            index: _stack([prepared.images[index] for prepared in good], view.size)
            for index, view in distinct.items()
        }
        return tuple(arrays[index] for index in first)

    return _batches(source, stacked, results, batch_size, bad_images, start)


def read_contents(
    source: ImageSource,
    is_known: Callable[[str, str], bool] = lambda sample_id, digest: True,
    views: Sequence[View] = (),
    *,
    stop: int | None = None,
) -> Generator["Prepared | BadImage", None, None]:
    """Reads photographs for their digests, in the source's order; decodes only those that are not known.

    Args:
      source: from ``open_images``.
      is_known: of a sample id and a digest, whether the photograph can be used; all that can be read by default.
      views: what would be taken of the photographs that are not known, to find the bad ones.
      stop: the number of photographs to read; None for all.
    """
    workers = _workers()
    prepare = functools.partial(_prepared, dict(enumerate(views)), WHITE, is_known=is_known)
    return ordered(prepare, itertools.islice(source.pictures(), stop), workers, 4 * workers)


class Prepared(NamedTuple):
    """One photograph, every distinct view taken, by the view's index."""

    sample: Sample
    images: dict[int, np.ndarray]
    digest: str


def ordered(
    function: Callable[[Picture], Prepared | BadImage], pictures: Iterator[Picture], workers: int, ahead: int
) -> Generator[Prepared | BadImage, None, None]:
    """``map(function, pictures)`` in threads, in order, with at most ``ahead`` results waiting.

    Another thread draws the pictures, so that a slow source does not hold up the consumer while there is work.
    """
    pool = concurrent.futures.ThreadPoolExecutor(workers, thread_name_prefix="images")
    submitted = rows.prefetch((pool.submit(function, picture) for picture in pictures), ahead)
    try:
        for future in submitted:
            yield future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # no more can be submitted, which ends the drawing
        submitted.close()
        pool.shutdown()


def _prepared(
    views: Mapping[int, View],
    background: Color,
    picture: Picture,
    is_known: Callable[[str, str], bool] = lambda sample_id, digest: False,
) -> Prepared | BadImage:
    """What a worker does with one picture; one whose sample id and digest are known is not decoded."""
    try:
        points = {index: view.crop.points(picture) for index, view in views.items()}
        content = picture.load()
        digest = content_digest(content, picture.landmarks)
        if is_known(picture.sample.sample_id, digest):
            return Prepared(picture.sample, {}, digest)
        image = decode_picture(content, background)
        images = {index: view.apply(image, points[index]) for index, view in views.items()}
        return Prepared(picture.sample, images, digest)
    except BadImageError as error:
        return BadImage(picture.sample, str(error).rstrip("."))
    except OSError as error:
        return BadImage(picture.sample, f"it cannot be read ({error.strerror or error})")


def _batches(
    source: ImageSource,
    stacked: Callable[[list[Prepared]], tuple[np.ndarray, ...]],
    results: Generator[Prepared | BadImage, None, None],
    batch_size: int,
    bad_images: str,
    start: int,
) -> Generator[Batch, None, None]:
    done, seen = start, 0
    good: list[Prepared] = []
    bad: list[BadImage] = []
    first_bad: BadImage | None = None

    def batch() -> Batch:
        samples, digests = tuple(one.sample for one in good), tuple(one.digest for one in good)
        return Batch(samples, stacked(good), digests, tuple(bad), done)

    with contextlib.closing(results):
        for result in results:
            done += 1
            if isinstance(result, Prepared):
                good.append(result)
                seen += 1
            elif bad_images == "fail":
                raise UserError(f"{described(source, result)}. Mend or remove it, or skip bad images.")
            else:
                bad.append(result)
                first_bad = first_bad or result
            if len(good) == batch_size:
                yield batch()
                good, bad = [], []
    if start == 0 and seen == 0:
        none = f"{source.dataset}: none of its {done:,} photographs can be used"
        raise UserError(f"{none}; first, {described(source, first_bad)}." if first_bad else f"{none}.")
    if good or bad:
        yield batch()


def described(source: ImageSource, bad: BadImage) -> str:
    """Which photograph cannot be used, and why, without a full stop."""
    file = f" ({bad.sample.path})" if bad.sample.path else ""
    return f"{source.dataset}: the photograph {bad.sample.sample_id!r}{file} cannot be used: {bad.reason}"


def _stack(images: list[np.ndarray], size: tuple[int, int] | None) -> np.ndarray:
    if size is not None:
        return np.stack(images) if images else np.empty((0, *size, 3), np.uint8)
    stacked = np.empty(len(images), object)
    stacked[:] = images  # one by one: pictures that happen to be of one size must not become one array
    return stacked


def content_digest(content: Content, points: np.ndarray | None = None) -> str:
    """Names one photograph by what the source has of it: 32 hexadecimal digits of its bytes or pixels.

    Where the source has landmarks, a dash and 32 digits of these follow: embeddings may depend on them.
    """
    if isinstance(content, np.ndarray):
        content = ",".join(map(str, content.shape)).encode() + content.tobytes()
    parts = [content] if points is None else [content, np.asarray(points, np.float64).tobytes()]
    return "-".join(hashlib.blake2b(part, digest_size=16).hexdigest() for part in parts)


def _workers() -> int:
    """A thread for each core and one that waits for the disk, at most 16."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores + 1, 16)


def _require_landmarks(source: ImageSource, views: Sequence[View]) -> None:
    """Raises ``UserError`` before any work starts if photographs lack landmarks that the views need.

    A streamed source is not looked through.
    """
    crops = {id(view.crop): view.crop for view in views if isinstance(view.crop, LandmarkCrop)}
    for crop in crops.values():
        if source.samples is None:
            return
        missing = []
        for picture in source.pictures():
            try:
                crop.points(picture)
            except BadImageError:
                missing.append(picture.sample.sample_id)
        if missing:
            where = source.dataset if crop.table is None else crop.table.path
            raise UserError(
                f"{where} has no landmarks for {len(missing):,} of {len(source.samples):,} photographs (first: "
                f"{missing[0]!r}); give a file that has them, landmarks:FILE.csv, or another crop."
            )
