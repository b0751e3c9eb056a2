"""SAM's and Florence-2's vision towers: their defaults, values that they refuse, and half precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign.core.errors import UserError
from jaxalign.vision.encoders import load_encoder
from jaxalign.vision.encoders.checkpoint_config import Config
from jaxalign.vision.encoders.load import Specification
from jaxalign.vision.encoders.tensors import Tensor
from jaxalign.vision.encoders.towers import davit, sam
from jaxalign.vision.encoders.towers.parts import in_windows
from jaxalign.vision.encoders.towers.weights import filled, own_names

SPECIFICATION = Specification("hf:somewhere", "hf", "somewhere")


def read(tower, **values):
    return tower.read("", Config(SPECIFICATION, values), ())


@pytest.mark.parametrize(
    "tower, model, config, prefix",
    [
        (sam, "SamVisionModel", "SamVisionConfig", r"vision_encoder\."),
        (davit, "Florence2VisionBackbone", "Florence2VisionConfig", ""),
    ],
)
def test_an_empty_configuration_means_the_network_of_transformers_defaults(tower, model, config, prefix):
    """All names and shapes; nothing is computed."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    with torch.device("meta"):
        state = getattr(transformers, model)(getattr(transformers, config)()).state_dict()
    tensors = {name: Tensor(name, tuple(tensor.shape), lambda: np.zeros(0)) for name, tensor in state.items()}
    inside = own_names(tensors, prefix, tower.NAMES)
    _, weights = filled(SPECIFICATION, lambda keys: tower.Tower(read(tower), keys), inside)
    assert {leaf.name for leaf in jax.tree.leaves(weights)} == set(state)


def test_defaults_that_change_no_shape():
    transformers = pytest.importorskip("transformers")
    theirs, ours = transformers.SamVisionConfig(), read(sam)
    assert (ours.heads, ours.epsilon, ours.window) == (12, theirs.layer_norm_eps, theirs.window_size)
    assert ours.everywhere == tuple(theirs.global_attn_indexes) and theirs.hidden_act == "gelu"
    assert ours.size == (theirs.image_size,) * 2 and ours.layers == theirs.num_hidden_layers
    theirs, ours = transformers.Florence2VisionConfig(), read(davit)
    for key, named in [("heads", "num_heads"), ("groups", "num_groups"), ("stride", "patch_stride")]:
        assert [getattr(stage, key) for stage in ours.stages] == list(getattr(theirs, named))
    assert [stage.padding for stage in ours.stages] == list(theirs.patch_padding)
    assert ours.window == theirs.window_size and theirs.activation_function == "gelu"


def test_the_older_keys_of_florence2_have_defaults_of_the_large_network():
    stages = read(davit, dim_embed=[256, 512, 1024, 2048]).stages
    assert [(stage.width, stage.heads, stage.groups) for stage in stages] == [
        (256, 8, 8),
        (512, 16, 16),
        (1024, 32, 32),
        (2048, 64, 64),
    ]


@pytest.mark.parametrize(
    "tower, values, message",
    [
        (sam, {"num_attention_heads": 5}, "hidden_size 768 is no multiple of num_attention_heads 5"),
        (sam, {"image_size": 8}, r"image_size \(8, 8\) is smaller than patch_size \(16, 16\)"),
        (sam, {"window_size": -1}, "window_size .* at least 0, got -1"),
        (
            sam,
            {"global_attn_indexes": 3},
            "global_attn_indexes .* a list, each a whole number of at least 0, got 3",
        ),
        (sam, {"mlp_dim": 0}, "mlp_dim .* at least 1, got 0"),
        (davit, {"embed_dim": []}, "embed_dim is empty"),
        (davit, {"depths": [1, 1, 9]}, "there are 4 stages, and depths is only given for 3"),
        (davit, {"num_heads": [4, 8, 16, 3]}, "1024 channels is divided into 3 heads and 32 groups"),
        (davit, {"patch_prenorm": [0, 1, 1, 1]}, "patch_prenorm .* a list, each true or false, got"),
        (davit, {"window_size": 0}, "window_size .* at least 1, got 0"),
        (davit, {"activation_function": "mish"}, "activation_function is 'mish'"),
    ],
)
def test_values_that_mean_nothing(tower, values, message):
    with pytest.raises(UserError, match=f"config.json: .*{message}"):
        read(tower, **values)


@pytest.mark.parametrize("name", ["sam", "davit"])
def test_half_precision_is_near(name, checkpoint, pictures, rows):
    half = load_encoder(f"hf:{checkpoint(name)}", dtype="bfloat16").encode(pictures)
    np.testing.assert_allclose(half, rows(name), atol=0.05 * np.abs(rows(name)).max())


def test_windows_are_apart_and_filled_up_with_zeros():
    """Means of windows of 4 × 4 positions on a map of 5 × 7, by NumPy's padding and slices."""
    values = np.random.default_rng(0).normal(size=(2, 5, 7, 3)).astype(np.float32)
    padded = np.pad(values, ((0, 0), (0, 3), (0, 1), (0, 0)))
    expected = np.empty_like(padded)
    for top, left in np.ndindex(2, 2):
        window = np.s_[:, 4 * top : 4 * top + 4, 4 * left : 4 * left + 4]
        expected[window] = padded[window].mean((1, 2), keepdims=True)

    def mean(window):
        return jnp.broadcast_to(window.mean((1, 2), keepdims=True), window.shape)

    means = in_windows(mean, jnp.asarray(values), 4)
    np.testing.assert_allclose(means, expected[:, :5, :7], atol=1e-6)
