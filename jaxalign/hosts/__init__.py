"""One run on several hosts: who they are, links between them, shares of the work, moments summed over them."""

from jaxalign.hosts.hosts import ALONE, Hosts
from jaxalign.hosts.links import REACH_SECONDS, SILENT_SECONDS, Links, end_process
from jaxalign.hosts.place import Place

__all__ = ["ALONE", "REACH_SECONDS", "SILENT_SECONDS", "Hosts", "Links", "Place", "end_process"]
