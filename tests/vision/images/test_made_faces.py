"""``faces:`` as a source of photographs."""

import numpy as np
import pytest

from jaxalign import UserError
from jaxalign.vision.faces import DEFAULT_PEOPLE, photographs
from jaxalign.vision.images import Resize, View, load_batches, open_images


def test_photographs_are_those_of_the_default_people():
    source = open_images("faces:40x7")
    samples = source.samples
    assert samples is not None
    assert (source.dataset, len(samples)) == ("faces-40x7", 280)
    names = ["person00000/000", "person00000/006", "person00001/000"]
    assert [samples[k].sample_id for k in (0, 6, 7)] == names
    assert len({sample.identity for sample in samples}) == 40
    batches = list(load_batches(source, [View(resize=Resize(64, 64))], 100, start=30))
    images = np.concatenate([batch.images[0] for batch in batches])
    numbers = np.arange(30, 280)
    who = [DEFAULT_PEOPLE[k] for k in (numbers // 7).tolist()]
    np.testing.assert_array_equal(images, photographs(who, numbers % 7))
    assert [sample for batch in batches for sample in batch.samples] == list(samples[30:])


@pytest.mark.parametrize("size", ["1x8", "300", "0x0", "3x-1", "9999999x1", "3x0"])
def test_what_is_no_number_of_people_is_refused(size):
    with pytest.raises(UserError, match=f"faces:300x8, with 2 people or more; got faces:{size}"):
        open_images(f"faces:{size}")
