"""Which crop serves an encoder: tried on a sample of the photographs, each encoder by itself."""

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.run.doubts import own_rates
from jaxalign.core.errors import UserError
from jaxalign.core.people import legacy_generator
from jaxalign.vision.encoders import Encoder
from jaxalign.vision.extract import EncoderView
from jaxalign.vision.images import (
    CenterCrop,
    Crop,
    ImageSource,
    LandmarkCrop,
    NoCrop,
    Picture,
    Sample,
    load_batches,
)

PEOPLE, EACH = 150, 4  # of the sample, at most
CROPS: tuple[Crop, ...] = (NoCrop(), CenterCrop(0.8), CenterCrop(0.6), LandmarkCrop())


@dataclasses.dataclass(frozen=True)
class ChosenCrop:
    """The crop that serves one encoder best, and the rank-1 and AUC of each crop that was tried, by its ``str``."""

    crop: Crop
    tried: Mapping[str, tuple[float, float]]
    photographs: int

    def __str__(self) -> str:
        rates = (f"{name} {100 * rank1:.1f} %" for name, (rank1, _) in self.tried.items())
        return f"{self.crop} (rank-1 on {self.photographs:,} photographs: {', '.join(rates)})"


def choose_crops(source: ImageSource, encoders: Sequence[Encoder]) -> dict[str, ChosenCrop]:
    """Tries every crop with every encoder on some people and takes the one with the best rank-1, then AUC.

    The sample is the same in every run: at most 4 photographs of each of at most 150 people who have two or more. A
    photograph is compared with all others but its copies. Of equal crops the one that cuts less is taken. Landmarks are
    tried where the source has them.

    Raises:
      UserError: the source is streamed, or too few of its people have two photographs that can be read.
    """
    sample = _DrawnFrom(source)
    landmarks = [picture.landmarks is not None for picture in sample.pictures()]
    crops = CROPS if all(landmarks) else CROPS[:-1]
    views = [EncoderView(crop=crop, encoder=encoder) for encoder in encoders for crop in crops]
    rows: list[list[np.ndarray]] = [[] for _ in views]
    people: list[str] = []
    digests: list[str] = []
    size = max(encoder.batch_size for encoder in encoders)
    with contextlib.closing(load_batches(sample, views, size, bad_images="skip")) as batches:
        for batch in batches:
            if not batch.samples:
                continue
            people += [one.identity for one in batch.samples]
            digests += [digest.partition("-")[0] for digest in batch.digests]
            for found, view, images in zip(rows, views, batch.images):
                found.append(view.encoder.encode(images))
    rates = [own_rates(np.concatenate(found), people, digests) for found in rows]
    chosen = {}
    for number, encoder in enumerate(encoders):
        of_crops = rates[number * len(crops) : (number + 1) * len(crops)]
        best = max(range(len(crops)), key=lambda k: of_crops[k])
        tried = {str(crop): rate for crop, rate in zip(crops, of_crops)}
        chosen[encoder.name] = ChosenCrop(crops[best], tried, len(people))
    return chosen


def kept_crops(encoders: Sequence[Encoder], noted: Sequence[Mapping[str, Any]]) -> dict[str, Crop]:
    """The crops of those encoders that have rows already, by name, so that they are not tried again.

    ``noted`` is what manifests say of encoders: a crop is kept where one says that this encoder was fed it.
    """
    kept = {}
    for encoder, crop in itertools.product(encoders, CROPS):
        info = EncoderView(crop=crop, encoder=encoder).info()
        if any({key: other.get(key) for key in info} == info for other in noted):
            kept[encoder.name] = crop
    return kept


class _DrawnFrom:
    """Some people of a source, a few photographs of each."""

    def __init__(self, source: ImageSource):
        if source.samples is None:
            raise UserError(
                f"{source.dataset}: crop=auto looks at a sample of the photographs; read them unstreamed."
            )
        by_person: dict[str, list[Sample]] = {}
        for sample in source.samples:
            by_person.setdefault(sample.identity, []).append(sample)
        several = sorted(person for person, samples in by_person.items() if len(samples) > 1)
        if len(several) < 2:
            raise UserError(
                f"{source.dataset}: crop=auto needs two people with two photographs; name a crop."
            )
        some = [several[k] for k in legacy_generator(0).permutation(len(several))[:PEOPLE]]
        chosen = {sample.sample_id for person in some for sample in by_person[person][:EACH]}
        self.dataset, self._source, self._chosen = source.dataset, source, chosen
        self.samples = [sample for sample in source.samples if sample.sample_id in chosen]

    def pictures(self, start: int = 0) -> Iterator[Picture]:
        """See ``ImageSource``."""
        kept = (picture for picture in self._source.pictures() if picture.sample.sample_id in self._chosen)
        for number, picture in enumerate(kept):
            if number >= start:
                yield picture
