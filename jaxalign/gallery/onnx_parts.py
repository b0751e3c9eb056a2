"""ONNX files on disk: their parts, their weights in other files, and how both are written whole or not at all."""

import os
import pathlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from jaxalign.core.errors import UserError
from jaxalign.core.files import first_line, regular_file
from jaxalign.data.atomic import new_file, sync_directory, temporary_name

if TYPE_CHECKING:
    from onnx import ModelProto, TensorProto

LARGEST_FILE = 2**31 - 1  # bytes of a protobuf message
ALIGNMENT = 4096  # of tensors in a file of weights, so that runtimes can map it into memory
PIECE_BYTES = 2**24  # of weights, copied at once


def messages(message: Any) -> Iterator[Any]:
    """A protobuf message and all messages inside it."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in [value] if hasattr(value, "ListFields") else value:
                yield from messages(part)


def is_text(message: Any) -> bool:
    """Whether all names and texts inside a message are UTF-8; others are given as bytes."""
    texts = (
        [value] if isinstance(value, (str, bytes)) else value
        for part in messages(message)
        for field, value in part.ListFields()
        if field.type == field.TYPE_STRING
    )
    return all(isinstance(text, str) for several in texts for text in several)


def side_file(network: pathlib.Path, tensor: "TensorProto") -> pathlib.Path:
    """The file that a tensor lies in, which must be in the network's folder or below."""
    location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
    if not location or pathlib.PurePath(location).is_absolute() or ".." in pathlib.PurePath(location).parts:
        raise UserError(
            f"{network}: tensor {tensor.name!r} lies in {location!r}, which is not in the network's folder."
        )
    return regular_file(network.parent / location, f"weights of {network}")


def write(
    model: "ModelProto", out: pathlib.Path, made_from: str, weights: list["TensorProto"], beside: pathlib.Path
) -> None:
    """Writes a graph that onnx's check passes, and in a file beside it the ``weights`` that lie apart."""
    import onnx

    data = out.with_name(out.name + ".data")
    with new_file(out):
        with temporary_name(out) as place:  # a folder, in which weights have the name that the graph says
            place.mkdir()
            if weights:
                _copy_weights(weights, beside, place / data.name)
            if model.ByteSize() > LARGEST_FILE:
                raise UserError(
                    f"{out} would have more than {LARGEST_FILE:,} bytes; put the network's weights beside it."
                )
            with open(place / out.name, "xb") as file:
                file.write(model.SerializeToString())
                file.flush()
                os.fsync(file.fileno())
            try:
                onnx.checker.check_model(str(place / out.name))
            except Exception as error:  # ValidationError, and what C++ raises
                raise UserError(f"{made_from} does not pass onnx's check ({first_line(error)}).") from error
            if weights:  # without the old graph, which would read the new weights if we were killed between
                out.unlink(missing_ok=True)
                os.replace(place / data.name, data)
            os.replace(place / out.name, out)
        sync_directory(out.parent)


def _copy_weights(weights: list["TensorProto"], beside: pathlib.Path, data: pathlib.Path) -> None:
    """Copies the bytes of tensors from the files that they lie in to one, and notes the place in the tensors."""
    places: dict[tuple[str, int, int], int] = {}
    with open(data, "xb") as target:
        for tensor in weights:
            source, start, size = _place(beside, tensor)
            key = (str(source), start, size)
            if key not in places:
                target.write(b"\0" * (-target.tell() % ALIGNMENT))
                places[key] = target.tell()
                with open(source, "rb") as file:
                    file.seek(start)
                    while size and (piece := file.read(min(size, PIECE_BYTES))):
                        target.write(piece)
                        size -= len(piece)
            noted = {"location": data.name, "offset": str(places[key]), "length": str(key[2])}
            del tensor.external_data[:]
            for name, value in noted.items():
                tensor.external_data.add(key=name, value=value)
        target.flush()
        os.fsync(target.fileno())


def _place(beside: pathlib.Path, tensor: "TensorProto") -> tuple[pathlib.Path, int, int]:
    """File, offset and number of the bytes of a tensor that lies apart."""
    noted = {entry.key: entry.value for entry in tensor.external_data}
    source = beside / noted["location"]
    there = source.stat().st_size
    try:
        start = int(noted.get("offset") or 0)
        size = int(noted.get("length") or there - start)
    except ValueError:
        start = size = -1
    if start < 0 or size < 0 or start + size > there:
        raise UserError(
            f"{source} is cut short, or the network's file is damaged: tensor {tensor.name!r} is not in it."
        )
    return source, start, size
