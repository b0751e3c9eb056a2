"""Photographs as the input of an experiment: embedded once, into a store kept in a cache."""

import hashlib
import json
import os
import pathlib
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from experiments.run.progress import Progress
from jaxalign.data import EmbeddingStore, join
from jaxalign.data.manifest import check_new_names
from jaxalign.vision.encoders import load_encoder
from jaxalign.vision.extract import extract
from jaxalign.vision.images import (
    BadImage,
    ImageSource,
    Sample,
    SourceOptions,
    open_images,
    parse_crop,
)
from jaxalign.vision.view import EncoderView
from jaxalign.vision.zoo import shipped


def cached_store(
    images: str, models: Sequence[str], *, crop: str, bad_images: str, cache: pathlib.Path
) -> EmbeddingStore:
    """The store of these photographs under these encoders; what the cache lacks is embedded now.

    Args:
      images: specification of the photographs.
      models: specifications of the encoders.
      crop, bad_images: as the flags.
      cache: directory of such stores: one directory for each set of photographs and way to crop, in it one store for
        each set of encoders that was missing.

    Raises:
      UserError: the photographs or encoders cannot be used.
    """
    cut, source = parse_crop(crop), open_images(images, SourceOptions())
    encoders = [load_encoder(model) for model in models]
    check_new_names([encoder.name for encoder in encoders])
    infos = {encoder.name: EncoderView(crop=cut, encoder=encoder).info() for encoder in encoders}
    what = [images, crop, bad_images, *map(_state, source.samples or ())]
    place = cache / f"{source.dataset}-{_digest(what)}"
    there = _kept(place, infos)
    missing = [encoder for encoder in encoders if encoder.name not in there]
    if missing:
        new = place / _digest(json.dumps(infos[encoder.name], sort_keys=True) for encoder in missing)
        options: dict[str, Any] = {"crop": cut, "bad_images": bad_images}
        report = Report(source)
        with report.progress:
            extract(source, missing, new, progress=report, **options)
        there |= {encoder.name: new for encoder in missing}
    stores = [
        EmbeddingStore.open(path, encoders=[name for name in there if there[name] == path], verify=False)
        for path in dict.fromkeys(there.values())
    ]
    return join(stores, encoders=list(infos))


def _kept(place: pathlib.Path, infos: Mapping[str, Mapping[str, Any]]) -> dict[str, pathlib.Path]:
    """The store that holds each encoder, of those that some store holds as it would be loaded and fed now."""
    found: dict[str, pathlib.Path] = {}
    for path in sorted(place.glob("[!.]*/manifest.json")):
        noted = EmbeddingStore.open(path.parent, verify=False).info
        for name, info in infos.items():
            if name in noted and {key: noted[name].get(key) for key in info} == info:
                found[name] = path.parent
    return found


def _digest(texts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]


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
