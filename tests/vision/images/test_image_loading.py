"""Decoding in threads: order, one pass for several encoders, bounded memory, bad photographs, going on later."""

import hashlib
import pathlib
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import PIL.Image
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pictures import encoded, noise, people_folder, write

from jaxalign.core.errors import UserError
from jaxalign.vision.images import Batch, Picture, Resize, Sample, View, load_batches, open_images, parse_crop

SMALL = View(resize=Resize(4, 5))


class Made:
    """A source of small grey pictures; ``load`` is called with the row before a picture is given out."""

    def __init__(self, count: int, load: Callable[[int], Any] = lambda row: None, streamed: bool = False):
        self.dataset = "made"
        self._all = [Sample(f"s{row}", f"p{row % 3}") for row in range(count)]
        self.samples: Sequence[Sample] | None = None if streamed else self._all
        self._load = load
        self.drawn = self.loaded = 0

    def pictures(self, start: int = 0) -> Iterator[Picture]:
        for row in range(start, len(self._all)):
            self.drawn += 1
            yield Picture(self._all[row], lambda row=row: self._content(row), self._points(row))

    def _points(self, row: int) -> np.ndarray | None:
        return None

    def _content(self, row: int) -> Any:
        self.loaded += 1
        content = self._load(row)
        return np.full((6, 8, 3), row % 256, np.uint8) if content is None else content


def _shades(batches: Sequence[Batch], view: int = 0) -> list[int]:
    return [int(image[0, 0, 0]) for batch in batches for image in batch.images[view]]


