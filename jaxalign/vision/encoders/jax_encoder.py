"""An encoder that runs in JAX: one compiled program for all batches, spread over the local devices."""

import collections
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, UInt8

from jaxalign.core.errors import UserError
from jaxalign.vision.encoders.preprocessing import Preprocessing, check_images

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
