"""One run on several hosts: who they are, links between them, shares of the work, moments summed over them."""

from jaxalign.moments.hosts.hosts import ALONE, Hosts
from jaxalign.moments.hosts.links import REACH_SECONDS, SILENT_SECONDS, Links, end_process
from jaxalign.moments.hosts.place import Place

__all__ = ["ALONE", "REACH_SECONDS", "SILENT_SECONDS", "Hosts", "Links", "Place", "end_process"]
