"""The table of the zoo: who is in it, how each is built, and how each was trained."""

import dataclasses

import flax.linen as nn

from jaxalign.vision.zoo import bodies
from jaxalign.vision.zoo.augment import Augmentation
from jaxalign.vision.zoo.encoder_losses import Attributes, Contrastive, Loss, Margin, Reconstruction, Triplet

GENTLE = Augmentation()


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One encoder.

    Attributes:
      body: the network, which has a field ``width``.
      family: what kind of encoder it is, in a few words.
      loss: what it is trained for; None is not trained.
      seed: of its initial weights, its batches and its augmentation. No two encoders share one: encoders that start
        from the same weights are compatible without any alignment.
      steps: of training; fixed, so that the result does not depend on the machine's speed.
      batch: photographs in a step.
      rate: peak of the learning rate.
      each: photographs of each person in a batch; 1 draws photographs, not people.
      augmentation: what training changes about a photograph.
    """

    body: nn.Module
    family: str
    loss: Loss | None
    seed: int
    steps: int = 1800
    batch: int = 64
    rate: float = 3e-3
    each: int = 1
    augmentation: Augmentation = GENTLE

    @property
    def width(self) -> int:
        """Width of the embedding."""
        return self.body.width  # pyright: ignore[reportAttributeAccessIssue]


# Fourteen of the forty traits: head, eyes, brows, nose, mouth and ears in broad strokes, as an annotator would note
# them. A test holds their names.
ATTRIBUTES = Attributes(columns=(0, 1, 2, 3, 5, 7, 9, 13, 16, 18, 20, 21, 25, 29))
# Two views of a photograph share its light, colour and pose, by which a network would find them without the face.
VIEWS = Augmentation(
    shift=1, gain=0.3, grain=6.0, cutout=12, border=12, views=2, light=0.8, grey=True, warp=0.03
)

ARCFACE = Margin(angular=True, margin=0.35)

ZOO: dict[str, Recipe] = {
    "arcface_plain": Recipe(bodies.Plain(128), "identity, angular margin", ARCFACE, seed=11),
    "arcface_squeeze": Recipe(bodies.SqueezeExcite(192), "identity, angular margin", ARCFACE, seed=23),
    "cosface_residual": Recipe(
        bodies.Residual(256), "identity, additive margin", Margin(angular=False, margin=0.30), seed=37
    ),
    "triplet_dense": Recipe(bodies.Dense(96), "identity, triplets", Triplet(), seed=41, batch=96, each=4),
    "vit_cosface": Recipe(
        bodies.Transformer(64),
        "identity, transformer",
        Margin(angular=False, margin=0.20),
        seed=53,
        steps=3600,
        rate=2e-3,
    ),
    "simclr_plain": Recipe(
        bodies.Plain(160, ((32, 2), (48, 2), (64, 2))),
        "self-supervised, contrastive",
        Contrastive(temperature=0.07),
        seed=67,
        steps=1500,
        batch=128,
        rate=2e-3,
        augmentation=VIEWS,
    ),
    "masked_autoencoder": Recipe(
        bodies.Plain(384, ((32, 2), (32, 2), (32, 2))),
        "self-supervised, masked autoencoding",
        Reconstruction(),
        seed=71,
        steps=1200,
        rate=2e-3,
        augmentation=Augmentation(masked=0.4),
    ),
    "attributes_plain": Recipe(
        bodies.Plain(80, ((32, 2), (48, 2), (64, 2))), "attribute regression", ATTRIBUTES, seed=83
    ),
    "untrained_residual": Recipe(
        bodies.Residual(320, (24, 32, 32)), "untrained control", None, seed=97, steps=0
    ),
}
