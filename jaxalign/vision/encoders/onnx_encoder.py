"""Face networks in ONNX files, run by onnxruntime."""

import pathlib
from typing import Any, NamedTuple

import numpy as np

from jaxalign.core.errors import UserError
from jaxalign.vision.encoders.checkpoint import digest
from jaxalign.vision.encoders.encoder import BILINEAR, DEFAULT_BATCH, BatchEncoder, Preprocessing
from jaxalign.vision.encoders.load import Settings, Specification, first_line

FACE_SIZE = 112  # of ArcFace and its kin; taken where the graph leaves height and width open
INPUT_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}
PROVIDERS = {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}


class _Input(NamedTuple):
    """The graph's picture input; None for sizes that are open."""

    name: str
    dtype: type
    channels_first: bool
    batch: int | None
    height: int | None
    width: int | None


class OnnxEncoder(BatchEncoder):
    """``onnx:<file>?mean=&std=&color=&size=&output=&batch=&name=&provider=``: an ONNX graph as an ``Encoder``.

    ``batch_size`` is the graph's own where that is fixed.
    """

    def __init__(self, specification: Specification, settings: Settings) -> None:
        specification.only("mean", "std", "color", "size", "output", "batch", "name", "provider")
        specification.require_installed("onnxruntime", "onnx")
        path = pathlib.Path(specification.target).expanduser()
        if not path.is_file():
            specification.refuse(f"there is no file {specification.target}.")
        session = _session(specification, path)
        picture = _picture_input(specification, session.get_inputs())
        output = _embedding(specification, session)
        self._specification, self._session = specification, session
        self._input, self._output = picture, output.name
        metadata = session.get_modelmeta().custom_metadata_map
        self.name = specification.name(path.stem)
        self.preprocessing = _preprocessing(specification, picture, metadata, path)
        self.batch_size = picture.batch or specification.batch_size(settings, DEFAULT_BATCH)
        specification.require_room(self.preprocessing.size, self.batch_size)  # before a batch is tried below
        self._pads = picture.batch is not None
        self._dtype = np.dtype(picture.dtype)
        weights = [path, *_external_files(path)]
        self._facts = lambda: {"form": "onnx", "output": output.name, "weights_sha256": digest(weights)}
        width = output.shape[1:]
        if all(isinstance(size, int) for size in width) and width:
            self.dim = int(np.prod(width))
        else:  # the graph leaves it open
            blank = np.zeros((self.batch_size, *self.preprocessing.size, 3), np.uint8)
            self.dim = self._dispatch(blank).shape[1]

    def _dispatch(self, images: np.ndarray, *key_points: np.ndarray) -> np.ndarray:
        try:
            (result,) = self._session.run([self._output], {self._input.name: self._pixels(images)})
        except Exception as error:  # onnxruntime's own classes share no base but Exception
            self._specification.refuse(
                f"the graph failed on a batch of {len(images)} ({first_line(error)}); where it was exported for one "
                "picture at a time, add the option batch=1."
            )
        if result.ndim < 2 or result.shape[0] != len(images):
            shape = f"output {self._output!r} has shape {result.shape}"
            self._specification.refuse(f"{shape} for {len(images)} pictures; expected one row for each.")
        return result.reshape(len(images), -1)

    def _pixels(self, images: np.ndarray) -> np.ndarray:
        """The graph's input: normalised in float32 and laid out."""
        given, first = self.preprocessing, self._input.channels_first
        ordered = images if given.color == "RGB" else images[..., ::-1]
        layout = np.ascontiguousarray(ordered.transpose(0, 3, 1, 2) if first else ordered)
        if self._dtype == np.uint8:
            return layout
        mean, std = (np.array(values, np.float32) for values in (given.mean, given.std))
        if first:
            mean, std = mean[:, None, None], std[:, None, None]
        pixels = np.subtract(layout, mean, dtype=np.float32)
        pixels /= std
        return pixels.astype(self._dtype, copy=False)


def _session(specification: Specification, path: pathlib.Path) -> Any:
    import onnxruntime

    there = onnxruntime.get_available_providers()
    wanted = specification.choice("provider", ("auto", *PROVIDERS), "auto")
    if wanted != "auto" and PROVIDERS[wanted] not in there:
        specification.refuse(f"this onnxruntime has no provider {wanted}; it has {', '.join(there)}.")
    names = list(PROVIDERS.values()) if wanted == "auto" else [PROVIDERS[wanted]]
    providers = [name for name in names if name in there]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # face networks usually declare wrong output shapes: each batch would warn
    try:
        return onnxruntime.InferenceSession(path, options, providers=providers)
    except Exception as error:
        specification.refuse(f"{path} cannot be loaded as an ONNX graph ({first_line(error)}).")


def _picture_input(specification: Specification, inputs: list[Any]) -> _Input:
    """Reads layout, size and batch of the one input, or says why it is no batch of RGB pictures."""
    if len(inputs) != 1:
        names = ", ".join(f"{node.name} {_shape(node)}" for node in inputs)
        count = len(inputs)
        specification.refuse(f"the graph has {count} inputs ({names}); expected one, a batch of pictures.")
    (node,) = inputs
    sizes = [size if isinstance(size, int) and size > 0 else None for size in node.shape]
    if node.type not in INPUT_TYPES:
        known = ", ".join(INPUT_TYPES)
        specification.refuse(f"input {node.name} is of {node.type}; expected one of {known}.")
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
    if wanted is None:
        if len(outputs) != 1:
            count = len(outputs)
            specification.refuse(f"the graph has {count} outputs ({names}); choose one with ?output=<name>.")
        (wanted,) = outputs
    if wanted not in outputs:
        specification.refuse(f"the graph has no output {wanted!r}; it has {names}.")
    if not outputs[wanted].type.startswith("tensor("):
        kind = outputs[wanted].type
        specification.refuse(f"output {wanted!r} is a {kind}; expected a tensor with a row for each picture.")
    return outputs[wanted]


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
        specification.refuse("the graph takes bytes and normalises them itself, without mean and std.")
    noted = {} if plain else {"mean": metadata.get("input_mean"), "std": metadata.get("input_std")}
    given = {**noted, **specification.options}
    usual = (0.0, 1.0) if plain or _normalises_itself(path) else (127.5, 127.5)
    mean, std = (
        specification.numbers(key, given.get(key)) or (default, default, default)
        for key, default in zip(("mean", "std"), usual)
    )
    color = specification.options.get("color", metadata.get("color_order", "RGB")).upper()
    if color not in ("RGB", "BGR"):
        specification.refuse(f"the colour order is rgb or bgr, got {color!r}.")
    try:
        return Preprocessing(size, size, BILINEAR, mean=mean, std=std, color=color)
    except UserError as error:
        specification.refuse(str(error))


def _normalises_itself(path: pathlib.Path) -> bool:
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


def _external_files(path: pathlib.Path) -> list[pathlib.Path]:
    """The files beside a graph that hold weights of it, wherever in the graph these are used."""
    import onnx

    names: set[str] = set()
    parts: list[Any] = [onnx.load(path, load_external_data=False)]
    while parts:
        part = parts.pop()
        if isinstance(part, onnx.TensorProto) and part.data_location == onnx.TensorProto.EXTERNAL:
            names |= {entry.value for entry in part.external_data if entry.key == "location"}
            continue
        for field, value in part.ListFields():
            if field.message_type is not None:
                parts += [value] if hasattr(value, "ListFields") else value
    return [path.parent / name for name in sorted(names)]


def _shape(node: Any) -> str:
    return f"[{', '.join(map(str, node.shape))}]"
