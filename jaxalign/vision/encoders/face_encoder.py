"""Published face networks in JAX: IR-101 (ArcFace, AdaFace), iResNet-100 (MagFace, insightface) and KPRPE's ViT."""

from __future__ import annotations

import functools
import importlib
import pathlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array

from jaxalign.core.errors import UserError
from jaxalign.vision.encoders.checkpoint import CONFIG, digest, read_json, weight_files
from jaxalign.vision.encoders.checkpoint_config import Config
from jaxalign.vision.encoders.encoder import BILINEAR, DEFAULT_BATCH, Preprocessing
from jaxalign.vision.encoders.jax_encoder import Apply, JaxEncoder, under_options
from jaxalign.vision.encoders.load import Settings, Specification
from jaxalign.vision.encoders.tensors import Tensor, digest_tensors, list_tensors
from jaxalign.vision.images.landmarks import LandmarkTable, read_landmarks


class Kind(NamedTuple):
    """One kind of network."""

    tower: str  # the file in ``towers/``
    mark: str  # name of a tensor that no other kind has
    said: dict[str, str]  # how all networks of this kind take pictures, with batch norms' ``epsilon``


CENTRED = {"mean": "127.5", "std": "127.5"}
KINDS = {
    "ir": Kind("iresnet", "input_layer.0.weight", {**CENTRED, "epsilon": "1e-5"}),
    "iresnet": Kind("iresnet", "layer1.0.conv1.weight", {}),  # MagFace and insightface agree in nothing
    "kprpe": Kind("kprpe", "keypoint_linear.weight", {**CENTRED, "epsilon": "2e-5"}),
}
# What may stand before the names of a network's tensors, longest first; a training head's have other names.
PREFIXES = ("features.module.", "module.features.", "model.net.", "module.", "model.", "net.", "")
# What the authors' code does with pictures of networks whose tensors are alike.
PUBLISHED = {
    "insightface": {"color": "rgb", **CENTRED, "epsilon": "1e-5"},
    "magface": {"color": "bgr", "mean": "0", "std": "255", "epsilon": "2e-5"},
}
# Kinds and prefixes that tell whose file it is.
AUTHORS = {
    ("ir", "model."): {"color": "bgr"},  # AdaFace
    ("iresnet", "features.module."): PUBLISHED["magface"],
    ("iresnet", "module.features."): PUBLISHED["magface"],
}
# By the path of a network's settings in the repositories of CVLface.
CVLFACE = {"/iresnet/": "ir", "/vit_kprpe/": "kprpe"}
COLORS, FLIPS = ("rgb", "bgr"), ("none", "add")
PICKLES = (".pt", ".pth", ".ckpt", ".bin")
SPARE = r".*\bnum_batches_tracked"


class FoundNetwork(NamedTuple):
    """A network among the tensors of a checkpoint: its kind, and what stands before its tensors' names."""

    kind: str
    prefix: str

    @property
    def said(self) -> dict[str, str]:
        """How the network takes pictures, as options; without those that the names do not tell."""
        return KINDS[self.kind].said | AUTHORS.get((self.kind, self.prefix), {})

    def missing(self, given: Mapping[str, str]) -> str:
        """What must be said beside the given options, because nobody may guess it; "" if nothing."""
        if self.kind == "iresnet" and any(key not in given for key in PUBLISHED["magface"]):
            return "published"
        return "" if "color" in given else "color"


def find_network(names: Mapping[str, Any], kind: str | None = None) -> FoundNetwork | None:
    """The face network, of this kind where one is given, whose tensors a checkpoint has; None if it has none."""
    for prefix in PREFIXES:
        for known, row in KINDS.items():
            if prefix + row.mark in names and kind in (None, known):
                return FoundNetwork(known, prefix)
    return None


