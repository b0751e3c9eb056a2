"""From photographs to embeddings."""

from jaxalign.vision.encoders import load_encoder as load_encoder
