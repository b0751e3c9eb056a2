"""Frozen encoders: from photographs to embeddings, through Flax, onnxruntime or a callable of the user's."""

from jaxalign.vision.encoders.encoder import Encoder as Encoder
from jaxalign.vision.encoders.encoder import Preprocessing as Preprocessing
from jaxalign.vision.encoders.jax_encoder import JaxEncoder as JaxEncoder
from jaxalign.vision.encoders.load import ALIASES as ALIASES
from jaxalign.vision.encoders.load import FORMS as FORMS
from jaxalign.vision.encoders.load import Settings as Settings
from jaxalign.vision.encoders.load import Specification as Specification
from jaxalign.vision.encoders.load import load_encoder as load_encoder
from jaxalign.vision.encoders.load import parse_specification as parse_specification
from jaxalign.vision.encoders.preprocessor import read_preprocessing as read_preprocessing
