"""Frozen encoders: images in, embeddings out."""
