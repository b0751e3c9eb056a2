"""What every encoder is, whatever runs it."""

from typing import Any, Protocol, runtime_checkable

import numpy as np

from jaxalign.vision.encoders.preprocessing import Preprocessing


@runtime_checkable
class Encoder(Protocol):
    """A frozen network from photographs to embeddings.

    Attributes:
      name: short, of letters, digits and ``_ . + @ -``; what the columns of tables and files of stores are called.
      dim: width of the embeddings.
      batch_size: pictures in one batch of the network. ``encode`` takes any number; multiples waste nothing.
      preprocessing: how pictures are made ready; ``preprocessing.size`` is the input's (height, width).
    """

    @property
    def name(self) -> str: ...

    @property
    def dim(self) -> int: ...

    @property
    def batch_size(self) -> int: ...

    @property
    def preprocessing(self) -> Preprocessing: ...

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """One RGB picture of any size, uint8 [h, w, 3], as uint8 [height, width, 3]; safe to call from threads.

        It does what ``preprocessing`` says: encoders of equal preprocessing may be given one another's pictures.
        """
        ...

    def encode(self, images: np.ndarray) -> np.ndarray:
        """Prepared pictures, uint8 [n, height, width, 3], to float32 [n, dim], not normalised in length."""
        ...

    def describe(self) -> dict[str, Any]:
        """What the numbers depend on, in JSON's types: two encoders that say the same give the same embeddings."""
        ...
