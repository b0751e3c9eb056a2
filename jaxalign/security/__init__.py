"""What a linear map between encoders lets an attacker do: measurements on one's own systems."""

from jaxalign.security.injection import Attack, System, pairs_needed, require_others
from jaxalign.security.linkability import Estimate, Linkability, People, linkability
from jaxalign.security.reidentification import Reidentification, extrapolated, reidentify

__all__ = [
    "Attack",
    "Estimate",
    "Linkability",
    "People",
    "Reidentification",
    "System",
    "extrapolated",
    "linkability",
    "pairs_needed",
    "reidentify",
    "require_others",
]
