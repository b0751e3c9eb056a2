"""The crop that serves an encoder: faces in the middle of noise, and rank-1 by numpy."""

import numpy as np
import PIL.Image
import pytest
from numpy_encoders import NumpyEncoder, write_people

from experiments.run.crops import choose_crops
from jaxalign.core.errors import UserError
from jaxalign.vision.images import CenterCrop, NoCrop, open_images


@pytest.fixture
def framed(tmp_path):
    """Twelve people: a patch of 12 × 12 pixels that is theirs, within 20 × 20 pixels of noise."""
    random = np.random.default_rng(0)
    for person in range(12):
        (folder := tmp_path / "faces" / f"p{person:02d}").mkdir(parents=True)
        face = random.integers(60, 196, (12, 12, 3))
        for number in range(5):
            picture = random.integers(0, 256, (20, 20, 3))
            picture[4:16, 4:16] = face + random.integers(-40, 41, face.shape)
            PIL.Image.fromarray(picture.astype(np.uint8)).save(folder / f"{number}.png")
    return tmp_path / "faces"


def rank1(encoder, files, fraction):
    """Of the sample, the same photograph left out."""
    rows = encoder.expected(files, fraction)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    scores = rows @ rows.T
    np.fill_diagonal(scores, -2)
    people = np.array([file.parent.name for file in files])
    return np.mean(people[scores.argmax(axis=1)] == people)


def test_each_encoder_gets_what_serves_it(framed):
    files = sorted(framed.glob("*/[0-3].png"))  # four of each person are looked at
    encoder = NumpyEncoder(size=(12, 12), dim=64)
    ((name, choice),) = choose_crops(open_images(f"folder:{framed}"), [encoder]).items()
    expected = {"none": 1.0, "center:0.8": 0.8, "center:0.6": 0.6}
    assert choice.photographs == len(files) == 48 and list(choice.tried) == list(expected)
    for crop, fraction in expected.items():
        assert choice.tried[crop][0] == pytest.approx(rank1(encoder, files, fraction))
    assert (name, choice.crop) == ("small", CenterCrop(0.6))
    assert choice.tried["center:0.6"] > choice.tried["none"]
    assert f"{choice}".startswith("center:0.6 (rank-1 on 48 photographs: none ")


def test_an_encoder_that_fails_keeps_the_whole_picture(framed):
    encoder = NumpyEncoder()
    encoder.weights[:] = np.nan
    (choice,) = choose_crops(open_images(f"folder:{framed}"), [encoder]).values()
    assert choice.crop == NoCrop() and set(choice.tried.values()) == {(0.0, 0.0)}


def test_one_photograph_a_person_is_too_few(tmp_path):
    write_people(tmp_path / "faces", 3, 1)
    with pytest.raises(UserError, match="two people with two photographs"):
        choose_crops(open_images(f"folder:{tmp_path / 'faces'}"), [NumpyEncoder()])
