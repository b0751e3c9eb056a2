"""Vision towers as Flax NNX modules: one file for each kind of network.

A file of a tower has

- ``read(kind, config, names)``: what the module needs, by the checkpoint's config.json and names of tensors: a
  dataclass whose fields name their keys in config.json and the defaults (``config.key``);
- ``Tower(config, rngs)``: the module; ``tower(pixels, layer)`` gives ``TowerFeatures`` of pixels [n, height, width, 3],
  and ``tower(pixels)`` of a face network its embeddings [n, dim];
- ``NAMES``: patterns and replacements that turn a checkpoint's names of tensors into the module's own, in order.

A module's own names are its attributes, so ``blocks.0.norm1.weight`` is the scale of ``tower.blocks[0].norm1``.
"""
