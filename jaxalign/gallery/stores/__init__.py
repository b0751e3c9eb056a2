"""Galleries where they live: one file a kind, each with its client, all with the interface of ``base.Gallery``."""

from jaxalign.gallery.stores.kinds import Gallery, Move, open_gallery

__all__ = ["Gallery", "Move", "open_gallery"]
