"""Encoders that are JAX functions: bundled networks, plain pixels, and the user's own callables."""

import hashlib
import importlib
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, UInt8

from jaxalign.core.errors import UserError
from jaxalign.vision.encoders.checkpoint import digest
from jaxalign.vision.encoders.encoder import DEFAULT_BATCH, BatchEncoder, Encoder, Preprocessing
from jaxalign.vision.encoders.load import Settings, Specification
from jaxalign.vision.encoders.provenance import OwnEncoder, provenance

# Of weights, pixels [n, height, width, 3] and, for some networks, key points [n, 5, 2], to embeddings [n, dim].
Apply = Callable[..., Float[Array, "n dim"]]

# Keys of running statistics of batch normalisation: they keep float32, of which their variances need the digits.
STATISTICS = ("batch_stats", "running_mean", "running_var")


class JaxEncoder(BatchEncoder):
    """A function of pixels with frozen weights, as an ``Encoder``.

    Every batch is padded to ``batch_size``, so one program serves all; each device computes its share of the batch
    alone, with a copy of the weights. In float32, matrix products run at full precision on every kind of device.

    Attributes: see ``Encoder``, and
      apply, params: the network as a pure function of its weights and of pixels [n, height, width, 3], for other code;
        ``normalised`` makes such pixels of prepared pictures.
    """

    def __init__(
        self,
        name: str,
        apply: Apply,
        params: Any,
        preprocessing: Preprocessing,
        *,
        batch_size: int = DEFAULT_BATCH,
        dtype: str = "float32",
        devices: Sequence[Any] | None = None,
        dim: int | None = None,
        facts: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        """Puts the weights on the devices; compiles nothing yet.

        Args:
          name: of the encoder.
          apply: (params, pixels) to embeddings. Pixels are [n, height, width, 3] in ``dtype``, already rescaled,
            centred and divided; the result is [n, dim] in any floating format. It must treat each picture alone, be
            free of side effects and work under ``jit``.
          params: the weights, any pytree. Floating leaves are cast to ``dtype``, except under a key of ``STATISTICS``.
          preprocessing: how pictures are made ready.
          batch_size: rounded up to a multiple of the number of devices.
          dtype: "float32" or "bfloat16".
          devices: local ones; all where None.
          dim: width of an embedding; where None, ``apply`` is traced once to find it.
          facts: gives further entries of ``describe``.

        Raises:
          UserError: ``apply`` does not give one row for each picture.
        """
        self.name = name
        self.preprocessing = preprocessing
        self._dtype = jnp.dtype(dtype)
        self._facts = facts
        mesh = Mesh(np.asarray(devices or jax.local_devices()), ("batch",))
        self.batch_size = -(-batch_size // mesh.size) * mesh.size
        self._batch = NamedSharding(mesh, P("batch"))
        copies = NamedSharding(mesh, P())
        # One by one: an array on the host goes before the next is read.
        self.params = jax.tree_util.tree_map_with_path(
            lambda path, leaf: jax.device_put(self._cast(path, leaf), copies), params
        )
        self.apply = apply
        # A global setting of the caller's must not change the numbers: the precision is part of the program.
        precision = "highest" if dtype == "float32" else "default"

        def encode(params: Any, batch: tuple[UInt8[Array, "n height width 3"], ...]) -> Float[Array, "n dim"]:
            images, *key_points = batch
            with jax.default_matmul_precision(precision):
                return apply(params, self.normalised(images), *key_points).astype(jnp.float32)

        local = jax.shard_map(
            encode, mesh=mesh, in_specs=(P(), P("batch")), out_specs=P("batch"), check_vma=False
        )
        self._program, self._encode = jax.jit(local), encode
        self.dim = self._width(encode) if dim is None else dim

    def program_digest(self) -> str:
        """SHA-256 of the weights and of the program, with the constants in it."""
        hasher = hashlib.sha256()
        for path, leaf in jax.tree_util.tree_leaves_with_path(self.params):
            array = np.asarray(leaf)
            hasher.update(f"{path} {array.dtype} {array.shape}".encode())
            hasher.update(array.tobytes())
        pictures = jax.ShapeDtypeStruct((2, *self.preprocessing.size, 3), jnp.uint8)
        hasher.update(jax.jit(self._encode).lower(self.params, (pictures,)).as_text().encode())
        return hasher.hexdigest()

    def _width(self, encode: Callable[[Any, Any], jax.Array]) -> int:
        pictures = jax.ShapeDtypeStruct((2, *self.preprocessing.size, 3), jnp.uint8)
        shape = jax.eval_shape(encode, self.params, (pictures,)).shape
        if len(shape) != 2 or shape[0] != 2:
            raise UserError(
                f"encoder {self.name!r}: expected [n, width] from n pictures, got shape {shape} from 2 pictures."
            )
        return int(shape[1])

    def _cast(self, path: tuple[Any, ...], leaf: Any) -> Any:
        """Running statistics of batch normalisation keep float32: their variances span too many powers of two."""
        array = np.asarray(leaf)  # on the device each shape of weights would be a program of its own
        if not jnp.issubdtype(array.dtype, jnp.floating):
            return leaf
        keep = any(getattr(key, "key", None) in STATISTICS for key in path)
        return array.astype(np.float32 if keep else self._dtype, copy=False)

    def normalised(self, images: UInt8[Array, "n height width 3"]) -> Float[Array, "n height width 3"]:
        """Prepared pictures, rescaled, centred and divided, in the encoder's number format."""
        given = self.preprocessing
        ordered = images if given.color == "RGB" else images[..., ::-1]
        pixels = ordered.astype(jnp.float32) * jnp.float32(given.rescale)
        mean, std = jnp.asarray(given.mean, jnp.float32), jnp.asarray(given.std, jnp.float32)
        pixels = (pixels - mean) / std
        if given.longest_edge is not None:
            pixels *= given.inside(images)[..., None]
        return pixels.astype(self._dtype)

    def _dispatch(self, images: np.ndarray, *key_points: np.ndarray) -> jax.Array:
        return self._program(self.params, jax.device_put((images, *key_points), self._batch))


def under_options(
    specification: Specification,
    settings: Settings,
    name: str,
    network: tuple[Apply, Any, Preprocessing],
    facts: Callable[[], Mapping[str, Any]] = dict,
    *,
    batch: int = DEFAULT_BATCH,
    dim: int | None = None,
) -> JaxEncoder:
    """The encoder of a network (apply, params, preprocessing) under the options name, batch and dtype."""
    batch_size = specification.batch_size(settings, batch)
    specification.require_room(network[2].size, batch_size)  # before weights are read
    return JaxEncoder(
        specification.name(name),
        *network,
        batch_size=batch_size,
        dtype=specification.dtype(settings),
        devices=settings.devices,
        dim=dim,
        facts=lambda: {"form": specification.form, **facts()},
    )


LARGEST = 64  # pixels along an edge: 12,288 numbers a picture


def load_pixels(specification: Specification, settings: Settings) -> JaxEncoder:
    """Loads ``pixels:<edge>?dtype=&name=&batch=``: the picture at edge × edge pixels, 3 · edge² numbers from 0 to 1."""
    specification.only("dtype", "name", "batch")
    text = specification.target
    if not text.isdecimal() or not 1 <= int(text) <= LARGEST:
        specification.refuse(f"pixels: takes an edge of 1 to {LARGEST} pixels, such as pixels:16.")
    size = int(text), int(text)
    preprocessing = Preprocessing(size=size, resize=size, rescale=1 / 255)
    network = lambda _, pixels: pixels.reshape(len(pixels), -1), {}, preprocessing
    return under_options(specification, settings, "pixels", network, batch=256)


_MEMBERS = ("name", "dim", "batch_size", "preprocessing", "prepare", "encode", "describe")


def load_python(specification: Specification, settings: Settings) -> Encoder:
    """Loads ``python:<module>:<callable>?name=&dtype=&batch=``; further options are the callable's arguments, as text.

    The callable returns an ``Encoder``, or ``(apply, params, preprocessing)`` as ``JaxEncoder`` takes them;
    ``preprocessing`` is a ``Preprocessing`` or a mapping of its fields.
    """
    module_name, colon, attribute = specification.target.partition(":")
    if not (module_name and colon and attribute):
        specification.refuse("expected python:<module>:<callable>, such as python:my_encoders:siglip.")
    factory = _find(specification, module_name, attribute)
    ours = [key for key in ("name", "dtype", "batch") if key in specification.options]
    theirs = {key: value for key, value in specification.options.items() if key not in ours}
    try:
        inspect.signature(factory).bind(**theirs)
    except TypeError as error:
        specification.refuse(f"{attribute} does not take the options {sorted(theirs)} ({error}).")
    except ValueError:
        pass  # a callable that has no signature to look at
    facts = provenance(specification, sys.modules[module_name], theirs)
    made = factory(**theirs)
    if isinstance(made, tuple):
        network = _network(specification, made, attribute)
        encoder = under_options(specification, settings, attribute, network, lambda: facts)
        facts["program_sha256"] = encoder.program_digest()
        return encoder
    missing = [member for member in _MEMBERS if not hasattr(made, member)]
    if missing:
        specification.refuse(
            f"{attribute} must return (apply, params, preprocessing) or an object with {', '.join(_MEMBERS)}; got "
            f"{type(made).__name__} without {', '.join(missing)}."
        )
    if ours:
        options = ", ".join(ours)
        specification.refuse(f"{attribute} returns an encoder of its own, which {options} cannot change.")
    return OwnEncoder(made, facts)


def _find(specification: Specification, module_name: str, attribute: str) -> Any:
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name + ".").startswith(error.name + "."):
            specification.refuse(f"module {module_name} needs {error.name}, which is not installed.")
        specification.refuse(f"there is no module {module_name} on Python's path.")
    for part in attribute.split("."):
        if not hasattr(found, part):
            specification.refuse(f"module {module_name} has no {attribute}.")
        found = getattr(found, part)
    if not callable(found):
        specification.refuse(f"{attribute} in {module_name} is {type(found).__name__}, expected a callable.")
    return found


def _network(specification: Specification, made: tuple, attribute: str) -> tuple[Apply, Any, Preprocessing]:
    if len(made) != 3 or not callable(made[0]):
        expected = "(apply, params, preprocessing)"
        specification.refuse(f"{attribute} must return {expected}, got a tuple of {len(made)}.")
    apply, params, given = made
    try:
        preprocessing = Preprocessing(**given) if isinstance(given, Mapping) else given
    except (TypeError, UserError) as error:
        specification.refuse(f"{attribute} returned a preprocessing that does not fit: {error}")
    if not isinstance(preprocessing, Preprocessing):
        kind = type(given).__name__
        specification.refuse(f"{attribute} returned {kind} as preprocessing, expected a Preprocessing.")
    return apply, params, preprocessing


def load_zoo(specification: Specification, settings: Settings) -> JaxEncoder:
    """Loads ``zoo:<name>?dtype=&name=&batch=``."""
    from jaxalign.vision import zoo

    name = specification.target
    specification.only("dtype", "name", "batch")
    try:
        encoder, card = zoo.load(name), zoo.card(name)
    except UserError as error:
        specification.refuse(str(error))
    network = encoder.apply, encoder.params, Preprocessing(size=(64, 64), resize=(64, 64))
    facts = {"card": card, "weights_sha256": digest([zoo.weights_path(name)])}
    return under_options(specification, settings, name, network, lambda: facts, batch=64, dim=encoder.width)
