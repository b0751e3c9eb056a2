"""Face networks in ONNX files, run by onnxruntime."""

import dataclasses
import importlib.util
import pathlib
from typing import Any

import numpy as np

from jaxalign.core.errors import UserError
from jaxalign.vision.encoders.base import BILINEAR, Preprocessing, check_images
from jaxalign.vision.encoders.checkpoint import digest
from jaxalign.vision.encoders.load import Settings, Specification, first_line


def normalises_itself(path: pathlib.Path) -> bool:
    """Whether a graph subtracts and scales before it first convolves or multiplies matrices, as MXNet's exports do.

    insightface looks for nodes named Sub and Mul among the first eight. Here it is their types, and only up to the
    first layer with weights, so that an activation written as Sub and Mul does not count.
    """
    import onnx

    before: set[str] = set()
    for node in onnx.load(path, load_external_data=False).graph.node[:8]:
        if node.op_type in ("Conv", "Gemm", "MatMul"):
            break
        before.add(node.op_type)
    return "Sub" in before and bool(before & {"Mul", "Div"})


FACE_SIZE = 112  # of ArcFace and its kin; taken where the graph leaves height and width open
DEFAULT_BATCH = 32
INPUT_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}
PROVIDERS = {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}


@dataclasses.dataclass(frozen=True)
class _Input:
    """The graph's picture input; None for sizes that are open."""

    name: str
    dtype: type
    channels_first: bool
    batch: int | None
    height: int | None
    width: int | None


class OnnxEncoder:
    """An ONNX graph as an ``Encoder``.

    Attributes: see ``Encoder``; ``batch_size`` is the graph's own where that is fixed.
    """

    def __init__(
        self,
        specification: Specification,
        session: Any,
        picture: _Input,
        output: Any,
        settings: Settings,
        path: pathlib.Path,
    ) -> None:
        self.name = specification.name(path.stem)
        self._specification, self._session, self._path = specification, session, path
        self._input, self._output = picture, output.name
        self.preprocessing = _preprocessing(
            specification, picture, session.get_modelmeta().custom_metadata_map, path
        )
        self.batch_size = picture.batch or specification.batch_size(settings, DEFAULT_BATCH)
        width = output.shape[1:]
        if all(isinstance(size, int) for size in width) and width:
            self.dim = int(np.prod(width))
        else:  # the graph leaves it open
            self.dim = self._run(np.zeros((self.batch_size, *self.preprocessing.size, 3), np.uint8)).shape[1]

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """See ``Preprocessing.prepare``."""
        return self.preprocessing.prepare(image)

    def encode(self, images: np.ndarray) -> np.ndarray:
        """Embeds prepared pictures.

        Args:
          images: uint8, shape [n, height, width, 3], RGB.

        Returns:
          float32, shape [n, dim], as the graph gives them (not normalised in length).

        Raises:
          UserError: pictures of another shape or format, or a graph that cannot take a batch of this size.
        """
        images = check_images(images, self.preprocessing.size, self.name)
        rows = np.empty((len(images), self.dim), np.float32)
        for start in range(0, len(images), self.batch_size):
            batch = images[start : start + self.batch_size]
            if self._input.batch and len(batch) < self.batch_size:
                batch = np.concatenate(
                    [batch, np.zeros((self.batch_size - len(batch), *batch.shape[1:]), np.uint8)]
                )
            rows[start : start + self.batch_size] = self._run(batch)[: len(images) - start]
        return rows

    def describe(self) -> dict[str, Any]:
        """See ``Encoder.describe``."""
        return {
            "dim": self.dim,
            "dtype": np.dtype(self._input.dtype).name,
            "preprocessing": self.preprocessing.describe(),
            "form": "onnx",
            "output": self._output,
            "weights_sha256": digest([self._path]),
        }

    def _run(self, images: np.ndarray) -> np.ndarray:
        try:
            (result,) = self._session.run([self._output], {self._input.name: self._pixels(images)})
        except Exception as error:  # onnxruntime's own classes share no base but Exception
            self._specification.refuse(
                f"the graph failed on a batch of {len(images)} ({first_line(error)}); where it was exported for one "
                "picture at a time, add the option batch=1."
            )
        if result.ndim < 2 or result.shape[0] != len(images):
            self._specification.refuse(
                f"output {self._output!r} has shape {result.shape} for {len(images)} pictures; "
                "expected one row for each."
            )
        return result.reshape(len(images), -1).astype(np.float32, copy=False)

    def _pixels(self, images: np.ndarray) -> np.ndarray:
        """The graph's input: normalised in float32 and laid out."""
        given = self.preprocessing
        ordered = images if given.color == "RGB" else images[..., ::-1]
        layout = np.ascontiguousarray(
            ordered.transpose(0, 3, 1, 2) if self._input.channels_first else ordered
        )
        if self._input.dtype is np.uint8:
            return layout
        shape = (3, 1, 1) if self._input.channels_first else (3,)
        pixels = np.subtract(layout, np.asarray(given.mean, np.float32).reshape(shape), dtype=np.float32)
        pixels /= np.asarray(given.std, np.float32).reshape(shape)
        return pixels.astype(self._input.dtype, copy=False)


