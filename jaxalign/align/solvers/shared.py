"""One space for K encoders: K maps instead of one for each of the K (K − 1) ordered pairs."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxalign.align.affine import AffineMap
from jaxalign.align.options import require_known
from jaxalign.align.solvers.base import AllPairsMethod, Fit, Fitted, Pair, Training
from jaxalign.align.solvers.canonical import Covariance
from jaxalign.align.solvers.spectrum import leading_eigenpairs, weights_hold
from jaxalign.core import checks
from jaxalign.core.errors import UserError
from jaxalign.core.precision import double_precision, multiply, multiply_transposed
from jaxalign.core.pytree import Shown, pytree, static
from jaxalign.moments.moments import FoldMoments, Moments


@pytree
class SharedSpace(Shown):
    """Maps of K encoders into one space.

    Attributes:
      maps: one for each encoder, into the shared space.
      agreement: eigenvalues of the space's dimensions, descending, shape [r].
      product: covariance of each two encoders' mapped rows by dimension, shape [K, K, r].
      ok: whether the numbers can be trusted.
      names: the encoders.
    """

    maps: tuple[AffineMap, ...]
    agreement: Float[Array, " r"]
    product: Float[Array, "K K r"]
    ok: Bool[Array, ""]
    names: tuple[str, ...] = static()

    def __getitem__(self, name: str) -> AffineMap:
        """The map of one encoder."""
        if name not in self.names:
            raise UserError(f"encoder {name!r} is not in this space; it holds {', '.join(self.names)}")
        return self.maps[self.names.index(name)]

    def __repr__(self) -> str:
        """The dimensions, and each encoder with its width."""
        widths = ", ".join(f"{name} ({map_.in_dim})" for name, map_ in zip(self.names, self.maps))
        return f"SharedSpace({self.maps[0].out_dim} dimensions of {widths})"

    def on_host(self) -> SharedSpace:
        """The same space with numpy leaves."""
        return jax.tree.map(np.asarray, self)

    def fit(self, source: str, target: str) -> Fit:
        """Both sides of one ordered pair. ``effective_rank`` is (Σ agreement)² / Σ agreement²."""
        i, j = self.names.index(source), self.names.index(target)
        xp = self.agreement.__array_namespace__()  # NumPy on the host, where a sweep reads pairs one by one
        agreement = xp.maximum(self.agreement, 0)
        return Fit(
            self[source],
            self[target],
            xp.maximum(self.product[i, i] + self.product[j, j] - 2 * self.product[i, j], 0),
            self.product[j, j],
            agreement.sum() ** 2 / xp.sum(agreement**2),
            agreement[0] / xp.min(xp.where(agreement > 0, agreement, xp.inf)),
            self.ok,
            self.product[i, i],
        )


@dataclasses.dataclass(frozen=True)
class Shared(AllPairsMethod):
    """One space for all encoders at once.

    Each encoder is whitened partly, Tᵢ = Cᵢᵢ^(−q/2) (shrunk, q = ``whitening``) scaled to mean squared norm 1. The
    matrix with blocks Tᵢ Mᵢⱼ Tⱼ for i ≠ j and zero for i = j, so that only what encoders agree on counts, has top
    eigenvectors V with eigenvalues s; the map of encoder i is Tᵢ Vᵢ (s / s₁)ᵖ with p = ``weighting``.

    Attributes:
      rank: the largest number of dimensions of the space, which has no more than the sum of the widths; None for
        the largest width.
      whitening: q, from 0 to 1.
      weighting: p ≥ 0.
      shrinkage: of every covariance towards its mean variance, from 0 to 1.
    """

    ranked = True

    rank: int | None = 96
    whitening: float = 0.75
    weighting: float = 0.75
    shrinkage: float = 0.05

    def validate(self) -> None:
        """Raises ``UserError`` for a setting out of its range."""
        checks.whitening_settings(self.whitening, self.weighting, self.shrinkage)
        checks.rank(self.rank)

    def space(self, p: int, q: int) -> int:
        """Width of the space of two encoders of widths p and q."""
        return min(self.rank or max(p, q), p + q)

    def space_of(self, total: Moments) -> SharedSpace:
        """The space of all encoders of these moments. Raises ``UserError`` for fewer than two."""
        if len(total.names) < 2:
            raise UserError(f"a shared space needs at least two encoders, got {', '.join(total.names)}")
        rank = min(self.rank or max(total.widths), sum(total.widths))
        with double_precision():
            settings = jnp.asarray(self.whitening), jnp.asarray(self.shrinkage)
            transforms, agreement, sound = _whitened(total, *settings)
            leading = leading_eigenpairs(agreement, rank)
            space = _space(total, transforms, *leading, jnp.asarray(self.weighting))
            return dataclasses.replace(space, ok=space.ok & sound)

    def fit_all(self, training: Training, pairs: Sequence[Pair]) -> Fitted:
        """The pairs of the space of all encoders, whichever pairs are asked for."""
        space = self.space_of(training.total).on_host()
        settings = {**dataclasses.asdict(self), "rank": space.maps[0].out_dim}
        fits = {pair: functools.partial(space.fit, *pair) for pair in pairs}
        return Fitted(fits, dict.fromkeys(pairs, settings), {})


def fit_shared_space(moments: FoldMoments | Moments, **settings: Any) -> SharedSpace:
    """Fits one space to all encoders.

    Args:
      moments: of at least two encoders.
      **settings: fields of ``Shared``.

    Raises:
      UserError: no moments, fewer than two encoders, an unknown setting or one out of its range.
    """
    require_known("fit_shared_space", settings, Shared.options(), ())
    if not isinstance(moments, FoldMoments | Moments):
        raise UserError(
            f"moments: expected those of the rows, such as FoldMoments.of(embeddings), got {type(moments).__name__}"
        )
    method = Shared(**settings)
    method.validate()
    return method.space_of(moments.total if isinstance(moments, FoldMoments) else moments)


@jax.jit
def _whitened(total: Moments, whitening: Array, shrinkage: Array) -> tuple[list[Array], Array, Array]:
    """Every encoder's Tᵢ; the matrix of what they agree on, of blocks Tᵢᵀ Mᵢⱼ Tⱼ for i ≠ j; whether to trust both."""
    spans, second = [*map(total.span, total.names)], total.scatter / total.weight
    transforms, sound = [], jnp.asarray(True)
    for span, width in zip(spans, total.widths):
        own = Covariance.of(total.scatter[span, span], total.weight, width)
        transform = own.whitening(whitening, shrinkage)
        sound &= own.trusted(whitening, shrinkage)
        power = jnp.sum(multiply(second[span, span], transform) * transform)
        transforms.append(transform / jnp.sqrt(jnp.where(power > 0, power, 1)))
    half = [multiply_transposed(left, second[span]) for left, span in zip(transforms, spans)]
    across = jnp.concatenate(half)
    whole = [multiply(across[:, span], right) for right, span in zip(transforms, spans)]
    encoder = np.repeat(np.arange(len(spans)), total.widths)
    agreement = jnp.where(encoder[:, None] == encoder, 0, jnp.concatenate(whole, axis=1))
    return transforms, agreement, sound


@jax.jit
def _space(
    total: Moments, transforms: list[Array], values: Array, vectors: Array, weighting: Array
) -> SharedSpace:
    """The space of the leading eigenpairs, descending."""
    spans, second, rank = [*map(total.span, total.names)], total.scatter / total.weight, len(values)
    relative = values / jnp.where(values[0] > 0, values[0], 1)
    kept = relative > jnp.finfo(values.dtype).eps * len(vectors)
    weight = jnp.where(kept, jnp.where(kept, relative, 1) ** weighting, 0)
    factors = [multiply(transform, vectors[span]) * weight for transform, span in zip(transforms, spans)]
    mapped = [multiply(second[:, span], factor) for span, factor in zip(spans, factors)]  # M[:, i] Fᵢ
    product = jnp.stack(
        [
            jnp.stack([jnp.sum(one[span] * factor, axis=0) for span, factor in zip(spans, factors)])
            for one in mapped
        ]
    )
    maps = tuple(
        AffineMap((factor,), jnp.zeros(rank, factor.dtype), total.mean[span])
        for span, factor in zip(spans, factors)
    )
    ok = (values[0] > 0) & jnp.isfinite(product).all() & weights_hold(relative, weight)
    return SharedSpace(maps, values, product, ok, total.names)
