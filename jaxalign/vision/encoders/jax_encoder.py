"""Encoders that are JAX functions: bundled networks, plain pixels, and the user's own callables."""

import collections
import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, UInt8

from jaxalign.core.errors import UserError
from jaxalign.vision.encoders.base import Encoder, Preprocessing, check_images
from jaxalign.vision.encoders.load import Settings, Specification

DEFAULT_BATCH = 32
IN_FLIGHT = 2  # batches on the device at once: the next one is copied while one is computed

Apply = Callable[[Any, Float[Array, "n height width 3"]], Float[Array, "n dim"]]


class JaxEncoder:
    """A function of pixels with frozen weights, as an ``Encoder``.

    Every batch is padded to ``batch_size``, so one program serves all; each device computes its share of the batch
    alone, with a copy of the weights. In float32, matrix products run at full precision on every kind of device.

    Attributes: see ``Encoder``.
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
        facts: Callable[[], Mapping[str, Any]] | None = None,
    ) -> None:
        """Puts the weights on the devices; compiles nothing yet.

        Args:
          name: of the encoder.
          apply: (params, pixels) to embeddings. Pixels are [n, height, width, 3] in ``dtype``, already rescaled,
            centred and divided; the result is [n, dim] in any floating format. It must treat each picture alone, be
            free of side effects and work under ``jit``.
          params: the weights, any pytree. Floating leaves are cast to ``dtype``, except under a key "batch_stats".
          preprocessing: how pictures are made ready.
          batch_size: rounded up to a multiple of the number of devices.
          dtype: "float32" or "bfloat16".
          devices: local ones; all where None.
          dim: width of an embedding; where None, ``apply`` is traced once to find it.
          facts: further entries of ``describe``; called when it is.

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
        weights = jax.tree_util.tree_map_with_path(self._cast, params)
        self._params = jax.device_put(weights, NamedSharding(mesh, P()))
        # A global setting of the caller's must not change the numbers: the precision is part of the program.
        precision = "highest" if dtype == "float32" else "default"

        def encode(params: Any, images: UInt8[Array, "n height width 3"]) -> Float[Array, "n dim"]:
            with jax.default_matmul_precision(precision):
                return apply(params, self._normalised(images)).astype(jnp.float32)

        local = jax.shard_map(
            encode, mesh=mesh, in_specs=(P(), P("batch")), out_specs=P("batch"), check_vma=False
        )
        self._program = jax.jit(local)
        self.dim = self._width(encode) if dim is None else dim

    def _width(self, encode: Callable[[Any, Any], jax.Array]) -> int:
        pictures = jax.ShapeDtypeStruct((2, *self.preprocessing.size, 3), jnp.uint8)
        result = jax.eval_shape(encode, self._params, pictures)
        if len(result.shape) != 2 or result.shape[0] != 2:
            raise UserError(
                f"encoder {self.name!r}: expected [n, width] from n pictures, got shape {result.shape} from 2 pictures."
            )
        return int(result.shape[1])

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """See ``Preprocessing.prepare``."""
        return self.preprocessing.prepare(image)

    def encode(self, images: np.ndarray) -> np.ndarray:
        """Embeds prepared pictures.

        Args:
          images: uint8, shape [n, height, width, 3], RGB.

        Returns:
          float32, shape [n, dim], as the network gives them (not normalised in length).

        Raises:
          UserError: pictures of another shape or format.
        """
        images = check_images(images, self.preprocessing.size, self.name)
        rows = np.empty((len(images), self.dim), np.float32)
        running: collections.deque[tuple[int, jax.Array]] = collections.deque()
        for start in range(0, len(images), self.batch_size):
            running.append((start, self._dispatch(images[start : start + self.batch_size])))
            if len(running) == IN_FLIGHT:
                self._collect(running, rows)
        while running:
            self._collect(running, rows)
        return rows

    def describe(self) -> dict[str, Any]:
        """See ``Encoder.describe``."""
        return {
            "dim": self.dim,
            "dtype": self._dtype.name,
            "preprocessing": self.preprocessing.describe(),
            **(self._facts() if self._facts else {}),
        }

    def _cast(self, path: tuple[Any, ...], leaf: Any) -> Any:
        """Running statistics of batch normalisation keep float32: their variances span too many powers of two."""
        if not jnp.issubdtype(getattr(leaf, "dtype", None) or np.asarray(leaf).dtype, jnp.floating):
            return leaf
        keep = any(getattr(key, "key", None) == "batch_stats" for key in path)
        # By numpy: on the device each shape of weights would be a program of its own.
        return np.asarray(leaf).astype(np.float32 if keep else self._dtype)

    def _normalised(self, images: UInt8[Array, "n height width 3"]) -> Float[Array, "n height width 3"]:
        given = self.preprocessing
        ordered = images if given.color == "RGB" else images[..., ::-1]
        pixels = ordered.astype(jnp.float32) * jnp.float32(given.rescale)
        mean, std = jnp.asarray(given.mean, jnp.float32), jnp.asarray(given.std, jnp.float32)
        return ((pixels - mean) / std).astype(self._dtype)

    def _dispatch(self, images: np.ndarray) -> jax.Array:
        """Starts one batch and does not wait for it."""
        if len(images) < self.batch_size:
            batch = np.zeros((self.batch_size, *images.shape[1:]), np.uint8)
            batch[: len(images)] = images
        else:
            batch = np.ascontiguousarray(images)
        return self._program(self._params, jax.device_put(batch, self._batch))

    def _collect(self, running: collections.deque[tuple[int, jax.Array]], rows: np.ndarray) -> None:
        start, result = running.popleft()
        rows[start : start + self.batch_size] = np.asarray(result)[: len(rows) - start]


