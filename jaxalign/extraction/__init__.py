"""From photographs to a store of embeddings: every encoder over one decoding pass, resumed after a kill."""

from jaxalign.extraction.extract import extract

__all__ = ["extract"]
