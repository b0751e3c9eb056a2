"""Embeddings of one data set under many encoders, on disk and memory-mapped."""

from jaxalign.data.derive import join
from jaxalign.data.manifest import check_encoder_name
from jaxalign.data.store import EmbeddingStore

__all__ = ["EmbeddingStore", "check_encoder_name", "join"]
