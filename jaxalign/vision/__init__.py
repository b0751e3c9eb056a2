"""From photographs to stores of embeddings: images, synthetic faces, encoders, extraction."""
