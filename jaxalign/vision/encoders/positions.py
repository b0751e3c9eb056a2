"""Position embeddings of a vision transformer at another number of patches."""

import numpy as np
from jaxtyping import Float

CUBIC = -0.75  # the kernel's parameter in PyTorch; JAX and Pillow have −0.5


def resample_positions(
    positions: Float[np.ndarray, "1 tokens d"], patches: int
) -> Float[np.ndarray, "1 resampled d"]:
    """Resamples the square grid of patch positions, bicubically; the class token's stays.

    Equivalent: ``torch.nn.functional.interpolate(grid, size=(patches, patches), mode="bicubic", align_corners=False)``.

    Args:
      positions: float32, shape [1, 1 + k², d], the class token first.
      patches: patches along an edge of the result.

    Returns:
      float32, shape [1, 1 + patches², d].
    """
    grid = round((positions.shape[1] - 1) ** 0.5)
    if grid == patches:
        return positions
    weights = _cubic(grid, patches)
    old = positions[0, 1:].reshape(grid, grid, -1).astype(np.float64)
    new = np.einsum("ih,jw,hwd->ijd", weights, weights, old, optimize=True)
    resampled = np.concatenate([positions[0, :1], new.reshape(patches * patches, -1)])
    return resampled[None].astype(np.float32)


def _cubic(old: int, new: int) -> Float[np.ndarray, "new old"]:
    """Row i has the weights of the old samples in new sample i; samples beyond the border repeat the last one."""
    centre = (np.arange(new) + 0.5) * (old / new) - 0.5
    first = np.floor(centre).astype(int)
    weights = np.zeros((new, old))
    for step in range(-1, 3):
        distance = np.abs(centre - (first + step))
        near = ((CUBIC + 2) * distance - (CUBIC + 3)) * distance**2 + 1
        far = ((CUBIC * distance - 5 * CUBIC) * distance + 8 * CUBIC) * distance - 4 * CUBIC
        index = np.clip(first + step, 0, old - 1)
        np.add.at(weights, (np.arange(new), index), np.where(distance <= 1, near, far))
    return weights
