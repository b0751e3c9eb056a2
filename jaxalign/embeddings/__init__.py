"""Embeddings of one data set under many encoders, on disk and memory-mapped."""

from jaxalign.embeddings.joined import join
from jaxalign.embeddings.manifest import check_encoder_name
from jaxalign.embeddings.store import EmbeddingStore

__all__ = ["EmbeddingStore", "check_encoder_name", "join"]
