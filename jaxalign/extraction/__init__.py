"""From photographs to a store of embeddings: every encoder over one decoding pass, resumed after a kill."""

from jaxalign.extraction.extract import extract
from jaxalign.extraction.view import EncoderView

__all__ = ["EncoderView", "extract"]
