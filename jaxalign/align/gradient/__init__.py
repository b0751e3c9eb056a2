"""Maps fitted by gradient: losses that no closed form minimises, for all pairs of encoders at once."""

from jaxalign.align.gradient.losses import LOSSES
from jaxalign.align.gradient.low_rank import Joint, LowRank
from jaxalign.align.gradient.training import History

__all__ = ["LOSSES", "History", "Joint", "LowRank"]
