"""The bundled miniature zoo: small encoders of different families for 64 × 64 images of procedural faces."""

from jaxalign.vision.zoo.bundled import FOLDER as FOLDER
from jaxalign.vision.zoo.bundled import ZooEncoder as ZooEncoder
from jaxalign.vision.zoo.bundled import card as card
from jaxalign.vision.zoo.bundled import card_path as card_path
from jaxalign.vision.zoo.bundled import count as count
from jaxalign.vision.zoo.bundled import describe as describe
from jaxalign.vision.zoo.bundled import load as load
from jaxalign.vision.zoo.bundled import pack as pack
from jaxalign.vision.zoo.bundled import shipped as shipped
from jaxalign.vision.zoo.bundled import weights_path as weights_path
from jaxalign.vision.zoo.encoder_training import Pool as Pool
from jaxalign.vision.zoo.encoder_training import train as train
from jaxalign.vision.zoo.specification import ZOO as ZOO
from jaxalign.vision.zoo.specification import Recipe as Recipe