def load_face(specification: Specification, settings: Settings) -> JaxEncoder:
    """Loads ``face:<file or directory>?color=&flip=&dtype=&name=&batch=`` and further options, see docs/encoders.md."""
    specification.only(
        "kind", "published", "color", "mean", "std", "epsilon", "flip", "keypoints", "dtype", "name", "batch"
    )
    specification.dtype(settings)
    specification.batch_size(settings, DEFAULT_BATCH)
    specification.require_installed("flax", "PIL")
    path = pathlib.Path(specification.target).expanduser()
    if path.suffix.lower() in PICKLES:
        specification.refuse(
            f"a {path.suffix} file may run code when it is read, so it is converted first: python -m "
            f"experiments.convert_weights --weights={path} --out={path.with_suffix('.safetensors')}."
        )
    if path.is_dir():
        content = read_json(specification, path, CONFIG, "") if (path / CONFIG).is_file() else {}
        return load_directory(specification, settings, path, content)
    if not path.is_file():
        specification.refuse(f"there is no file or directory {specification.target}.")
    return _load(specification, settings, path, path.stem, Config(specification, {}, str(path)), None)


def load_directory(
    specification: Specification, settings: Settings, directory: pathlib.Path, content: Mapping[str, Any]
) -> JaxEncoder:
    """Loads a directory's weights; ``content`` is that of its config.json, whose ``conf`` CVLface has written.

    Raises:
      UserError: ``conf`` is of another network, or says no colour order.
    """
    for option in ("pooling", "layer"):
        if option in specification.options:
            specification.refuse(f"a face network has one embedding, so there is no {option} to choose.")
    config, kind = Config(specification, content).part("conf"), None
    if config.values:
        place = config.get("yaml_path", "")
        kind = next((kind for part, kind in CVLFACE.items() if part in place), None)
        if kind is None:
            config.refuse(f"yaml_path is {place!r}; known are paths with {' or '.join(CVLFACE)}.")
        if (color := config.get("color_space", "").lower()) not in COLORS:
            config.refuse(f"color_space is expected to be RGB or BGR, got {color!r}.")
    name = pathlib.PurePath(specification.target).name
    return _load(specification, settings, directory, name, config, kind)


def _load(
    specification: Specification,
    settings: Settings,
    path: pathlib.Path,
    name: str,
    config: Config,
    kind: str | None,
) -> JaxEncoder:
    """The network of a file or directory; options go before a file's metadata, and these before ``conf`` and names."""
    key_points = _key_points(specification)
    files = weight_files(specification, path, "") if path.is_dir() else [path]
    tensors, options = list_tensors(specification, files), specification.options
    asked = specification.choice("kind", tuple(KINDS), "") if "kind" in options else kind
    found = find_network(tensors, asked)
    if found is None:
        marks = " or ".join(row.mark for known, row in KINDS.items() if asked in (None, known))
        specification.refuse(
            f"{files[0]} holds no face network that is known here: no tensor is called {marks}."
        )
    if key_points is not None and found.kind != "kprpe":
        specification.refuse(f"keypoints are for networks of kind kprpe; this one is of kind {found.kind}.")
    given = found.said | ({"color": config.get("color_space", "")} if config.values else {})
    given |= _metadata(files)
    if "published" in options:
        if found.kind != "iresnet":
            specification.refuse(
                f"published is for networks of kind iresnet; this one is of kind {found.kind}."
            )
        given |= PUBLISHED[specification.choice("published", tuple(PUBLISHED), "")]
    given |= options
    if (missing := found.missing(given)) == "published":
        specification.refuse(
            "MagFace and insightface publish networks of these tensors, for other colours and another scale, and "
            "nothing in the checkpoint says whose this is: give published=magface or published=insightface."
        )
    if missing:
        specification.refuse(
            "nothing in the checkpoint says the order of colours that the network takes: give color=rgb or color=bgr."
        )
    flip = specification.choice("flip", FLIPS, FLIPS[0])
    network = build(specification, found, tensors, given, config, flip)

    def facts() -> dict[str, Any]:
        configured = {"config_sha256": digest([files[0].parent / CONFIG])} if config.values else {}
        told: dict[str, Any] = {"kind": found.kind, "flip": flip, "epsilon": network.epsilon}
        told |= {} if key_points is None else {"key_points_sha256": key_points.sha256}
        return {**told, "weights_sha256": digest_tensors(jax.tree.leaves(network.params)), **configured}

    parts = network.apply, network.params, network.preprocessing
    encoder = under_options(specification, settings, name, parts, facts, dim=network.dim)
    encoder.key_points = key_points
    return encoder