def load_onnx(specification: Specification, settings: Settings) -> OnnxEncoder:
    """Loads ``onnx:<file>?mean=&std=&color=&size=&output=&batch=&name=&provider=``.

    Raises:
      UserError: the file is no ONNX graph from one picture to one embedding, or an option does not fit.
    """
    specification.only("mean", "std", "color", "size", "output", "batch", "name", "provider")
    for package in ("onnxruntime", "onnx"):
        if importlib.util.find_spec(package) is None:
            specification.refuse(f"{package} is not installed; onnx: needs pip install 'jaxalign[encoders]'.")
    path = pathlib.Path(specification.target).expanduser()
    if not path.is_file():
        specification.refuse(f"there is no file {specification.target}.")
    session = _session(specification, path)
    picture = _picture_input(specification, session.get_inputs())
    return OnnxEncoder(specification, session, picture, _embedding(specification, session), settings, path)


def _session(specification: Specification, path: pathlib.Path) -> Any:
    import onnxruntime

    there = onnxruntime.get_available_providers()
    wanted = specification.choice("provider", ("auto", *PROVIDERS), "auto")
    if wanted != "auto" and PROVIDERS[wanted] not in there:
        specification.refuse(f"this onnxruntime has no provider {wanted}; it has {', '.join(there)}.")
    names = list(PROVIDERS.values()) if wanted == "auto" else [PROVIDERS[wanted]]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = (
        3  # face networks declare wrong output shapes as a rule, and each batch would warn
    )
    try:
        return onnxruntime.InferenceSession(
            path, options, providers=[name for name in names if name in there]
        )
    except Exception as error:
        specification.refuse(f"{path} cannot be loaded as an ONNX graph ({first_line(error)}).")


def _picture_input(specification: Specification, inputs: list[Any]) -> _Input:
    """Reads layout, size and batch of the one input, or says why it is no batch of RGB pictures."""
    if len(inputs) != 1:
        names = ", ".join(f"{node.name} {_shape(node)}" for node in inputs)
        specification.refuse(
            f"the graph has {len(inputs)} inputs ({names}); expected one, a batch of pictures."
        )
    (node,) = inputs
    sizes = [size if isinstance(size, int) and size > 0 else None for size in node.shape]
    if node.type not in INPUT_TYPES:
        specification.refuse(
            f"input {node.name} is of {node.type}; expected one of {', '.join(INPUT_TYPES)}."
        )
    if len(sizes) != 4 or (3 not in (sizes[1], sizes[3]) and any((sizes[1], sizes[3]))):
        specification.refuse(
            f"input {node.name} has shape {_shape(node)}; expected RGB pictures, [n, 3, height, width] or "
            "[n, height, width, 3]."
        )
    first = sizes[3] != 3 or sizes[1] == 3
    height, width = sizes[2:] if first else sizes[1:3]
    return _Input(node.name, INPUT_TYPES[node.type], first, sizes[0], height, width)


def _embedding(specification: Specification, session: Any) -> Any:
    """The output that is the embedding."""
    outputs = {node.name: node for node in session.get_outputs()}
    names = ", ".join(f"{name} {_shape(node)}" for name, node in outputs.items())
    wanted = specification.options.get("output")
    if wanted is None and len(outputs) != 1:
        specification.refuse(
            f"the graph has {len(outputs)} outputs ({names}); choose one with ?output=<name>."
        )
    if wanted is not None and wanted not in outputs:
        specification.refuse(f"the graph has no output {wanted!r}; it has {names}.")
    return outputs[wanted if wanted is not None else next(iter(outputs))]


def _preprocessing(
    specification: Specification, picture: _Input, metadata: dict[str, str], path: pathlib.Path
) -> Preprocessing:
    """Options go before the file's metadata, and that before insightface's convention."""
    edge = specification.count("size")
    size = (picture.height or edge or FACE_SIZE, picture.width or edge or FACE_SIZE)
    if edge is not None and size != (edge, edge):
        specification.refuse(f"the graph takes pictures of {size[0]} × {size[1]} pixels, got size={edge}.")
    plain = picture.dtype is np.uint8
    if plain and {"mean", "std"} & set(specification.options):
        specification.refuse(
            "the graph takes bytes and normalises them itself; mean and std have no meaning."
        )
    usual = (0.0, 1.0) if plain or normalises_itself(path) else (127.5, 127.5)
    mean, std = (
        specification.numbers(
            key, specification.options.get(key, None if plain else metadata.get(f"input_{key}"))
        )
        or (default, default, default)
        for key, default in zip(("mean", "std"), usual)
    )
    color = specification.options.get("color", metadata.get("color_order", "RGB")).upper()
    if color not in ("RGB", "BGR"):
        specification.refuse(f"the colour order is rgb or bgr, got {color!r}.")
    try:
        return Preprocessing(size, size, BILINEAR, mean=mean, std=std, color=color)
    except UserError as error:
        specification.refuse(str(error))


def _shape(node: Any) -> str:
    return "[" + ", ".join(str(size) for size in node.shape) + "]"
