"""The zoo: small, of different families, shipped with weights that do what their cards say."""

import dataclasses
import functools
import importlib.util
import pathlib
from typing import Any

import jax
import numpy as np
import pytest
import safetensors.numpy

from jaxalign import biometrics
from jaxalign.core.errors import UnknownNameError, UserError
from jaxalign.vision import faces as procedural
from jaxalign.vision import zoo
from jaxalign.vision.zoo import bodies
from jaxalign.vision.zoo.augment import Augmentation
from jaxalign.vision.zoo.bundled import apply_of, unpack
from jaxalign.vision.zoo.encoder_training import initial, schedule
from jaxalign.vision.zoo.specification import ATTRIBUTES

ROOT = pathlib.Path(__file__).resolve().parents[3]
SHIPPED = [name for name in zoo.ZOO if zoo.weights_path(name).exists()]


@pytest.fixture(scope="module")
def held_out() -> procedural.Photographs:
    """A third of the people that the cards are about."""
    [photographs] = procedural.stream(procedural.HELD_OUT_PEOPLE[:60], 8, batch=480)
    return photographs


@pytest.fixture(scope="module")
def pool() -> zoo.Pool:
    people = procedural.TRAINING_PEOPLE[:12]
    [photographs] = procedural.stream(people, 4, batch=48)
    return zoo.Pool(photographs.images.reshape(12, 4, 64, 64, 3), procedural.identities(people))


@pytest.fixture(scope="module")
def control() -> Any:
    """The parameters of the encoder that is not trained."""
    return initial(zoo.ZOO["untrained_residual"])


def assert_equal_trees(first: Any, second: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, first, second)


def encode(name: str, images: np.ndarray) -> np.ndarray:
    encoder = zoo.load(name)
    return np.asarray(jax.jit(encoder.apply)(encoder.params, images))


def test_the_zoo_is_of_different_families() -> None:
    assert len(zoo.ZOO) >= 7
    assert len({specification.seed for specification in zoo.ZOO.values()}) == len(zoo.ZOO)
    widths = [specification.width for specification in zoo.ZOO.values()]
    assert min(widths) == 64 and max(widths) == 384
    assert [name for name, specification in zoo.ZOO.items() if specification.loss is None]


@pytest.mark.parametrize("name", zoo.ZOO)
def test_size(name: str) -> None:
    specification = zoo.ZOO[name]
    params = jax.eval_shape(lambda: initial(specification))
    assert zoo.count(params) <= 250_000
    images = jax.ShapeDtypeStruct((5, 64, 64, 3), np.uint8)
    out = jax.eval_shape(apply_of(specification), params, images)
    assert out.shape == (5, specification.width) and out.dtype == np.float32


def test_no_two_encoders_start_alike() -> None:
    """Two that share their initial weights would be compatible without any alignment."""
    plain = [item for item in zoo.ZOO.values() if isinstance(item.body, bodies.Plain)]
    first = jax.jit(lambda: [jax.tree.leaves(initial(item))[0].ravel()[:50] for item in plain])()
    for index, one in enumerate(first):
        assert not any(np.array_equal(one, other) for other in first[:index])


def test_attributes_are_what_they_were_trained_as() -> None:
    traits = list(procedural.TRAITS)
    head = "head_width head_height jaw_width chin_taper hairline eye_distance eye_width lid_weight".split()
    face = "brow_length brow_tilt nose_length nose_width mouth_width ear_size".split()
    assert [traits[column] for column in ATTRIBUTES.columns] == [*head, *face]


def test_all_weights_are_shipped() -> None:
    assert sorted(SHIPPED) == sorted(zoo.ZOO)


@pytest.mark.parametrize("name", SHIPPED)
def test_card_says_what_the_weights_do(name: str, held_out: procedural.Photographs) -> None:
    """Fewer people than the card's make a smaller gallery, so a hit is somewhat likelier than the card says."""
    card, specification = zoo.card(name), zoo.ZOO[name]
    encoder = zoo.load(name)
    assert (encoder.width, zoo.count(encoder.params)) == (card["width"], card["parameters"])
    for field in ("seed", "steps", "batch"):
        assert card[field] == getattr(specification, field)
    embeddings = encode(name, held_out.images)
    assert embeddings.dtype == np.float32 and np.isfinite(embeddings).all()
    found = biometrics.identify(embeddings, embeddings, held_out.people)["excluded"].rank_k[1]
    stated = card["verification"]["rank1"]
    assert stated - 0.06 <= found <= stated + 0.25 * (1.0 - stated) + 0.06