def _key_points(specification: Specification) -> LandmarkTable | None:
    """The key points of the file that an option names: parts of a picture's width and height, as CVLface has them."""
    if "keypoints" not in specification.options:
        return None
    try:
        table = read_landmarks(specification.options["keypoints"])
    except UserError as error:
        specification.refuse(str(error))
    for name, points in table.points.items():
        if np.abs(points - 0.5).max() > 1:  # a point may lie beyond the border, and pixels are larger numbers
            specification.refuse(
                f"{table.path}: key points are parts of the picture's width and height, from 0 to 1 inside it; those "
                f"of {name!r} go from {points.min():g} to {points.max():g}."
            )
    return table


class FaceNetwork(NamedTuple):
    """A face network with its weights."""

    apply: Apply  # gives the embeddings of pixels, and of key points for KPRPE, unnormalised
    params: Any  # the weights, a pytree of ``Tensor``
    preprocessing: Preprocessing
    epsilon: float  # of batch normalisation
    dim: int  # width of an embedding


def build(
    specification: Specification,
    found: FoundNetwork,
    tensors: Mapping[str, Tensor],
    given: Mapping[str, str],
    config: Config,
    flip: str = FLIPS[0],
) -> FaceNetwork:
    """The network with its weights; reads none of them.

    Args:
      specification: that errors name.
      found: by ``find_network``.
      tensors: of the checkpoint.
      given: color, mean, std and epsilon as options are written.
      config: what else is known of the network.
      flip: "add" for the sum of the embeddings of a picture and of its mirror image.

    Raises:
      UserError: tensors are missing, left over or of other shapes, or a value of ``given`` is not known.
    """
    from jaxalign.vision.encoders.towers.weights import filled, own_names

    tower = importlib.import_module(f"jaxalign.vision.encoders.towers.{KINDS[found.kind].tower}")
    try:
        epsilon = float(given["epsilon"])
    except ValueError:
        epsilon = 0.0
    if not 0 < epsilon < 1:
        text = given["epsilon"]
        specification.refuse(f"epsilon is a number above 0 and below 1, such as 1e-5, got {text!r}.")
    inside = own_names(tensors, re.escape(found.prefix), tower.NAMES)
    config = Config(specification, {**config.values, "epsilon": epsilon}, config.place)
    network = tower.read(found.kind, config, inside)
    module, params = filled(specification, functools.partial(tower.Tower, network), inside, SPARE)

    def apply(params: Any, pixels: Array, *key_points: Array) -> Array:
        made = module(params)
        rows = made(pixels, *key_points)
        if flip == "none":
            return rows
        elsewhere = [tower.mirrored(*key_points or (tower.ALIGNED,))] if found.kind == "kprpe" else []
        return rows + made(pixels[:, :, ::-1], *elsewhere)

    color = given["color"].lower()
    if color not in COLORS:
        specification.refuse(f"color is {' or '.join(COLORS)}, got {color!r}.")
    mean, std = (specification.numbers(key, given[key]) or (0.0, 0.0, 0.0) for key in ("mean", "std"))
    size = network.size
    try:
        preprocessing = Preprocessing(size, size, BILINEAR, mean=mean, std=std, color=color.upper())
    except UserError as error:
        specification.refuse(str(error))
    return FaceNetwork(apply, params, preprocessing, epsilon, network.dim)


def _metadata(files: list[pathlib.Path]) -> dict[str, str]:
    """What ``experiments.convert_weights`` has noted in a file's header."""
    from safetensors import safe_open

    if [path.suffix for path in files] != [".safetensors"]:
        return {}
    with safe_open(files[0], framework="np") as file:
        noted = file.metadata() or {}
    return {key: noted[key] for key in ("color", "mean", "std", "epsilon") if key in noted}
