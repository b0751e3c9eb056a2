"""Configurations of convolutional towers: defaults that config.json leaves out, and values that mean nothing."""

import json
import shutil
from typing import Any

import jax
import numpy as np
import pytest
import transformers

from jaxalign.core.errors import UserError
from jaxalign.vision.encoders import load_encoder
from jaxalign.vision.encoders.checkpoint_config import Config
from jaxalign.vision.encoders.jax_encoder import JaxEncoder
from jaxalign.vision.encoders.load import Specification
from jaxalign.vision.encoders.tensors import Tensor
from jaxalign.vision.encoders.tower_families import FAMILIES
from jaxalign.vision.encoders.towers import efficientnet, resnet
from jaxalign.vision.encoders.towers.parts import ACTIVATIONS
from jaxalign.vision.encoders.towers.weights import filled, own_names

torch = pytest.importorskip("torch")
SPECIFICATION = Specification("hf:here", "hf", "here")
TOWERS: dict[str, Any] = {"resnet": resnet, "regnet": resnet, "align_vision_model": efficientnet}


def config(**values):
    return Config(SPECIFICATION, values)


@pytest.mark.parametrize(
    "kind, name, fields",
    [
        (
            "resnet",
            "ResNet",
            {"shrinks_first": "downsample_in_first_stage", "early": "downsample_in_bottleneck"},
        ),
        ("regnet", "RegNet", {"shrinks_first": "downsample_in_first_stage", "group": "groups_width"}),
        ("align_vision_model", "AlignVision", {"epsilon": "batch_norm_eps", "pooled_by": "pooling_type"}),
    ],
)
def test_an_empty_configuration_is_that_of_transformers(kind, name, fields):
    """Names and shapes of all tensors, and the fields that no shape shows."""
    usual = getattr(transformers, f"{name}Config")()
    with torch.device("meta"):
        arrays = getattr(transformers, f"{name}Model")(usual).state_dict()
    given = {key: Tensor(key, tuple(array.shape), lambda: np.zeros(())) for key, array in arrays.items()}
    tower, family = TOWERS[kind], FAMILIES[kind]
    tensors = own_names(given, family.prefix, tower.NAMES)
    found = tower.read(kind, config(), tensors)
    filled(SPECIFICATION, lambda keys: tower.Tower(found, keys), tensors, family.spare)
    assert {key: getattr(found, key) for key in fields} == {
        key: getattr(usual, field) for key, field in fields.items()
    }
    assert found.activation is ACTIVATIONS[usual.hidden_act]


@pytest.mark.parametrize(
    "kind, content, message",
    [
        ("resnet", {"layer_type": "wide"}, "layer_type is 'wide', expected bottleneck or basic"),
        ("regnet", {"layer_type": "basic"}, "layer_type is 'basic', expected y or x"),
        ("resnet", {"depths": [1, 1]}, "hidden_sizes names 4 stages and depths 2"),
        ("resnet", {"depths": [], "hidden_sizes": []}, "hidden_sizes names 0 stages and depths 0"),
        ("resnet", {"hidden_sizes": [2, 2, 2, 2]}, r"hidden_sizes .* at least 4, got \[2"),
        (
            "regnet",
            {"groups_width": 50},
            r"hidden_sizes has 512, which 10 groups \(groups_width 50\)",
        ),
        ("align_vision_model", {"pooling_type": "cls"}, "pooling_type is 'cls', expected mean or max"),
        (
            "align_vision_model",
            {"strides": [1, 3, 2, 2, 1, 2, 1]},
            r"strides are expected to be 1 or 2, got \[1, 3",
        ),
        (
            "align_vision_model",
            {"strides": [1, 2]},
            "expected as many .* stage, got kernel_sizes 7, .* strides 2",
        ),
        (
            "align_vision_model",
            {"in_channels": [32, 16, 24, 40, 80, 112, 100]},
            r"in_channels .* 192\], got .* 100\]",
        ),
        (
            "align_vision_model",
            {"width_coefficient": 0},
            "width_coefficient is expected to be more than 0, got 0",
        ),
        ("align_vision_model", {"depth_divisor": 0}, "depth_divisor .* at least 1, got 0"),
    ],
)
def test_values_that_mean_nothing(kind, content, message):
    with pytest.raises(UserError, match=f"hf:here.*config.json: {message}"):
        TOWERS[kind].read(kind, config(**content), ())


def test_pictures_that_vanish(checkpoint, tmp_path):
    """A depthwise kernel of 5 finds no place in the map of such a small picture, where PyTorch fails too."""
    directory = shutil.copytree(checkpoint("align"), tmp_path / "align")
    path = directory / "preprocessor_config.json"
    small = {"crop_size": {"height": 4, "width": 4}}
    path.write_text(json.dumps(json.loads(path.read_text()) | small))
    with pytest.raises(UserError, match="pictures of 4 × 4 pixels are too small"):
        load_encoder(f"hf:{directory}")


def test_running_statistics_keep_float32(checkpoint):
    encoder = load_encoder(f"hf:{checkpoint('resnet')}?dtype=bfloat16")
    assert isinstance(encoder, JaxEncoder)
    leaves = jax.tree_util.tree_leaves_with_path(encoder.params)
    kinds = {("running" in jax.tree_util.keystr(path), str(leaf.dtype)) for path, leaf in leaves}
    assert kinds == {(True, "float32"), (False, "bfloat16")}
