"""Networks and their layers, in Flax. No other package imports flax."""

from mq_jax.models.activation import QuantizedInput as QuantizedInput
from mq_jax.models.batch_norm import BatchNorm as BatchNorm
from mq_jax.models.batch_norm import batch_statistics as batch_statistics
from mq_jax.models.calibration import measure_numbers as measure_numbers
from mq_jax.models.folding import fold_norms as fold_norms
from mq_jax.models.folding import fold_scales as fold_scales
from mq_jax.models.gpt import Gpt as Gpt
from mq_jax.models.gpt import gpt as gpt
from mq_jax.models.mobilenet import MobileNetV2 as MobileNetV2
from mq_jax.models.mobilenet import mobilenet_v2 as mobilenet_v2
from mq_jax.models.residual import ResNet as ResNet
from mq_jax.models.resnet import resnet as resnet
from mq_jax.models.resnet import resnet8 as resnet8
from mq_jax.models.resnet import resnet18 as resnet18
from mq_jax.models.resnet import resnet20 as resnet20
from mq_jax.models.resnet import resnet32 as resnet32
from mq_jax.models.resnet import resnet34 as resnet34
from mq_jax.models.resnet import resnet44 as resnet44
from mq_jax.models.resnet import resnet50 as resnet50
from mq_jax.models.resnet import resnet56 as resnet56
from mq_jax.models.resnet import resnet110 as resnet110
from mq_jax.models.unfolding import unfold_norms as unfold_norms
from mq_jax.models.vgg import labnet as labnet
from mq_jax.models.vgg import vgg_small as vgg_small
from mq_jax.packing.levels import scale_of as scale_of
