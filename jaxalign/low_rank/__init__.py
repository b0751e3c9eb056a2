"""Maps of low rank fitted by gradient: losses that no closed form minimises, for all pairs of encoders at once."""

from jaxalign.low_rank.fit import LowRankMaps, fit_low_rank
from jaxalign.low_rank.joint import fit_joint_space
from jaxalign.low_rank.losses import LOSSES
from jaxalign.low_rank.settings import LowRankSettings
from jaxalign.low_rank.training import History

__all__ = ["LOSSES", "History", "LowRankMaps", "LowRankSettings", "fit_joint_space", "fit_low_rank"]