LARGEST = 64  # pixels along an edge: 12,288 numbers a picture
PIXELS_BATCH = 256


def load_pixels(specification: Specification, settings: Settings) -> JaxEncoder:
    """Loads ``pixels:<edge>?dtype=&name=&batch=``: the picture at edge × edge pixels, 3 · edge² numbers from 0 to 1.

    Raises:
      UserError: the edge is no whole number from 1 to ``LARGEST``.
    """
    specification.only("dtype", "name", "batch")
    text = specification.target
    if not text.isdecimal() or not 1 <= int(text) <= LARGEST:
        specification.refuse(f"pixels: takes an edge of 1 to {LARGEST} pixels, such as pixels:16.")
    size = int(text), int(text)
    return JaxEncoder(
        specification.name("pixels"),
        _flat,
        {},
        Preprocessing(size=size, resize=size, rescale=1 / 255),
        batch_size=specification.batch_size(settings, PIXELS_BATCH),
        dtype=specification.dtype(settings),
        devices=settings.devices,
        facts=lambda: {"form": "pixels"},
    )


def _flat(_: dict, pixels: Float[Array, "n height width 3"]) -> Float[Array, "n dim"]:
    return pixels.reshape(len(pixels), -1)


_MEMBERS = ("name", "dim", "batch_size", "preprocessing", "prepare", "encode", "describe")


def load_python(specification: Specification, settings: Settings) -> Encoder:
    """Loads ``python:<module>:<callable>?name=&dtype=&batch=``; further options are the callable's arguments, as text.

    The callable returns an ``Encoder``, or ``(apply, params, preprocessing)`` as ``JaxEncoder`` takes them;
    ``preprocessing`` is a ``Preprocessing`` or a mapping of its fields.

    Raises:
      UserError: the module or the callable is not there, does not take the options, or returns something else.
    """
    module_name, colon, attribute = specification.target.partition(":")
    if not (module_name and colon and attribute):
        specification.refuse("expected python:<module>:<callable>, such as python:my_encoders:siglip.")
    factory = _find(specification, module_name, attribute)
    own = {
        key: value for key, value in specification.options.items() if key not in ("name", "dtype", "batch")
    }
    try:
        inspect.signature(factory).bind(**own)
    except TypeError as error:
        specification.refuse(f"{attribute} does not take the options {sorted(own)} ({error}).")
    except ValueError:
        pass  # a callable that has no signature to look at
    made = factory(**own)
    if isinstance(made, tuple):
        return _jax_encoder(specification, settings, made, attribute, own)
    missing = [member for member in _MEMBERS if not hasattr(made, member)]
    if missing:
        specification.refuse(
            f"{attribute} must return (apply, params, preprocessing) or an object with {', '.join(_MEMBERS)}; got "
            f"{type(made).__name__} without {', '.join(missing)}."
        )
    ignored = [key for key in ("name", "dtype", "batch") if key in specification.options]
    if ignored:
        specification.refuse(
            f"{attribute} returns an encoder of its own, which {', '.join(ignored)} cannot change."
        )
    return made


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


def _jax_encoder(
    specification: Specification,
    settings: Settings,
    made: tuple[Any, ...],
    attribute: str,
    own: dict[str, str],
) -> JaxEncoder:
    if len(made) != 3 or not callable(made[0]):
        specification.refuse(
            f"{attribute} must return (apply, params, preprocessing), got a tuple of {len(made)}."
        )
    apply, params, given = made
    try:
        preprocessing = Preprocessing(**given) if isinstance(given, Mapping) else given
    except (TypeError, UserError) as error:
        specification.refuse(f"{attribute} returned a preprocessing that does not fit: {error}")
    if not isinstance(preprocessing, Preprocessing):
        specification.refuse(
            f"{attribute} returned {type(given).__name__} as preprocessing, expected a Preprocessing."
        )
    return JaxEncoder(
        specification.name(attribute),
        apply,
        params,
        preprocessing,
        batch_size=specification.batch_size(settings, DEFAULT_BATCH),
        dtype=specification.dtype(settings),
        devices=settings.devices,
        facts=lambda: {
            "form": "python",
            "source": specification.target,
            "options": own,
        },
    )


ZOO_SIZE = (64, 64)
ZOO_BATCH = 64


def load_zoo(specification: Specification, settings: Settings) -> JaxEncoder:
    """Loads ``zoo:<name>?dtype=&name=&batch=``.

    Raises:
      UserError: the zoo has no such encoder, or its weights are missing.
    """
    from jaxalign.vision.zoo import ZOO, card, load

    specification.only("dtype", "name", "batch")
    if specification.target not in ZOO:
        specification.refuse(f"the zoo has {', '.join(ZOO)}.")
    try:
        encoder, made = load(specification.target), card(specification.target)
    except UserError as error:
        specification.refuse(str(error))
    return JaxEncoder(
        specification.name(specification.target),
        encoder.apply,
        encoder.params,
        Preprocessing(size=ZOO_SIZE, resize=ZOO_SIZE),
        batch_size=specification.batch_size(settings, ZOO_BATCH),
        dtype=specification.dtype(settings),
        devices=settings.devices,
        dim=encoder.width,
        facts=lambda: {"form": "zoo", "card": made},
    )