@pytest.mark.parametrize("name", SHIPPED[:1])
def test_embedding_depends_on_its_image_alone(name: str, held_out: procedural.Photographs) -> None:
    together = encode(name, held_out.images[:16])
    alone = encode(name, held_out.images[3:4])
    np.testing.assert_allclose(together[3:4], alone, rtol=1e-3, atol=1e-4)


def test_weights_survive_storage(control: Any) -> None:
    back = unpack(zoo.pack(control), zoo.ZOO["untrained_residual"], "here")
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(back))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-7), control, back)


def test_unknown_missing_cut_and_foreign_weights_are_one_sentence(
    control: Any, tmp_path: pathlib.Path
) -> None:
    name = "untrained_residual"
    whole = zoo.pack(control)
    for content, sentence in (
        (None, "train_zoo --models=untrained_residual"),
        (whole[: len(whole) // 2], "cut short"),
        (safetensors.numpy.save({"other": np.zeros(3)}), "another network"),
    ):
        if content is not None:
            zoo.weights_path(name, tmp_path).write_bytes(content)
        with pytest.raises(UserError, match=sentence):
            zoo.load(name, tmp_path)
    with pytest.raises(UnknownNameError, match="arcface_plain, arcface_squeeze"):
        zoo.load("arcfase")
    with pytest.raises(UserError, match="card cannot be read"):
        zoo.card(name, tmp_path)


def test_schedule_warms_up_and_ends_at_zero() -> None:
    rate, steps = schedule(zoo.ZOO["arcface_plain"]), zoo.ZOO["arcface_plain"].steps
    found = [float(rate(step)) for step in (0, 50, 100, 100 + (steps - 100) // 2, steps)]  # pyright: ignore[reportArgumentType]
    np.testing.assert_allclose(found, [0, 1.5e-3, 3e-3, 1.5e-3, 0], rtol=1e-3, atol=1e-8)


@pytest.mark.parametrize("name", ["arcface_plain", "simclr_plain"])
def test_training_lowers_the_loss_and_repeats(name: str, pool: zoo.Pool) -> None:
    plain = Augmentation(
        shift=1, gain=0.05, views=zoo.ZOO[name].augmentation.views
    )  # compiles in half the time
    specification = dataclasses.replace(zoo.ZOO[name], batch=8, steps=60, augmentation=plain)
    losses: list[float] = []
    first = zoo.train(specification, pool, lambda _, loss: losses.append(loss))
    assert losses[-1] < losses[0]
    if name == "arcface_plain":
        assert_equal_trees(first, zoo.train(specification, pool))


def test_control_is_not_trained(control: Any, pool: zoo.Pool) -> None:
    assert_equal_trees(control, zoo.train(zoo.ZOO["untrained_residual"], pool))


def test_pool_too_small_is_one_sentence(pool: zoo.Pool) -> None:
    with pytest.raises(UserError, match="the pool has 12 with 4"):
        zoo.train(zoo.ZOO["triplet_dense"], pool)


def test_callers_settings_change_nothing(pool: zoo.Pool) -> None:
    images = pool.images[0]
    expected = encode("untrained_residual", images)
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        np.testing.assert_allclose(encode("untrained_residual", images), expected, rtol=1e-4, atol=1e-5)


def test_driver_writes_weights_and_card(tmp_path: pathlib.Path, monkeypatch, capsys) -> None:
    from experiments import train_zoo
    from experiments.run import cli

    for name, value in (("MEASURED_PEOPLE", 5), ("PEOPLE", 9), ("EACH", 2)):
        monkeypatch.setattr(train_zoo, name, value)
    arguments = ["train_zoo", "--models=attributes_plain", f"--out={tmp_path}", "--steps=2"]
    with pytest.raises(SystemExit) as ended:
        cli.run(train_zoo.main, arguments, values=train_zoo.FLAGS)
    assert not ended.value.code and "attributes_plain: " in capsys.readouterr().out
    card = zoo.card("attributes_plain", tmp_path)
    assert card["steps"] == 2 and 0.0 <= card["verification"]["rank1"] <= 1.0
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["attributes_plain.json", "attributes_plain.safetensors"]

    def killed(*_):
        raise KeyboardInterrupt

    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    other = jax.tree.map(lambda leaf: 2 * leaf, zoo.load("attributes_plain", tmp_path).params)
    for place, left in (("measure", names), ("write_atomically", names[1:])):  # no card beside other weights
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(train_zoo, "measure", lambda *_: {})
            patch.setattr(train_zoo, place, killed)
            train_zoo.write("attributes_plain", zoo.ZOO["attributes_plain"], tmp_path, other)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {n: before[n] for n in left}


def test_weights_are_package_data() -> None:
    assert "weights/*.safetensors" in (ROOT / "setup.cfg").read_text()
    assert importlib.util.find_spec("jaxalign.vision.zoo") is not None
