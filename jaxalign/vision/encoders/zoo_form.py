"""``zoo:``: the small encoders that ship with the package."""

from jaxalign.core.errors import UserError
from jaxalign.vision.encoders.jax_encoder import JaxEncoder
from jaxalign.vision.encoders.preprocessing import Preprocessing
from jaxalign.vision.encoders.specification import Settings, Specification

SIZE = (64, 64)
DEFAULT_BATCH = 64


def load_zoo(specification: Specification, settings: Settings) -> JaxEncoder:
    """Loads ``zoo:<name>?dtype=&name=&batch=``.

    Raises:
      UserError: the zoo has no such encoder, or its weights are missing.
    """
    from jaxalign.vision.zoo import ZOO, card, load

    specification.only("dtype", "name", "batch")
    if specification.target not in ZOO:
        specification.refuse(f"the zoo has {', '.join(ZOO)}.")
    try:
        encoder, made = load(specification.target), card(specification.target)
    except UserError as error:
        specification.refuse(str(error))
    return JaxEncoder(
        specification.name(specification.target),
        encoder.apply,
        encoder.params,
        Preprocessing(size=SIZE, resize=SIZE),
        batch_size=specification.batch_size(settings, DEFAULT_BATCH),
        dtype=specification.dtype(settings),
        devices=settings.devices,
        dim=encoder.width,
        facts=lambda: {"form": "zoo", "card": made},
    )
