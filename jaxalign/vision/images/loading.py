"""Photographs decoded in worker threads, once for all encoders, in order and in bounded memory."""

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import os
import queue
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Literal

import numpy as np

from jaxalign.core.errors import UserError
from jaxalign.vision.images.crops import View, require_landmarks
from jaxalign.vision.images.pictures import WHITE, decode_picture, pillow
from jaxalign.vision.images.source import BadImageError, Content, ImageSource, Picture, Sample

BAD_IMAGES = ("fail", "skip")


@dataclasses.dataclass(frozen=True)
class BadImage:
    """A photograph that was skipped.

    Attributes:
      sample: which.
      reason: why, to follow "it was skipped because".
    """

    sample: Sample
    reason: str


@dataclasses.dataclass(frozen=True, eq=False)
class Batch:
    """The views of some photographs that follow each other in the source.

    Attributes:
      samples: who and what, b of them; none in the last batch where only bad images were left.
      images: an array per view, uint8 [b, height, width, 3]; for a view without a size, [b] objects, each
        uint8 [h, w, 3].
      digests: of each photograph as the source has it, 32 hexadecimal digits: equal digests, equal photographs.
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
    background: tuple[int, int, int] = WHITE,
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
        require_landmarks(source, views)
    workers = workers or min(_cores() + 1, 16)
    work = _Preparation(views, background)
    results = ordered(work, source.pictures(start), workers, prefetch or 2 * batch_size + workers)
    return _batches(source, work, results, batch_size, bad_images, start)


def ordered(
    function: Callable[[Picture], "Prepared | BadImage"],
    pictures: Iterator[Picture],
    workers: int,
    ahead: int,
) -> Generator["Prepared | BadImage", None, None]:
    """``map(function, pictures)`` in threads, in order, with at most ``ahead`` results waiting.

    The pictures are drawn in a thread of their own, so that a slow source keeps nobody waiting who has work.
    """
    room = threading.Semaphore(ahead)
    waiting: queue.SimpleQueue[concurrent.futures.Future | BaseException | None] = queue.SimpleQueue()
    stopped = threading.Event()
    pool = concurrent.futures.ThreadPoolExecutor(workers, thread_name_prefix="images")

    def feed() -> None:
        try:
            while True:
                room.acquire()
                picture = None if stopped.is_set() else next(pictures, None)
                if picture is None or stopped.is_set():
                    break
                waiting.put(pool.submit(function, picture))
            waiting.put(None)
        except BaseException as error:  # passed on to the consumer, whatever it is
            waiting.put(error)

    feeder = threading.Thread(target=feed, name="images-feeder", daemon=True)
    feeder.start()
    try:
        while (entry := waiting.get()) is not None:
            if isinstance(entry, BaseException):
                raise entry
            result = entry.result()
            room.release()
            yield result
    finally:
        stopped.set()
        room.release()
        feeder.join()
        pool.shutdown(cancel_futures=True)


@dataclasses.dataclass(frozen=True, eq=False)
class Prepared:
    """One photograph, every distinct view taken."""

    sample: Sample
    images: tuple[np.ndarray, ...]
    digest: str


class _Preparation:
    """What a worker does with one picture."""

    def __init__(self, views: Sequence[View], background: tuple[int, int, int]):
        facts = [view.facts() for view in views]
        first = [facts.index(fact) for fact in facts]
        self.distinct = [view for index, view in enumerate(views) if first[index] == index]
        # Which distinct view each asked one is.
        self.places = [sorted(set(first)).index(index) for index in first]
        self._background = background

    def __call__(self, picture: Picture) -> Prepared | BadImage:
        try:
            points = [view.crop.points(picture) for view in self.distinct]
            content = picture.load()
            image = decode_picture(content, self._background)
            images = tuple(view.apply(image, its) for view, its in zip(self.distinct, points))
            return Prepared(picture.sample, images, _digest(content))
        except BadImageError as error:
            return BadImage(picture.sample, str(error).rstrip("."))
        except OSError as error:
            return BadImage(picture.sample, f"it cannot be read ({error.strerror or error})")


def _batches(
    source: ImageSource,
    work: _Preparation,
    results: Generator[Prepared | BadImage, None, None],
    batch_size: int,
    bad_images: str,
    start: int,
) -> Generator[Batch, None, None]:
    done, seen = start, 0
    good: list[Prepared] = []
    bad: list[BadImage] = []
    first_bad: BadImage | None = None
    with contextlib.closing(results):
        for result in results:
            done += 1
            if isinstance(result, Prepared):
                good.append(result)
                seen += 1
            elif bad_images == "fail":
                raise UserError(f"{_described(source, result)}. Mend or remove it, or skip bad images.")
            else:
                bad.append(result)
                first_bad = first_bad or result
            if len(good) == batch_size:
                yield _batch(good, bad, work, done)
                good, bad = [], []
    if start == 0 and seen == 0:
        none = f"{source.dataset}: none of its {done:,} photographs can be used"
        raise UserError(f"{none}; first, {_described(source, first_bad)}." if first_bad else f"{none}.")
    if good or bad:
        yield _batch(good, bad, work, done)


def _described(source: ImageSource, bad: BadImage) -> str:
    file = f" ({bad.sample.path})" if bad.sample.path else ""
    return f"{source.dataset}: the photograph {bad.sample.sample_id!r}{file} cannot be used: {bad.reason}"


def _batch(good: list[Prepared], bad: list[BadImage], work: _Preparation, stop: int) -> Batch:
    stacked = [
        _stack([prepared.images[place] for prepared in good], view.size)
        for place, view in enumerate(work.distinct)
    ]
    return Batch(
        tuple(prepared.sample for prepared in good),
        tuple(stacked[place] for place in work.places),
        tuple(prepared.digest for prepared in good),
        tuple(bad),
        stop,
    )


def _stack(images: list[np.ndarray], size: tuple[int, int] | None) -> np.ndarray:
    if size is not None:
        return np.stack(images) if images else np.empty((0, *size, 3), np.uint8)
    stacked = np.empty(len(images), object)
    stacked[:] = images  # one by one: pictures that happen to be of one size must not become one array
    return stacked


def _digest(content: Content) -> str:
    if isinstance(content, bytes):
        return hashlib.blake2b(content, digest_size=16).hexdigest()
    shape = ",".join(map(str, content.shape)).encode()
    return hashlib.blake2b(shape + np.ascontiguousarray(content).tobytes(), digest_size=16).hexdigest()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
