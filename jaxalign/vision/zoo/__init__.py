"""The bundled miniature zoo: small encoders of different families for 64 × 64 images of procedural faces."""

from jaxalign.vision.zoo.specification import ZOO as ZOO
from jaxalign.vision.zoo.specification import Recipe as Recipe
from jaxalign.vision.zoo.training import Pool as Pool
from jaxalign.vision.zoo.training import train as train
from jaxalign.vision.zoo.weights import FOLDER as FOLDER
from jaxalign.vision.zoo.weights import ZooEncoder as ZooEncoder
from jaxalign.vision.zoo.weights import card as card
from jaxalign.vision.zoo.weights import card_path as card_path
from jaxalign.vision.zoo.weights import count as count
from jaxalign.vision.zoo.weights import describe as describe
from jaxalign.vision.zoo.weights import load as load
from jaxalign.vision.zoo.weights import pack as pack
from jaxalign.vision.zoo.weights import shipped as shipped
from jaxalign.vision.zoo.weights import weights_path as weights_path
