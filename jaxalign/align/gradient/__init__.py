"""Maps of low rank fitted by gradient: losses that no closed form minimises, for all pairs of encoders at once."""

from jaxalign.align.gradient.fit import LowRankMaps, fit_low_rank
from jaxalign.align.gradient.joint import fit_joint_space
from jaxalign.align.gradient.losses import LOSSES
from jaxalign.align.gradient.settings import LowRankSettings
from jaxalign.align.gradient.training import History

__all__ = ["LOSSES", "History", "LowRankMaps", "LowRankSettings", "fit_joint_space", "fit_low_rank"]