THREADS = st.fixed_dictionaries({"workers": st.integers(1, 5), "prefetch": st.integers(1, 20)})


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 40), st.integers(1, 15), THREADS, st.sets(st.integers(0, 39), max_size=10), st.booleans()
)
def test_order_and_stops(count: int, size: int, threads: dict, bad: set[int], streamed: bool) -> None:
    good = [row for row in range(count) if row not in bad]
    assume(good)
    source = Made(count, lambda row: b"nonsense" if row in bad else None, streamed)

    def load(start: int) -> list[Batch]:
        return list(load_batches(source, [SMALL], size, start=start, bad_images="skip", **threads))

    batches = load(0)
    assert _shades(batches) == good
    assert [sample.sample_id for batch in batches for sample in batch.samples] == [f"s{row}" for row in good]
    skipped = [one.sample.sample_id for batch in batches for one in batch.bad]
    assert skipped == [f"s{row}" for row in range(count) if row in bad]
    assert batches[-1].stop == count
    assert all(len(batch.samples) == size for batch in batches[: len(good) // size])
    for index, batch in enumerate(batches):  # going on from any batch gives the batches that would have come
        later = load(batch.stop)
        assert [b.samples for b in later] == [b.samples for b in batches[index + 1 :]]
        assert [b.stop for b in later] == [b.stop for b in batches[index + 1 :]]


def test_one_decoding_pass_feeds_several_encoders(tmp_path: pathlib.Path) -> None:
    pixels = {f"{person}/1.png": noise(40, 30, seed) for seed, person in enumerate("abc")}
    for path, image in pixels.items():
        write(tmp_path / path, image)
    reads: list[int] = []
    source = open_images(f"folder:{tmp_path}")
    counted = Made(3, lambda row: reads.append(row) or list(source.pictures())[row].load())
    half, whole = parse_crop("center:0.5"), View(resize=Resize(16, 12))
    views = [whole, View(half, Resize(20, 20, "bicubic")), View(resize=Resize(16, 12)), View(half)]
    (batch,) = load_batches(counted, views, 8)
    assert sorted(reads) == [0, 1, 2]
    assert batch.images[2] is batch.images[0]  # equal views are taken once
    assert batch.images[3].dtype == object and len(batch.images[3]) == 3
    for row, image in enumerate(map(PIL.Image.fromarray, pixels.values())):
        middle = image.crop((7, 10, 22, 30))
        small = image.resize((12, 16), PIL.Image.Resampling.BILINEAR)
        large = middle.resize((20, 20), PIL.Image.Resampling.BICUBIC)
        for view, expected in ((0, small), (1, large), (3, middle)):
            np.testing.assert_array_equal(batch.images[view][row], np.asarray(expected))


def test_pictures_are_loaded_side_by_side() -> None:
    """Each load waits until four of them have begun: one thread alone would wait for ever."""
    together = threading.Barrier(4)
    source = Made(8, lambda row: None if together.wait(timeout=30) >= 0 else b"")
    assert _shades(list(load_batches(source, [SMALL], 3, workers=4, prefetch=8))) == list(range(8))


def test_work_goes_on_while_the_consumer_is_busy_and_stays_bounded() -> None:
    source = Made(1000)
    batches = load_batches(source, [SMALL], 5, workers=2, prefetch=20)
    next(batches)
    deadline = time.monotonic() + 20
    while source.drawn < 25 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert source.drawn == 25  # one batch of 5 taken, 20 ahead
    assert len(_shades(list(batches))) == 995


def _threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("images")]


@pytest.mark.parametrize("end", ["close", "forget"])
def test_leaving_early_stops_the_threads(end: str) -> None:
    batches = load_batches(Made(1000), [SMALL], 5)
    next(batches)
    assert _threads()
    if end == "close":
        batches.close()
    del batches
    assert not _threads()


def test_a_defect_of_the_source_reaches_the_consumer() -> None:
    class Broken(Made):
        def pictures(self, start: int = 0) -> Iterator[Picture]:
            yield from list(super().pictures(start))[:7]
            raise RuntimeError("a defect")

    batches = load_batches(Broken(20), [SMALL], 5)
    assert _shades([next(batches)]) == [0, 1, 2, 3, 4]
    with pytest.raises(RuntimeError, match="a defect"):
        next(batches)
    assert not _threads()
    with pytest.raises(ZeroDivisionError):
        list(load_batches(Made(20, lambda row: 1 / 0), [SMALL], 5))
    assert not _threads()


def test_a_corrupt_photograph_is_fatal_by_name(tmp_path: pathlib.Path) -> None:
    folder = people_folder(tmp_path / "faces", 2, 3)
    corrupt = folder / "p1" / "1.png"
    corrupt.write_bytes(corrupt.read_bytes()[:40])
    source = open_images(f"folder:{folder}")
    with pytest.raises(UserError) as caught:
        list(load_batches(source, [SMALL], 2))
    for part in ("faces: the photograph 'p1/1.png'", str(corrupt), "damaged", "skip"):
        assert part in str(caught.value)
    batches = list(load_batches(source, [SMALL], 2, bad_images="skip"))
    assert _shades(batches) == [0, 1, 2, 10, 12]
    assert [bad.sample.sample_id for batch in batches for bad in batch.bad] == ["p1/1.png"]


def test_a_photograph_that_vanished_or_may_not_be_read(tmp_path: pathlib.Path) -> None:
    folder = people_folder(tmp_path / "faces", 2, 2)
    source = open_images(f"folder:{folder}")
    (folder / "p0" / "1.png").unlink()
    (folder / "p1" / "0.png").unlink()
    (folder / "p1" / "0.png").mkdir()
    (batch,) = load_batches(source, [SMALL], 9, bad_images="skip")
    reasons = [f"it cannot be read ({what})" for what in ("No such file or directory", "Is a directory")]
    assert [bad.reason for bad in batch.bad] == reasons


def test_the_last_bad_ones_are_reported_too() -> None:
    source = Made(5, lambda row: b"nonsense" if row > 1 else None)
    first, last = load_batches(source, [SMALL, View()], 2, bad_images="skip")
    assert (first.stop, last.stop) == (2, 5) and len(last.bad) == 3 and not first.bad
    assert last.images[0].shape == (0, 4, 5, 3) and last.images[1].shape == (0,) and last.samples == ()


@pytest.mark.parametrize("count", [3, 0])
def test_nothing_to_see(count: int) -> None:
    with pytest.raises(UserError, match=f"none of its {count} photographs"):
        list(load_batches(Made(count, lambda row: b"x", streamed=True), [SMALL], 2, bad_images="skip"))


def test_arguments_are_checked_before_anything_runs() -> None:
    source = Made(5)
    for arguments, options, expected in (
        (([SMALL], 0), {}, "batch_size must be at least 1"),
        (([SMALL], 2), {"workers": 0}, "workers must be at least 1"),
        (([SMALL], 2), {"prefetch": 0}, "prefetch must be at least 1"),
        (([SMALL], 2), {"bad_images": "ignore"}, "bad_images must be one of fail, skip, got 'ignore'"),
        (([], 2), {}, "at least one view"),
        (([SMALL], 2), {"start": -1}, "a start from 0"),
    ):
        with pytest.raises(UserError, match=expected):
            load_batches(source, *arguments, **options)  # type: ignore[arg-type]
    assert source.drawn == 0


def test_digests_tell_photographs_apart(tmp_path: pathlib.Path) -> None:
    for name, seed in (("a/1", 0), ("a/2", 1), ("b/1", 0)):
        write(tmp_path / f"{name}.png", noise(seed=seed))
    (batch,) = load_batches(open_images(f"folder:{tmp_path}"), [SMALL], 9)
    first, second, third = batch.digests
    assert first == third != second
    assert first == hashlib.blake2b(encoded(noise()), digest_size=16).hexdigest()
    flat, tall = (np.zeros(shape, np.uint8) for shape in ((2, 3, 3), (3, 2, 3)))
    (batch,) = load_batches(Made(2, [flat, tall].__getitem__), [SMALL], 9)
    assert len(set(batch.digests)) == 2


class WithLandmarks(Made):
    missing: tuple[int, ...] = (2, 4)

    def _points(self, row: int) -> np.ndarray | None:
        return None if row in self.missing else np.array([[1, 1], [5, 1], [3, 3], [1, 5], [5, 5.0]])


def test_missing_landmarks_stop_before_any_photograph_is_read() -> None:
    source = WithLandmarks(6)
    with pytest.raises(UserError, match=r"made has no landmarks for 2 of 6 photographs \(first: 's2'\)"):
        load_batches(source, [SMALL, View(parse_crop("landmarks"))], 3)
    assert source.loaded == 0


def test_missing_landmarks_may_be_skipped() -> None:
    source = WithLandmarks(6)
    view = View(parse_crop("landmarks"), Resize(112, 112))
    (batch,) = load_batches(source, [SMALL, view], 9, bad_images="skip")
    assert [bad.sample.sample_id for bad in batch.bad] == ["s2", "s4"]
    assert batch.images[1].shape == (4, 112, 112, 3)
    source = WithLandmarks(6, streamed=True)
    with pytest.raises(UserError, match="'s2' cannot be used: the data set has no landmarks for it"):
        list(load_batches(source, [view], 9))


def test_landmarks_of_a_file(tmp_path: pathlib.Path) -> None:
    folder = people_folder(tmp_path / "faces", 2, 1)
    points = tmp_path / "points.csv"
    points.write_text("p0/0.png,1,1,5,1,3,3,1,5,5,5\n")
    source = open_images(f"folder:{folder}")
    view = View(parse_crop(f"landmarks:{points}"), Resize(112, 112))
    with pytest.raises(UserError, match=r"points.csv has no landmarks for 1 of 2 .* \(first: 'p1/0.png'\)"):
        load_batches(source, [view], 2)
    points.write_text("p0/0.png,1,1,5,1,3,3,1,5,5,5\nfaces/p1/0.png,2,2,2,2,2,2,2,2,2,2\n")
    view = View(parse_crop(f"landmarks:{points}"), Resize(112, 112))
    with pytest.raises(UserError, match=r"'p1/0.png'.*cannot be used: its landmarks are no face"):
        list(load_batches(source, [view], 2))


def test_real_photographs_agree_with_pillow(shared: pathlib.Path) -> None:
    """The preparation that att_reference was made with: RGB, then a bilinear resize of the whole picture."""
    folder = shared / "data" / "att_photos"
    source = open_images(f"folder:{folder}")
    views = [View(resize=Resize(112, 112)), View(resize=Resize(224, 224))]
    batches = list(load_batches(source, views, 64))
    assert sum(len(batch.samples) for batch in batches) == 380
    samples = [sample for batch in batches for sample in batch.samples]
    for view, side in enumerate((112, 224)):
        images = np.concatenate([batch.images[view] for batch in batches])
        for row in range(0, 380, 40):
            original = PIL.Image.open(folder / samples[row].sample_id).convert("RGB")
            expected = original.resize((side, side), PIL.Image.Resampling.BILINEAR)
            np.testing.assert_array_equal(images[row], np.asarray(expected))


@pytest.mark.parametrize(
    ("library", "spec", "expected"),
    [("PIL", "folder:faces", "needs Pillow"), ("datasets", "hub:faces", "need the library datasets")],
)
def test_a_missing_library_is_one_sentence(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, library: str, spec: str, expected: str
) -> None:
    people_folder(tmp_path / "faces", 2, 1)
    monkeypatch.chdir(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UserError, match=expected):
        load_batches(open_images(spec), [SMALL], 2)
