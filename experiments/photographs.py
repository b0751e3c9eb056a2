"""Photographs as the input of an experiment: embedded once, into a store kept in a cache."""

import hashlib
import os
import pathlib
import time
from collections.abc import Sequence

from experiments.progress import Progress
from jaxalign.embeddings import EmbeddingStore
from jaxalign.encoders import load_encoder
from jaxalign.encoders.zoo import shipped
from jaxalign.extraction import extract
from jaxalign.images import BadImage, ImageSource, Sample, SourceOptions, open_images, parse_crop


def cached_store(
    images: str, models: Sequence[str], *, crop: str, bad_images: str, cache: pathlib.Path
) -> EmbeddingStore:
    """The store of these photographs under these encoders; what the cache lacks is embedded now.

    Args:
      images: specification of the photographs.
      models: specifications of the encoders.
      crop, bad_images: as the flags.
      cache: directory of such stores, one for each set of photographs and way to crop.

    Raises:
      UserError: the photographs or encoders cannot be used.
    """
    cut, source = parse_crop(crop), open_images(images, SourceOptions())
    encoders = [load_encoder(model) for model in models]
    what = [images, crop, bad_images, *map(_state, source.samples or ())]
    key = hashlib.sha256("\n".join(what).encode()).hexdigest()[:16]
    report = Report(source)
    with report.progress:
        store = extract(
            source,
            encoders,
            cache / f"{source.dataset}-{key}",
            crop=cut,
            bad_images=bad_images,  # pyright: ignore[reportArgumentType]
            progress=report,
        )
    return EmbeddingStore.open(store.path, encoders=[encoder.name for encoder in encoders], verify=False)


def bundled_models() -> tuple[str, ...]:
    """Specifications of the encoders whose weights ship with the package."""
    return tuple(f"zoo:{name}" for name in shipped())


def _state(sample: Sample) -> str:
    """Changes when the photograph's file does, so that the cache never stands for other photographs."""
    if sample.path is None or not os.path.exists(sample.path):
        return f"{sample.sample_id} {sample.identity}"
    status = os.stat(sample.path)
    return f"{sample.sample_id} {sample.identity} {sample.path} {status.st_size} {status.st_mtime_ns}"


class Report:
    """Tells how far a run is: photographs a second, time left, and each photograph that is skipped."""

    def __init__(self, source: ImageSource):
        self.progress = Progress(0)
        self.embedded = self.skipped = 0
        self._all = None if source.samples is None else len(source.samples)
        self._started = time.monotonic()

    def __call__(self, done: int, embedded: int, bad: Sequence[BadImage]) -> None:
        """Takes what ``extract`` tells. Shares and times are of this run, without what an earlier one did."""
        for image in bad:
            self.progress.note(f"skipped {image.sample.sample_id}: {image.reason}")
        self.embedded, self.skipped = embedded, self.skipped + len(bad)
        now = self.embedded + self.skipped
        of = ""
        if self._all is not None:
            self.progress.total = self._all - (done - now)
            of = f" of {self._all:,}"
        rate = embedded / max(time.monotonic() - self._started, 1e-9)
        label = f"{done:,}{of} photographs, {rate:,.0f} a second"
        self.progress.step(label, now - self.progress.done)
