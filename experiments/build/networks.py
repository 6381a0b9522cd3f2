"""Networks and the quantizers of their activations."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from ml_collections import ConfigDict

import mq_jax
from experiments.build.key import subset
from mq_jax import activations, models

DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}


class ActivationQuantizer(NamedTuple):
  """The declaration of what quantizes the inputs of layers.

  Attributes:
    make: `(keys) -> mq_jax.Activation`, or None for no quantization.
    reads: Configuration keys that it depends on.
  """

  make: Callable[[ConfigDict], mq_jax.Activation | None]
  reads: tuple[str, ...] = ()


_BITS = ('activation_bits',)
ACTIVATION_QUANTIZERS = {
  'relu': ActivationQuantizer(lambda keys: None),
  'sign': ActivationQuantizer(
    lambda keys: mq_jax.Activation(activations.sign, signed=True, binary=True)
  ),
  'bi_real': ActivationQuantizer(
    lambda keys: mq_jax.Activation(
      activations.bi_real_sign, signed=True, binary=True
    )
  ),
  'dorefa': ActivationQuantizer(
    lambda keys: mq_jax.Activation(
      activations.dorefa_activation(keys.activation_bits)
    ),
    _BITS,
  ),
  'hwgq': ActivationQuantizer(
    lambda keys: mq_jax.Activation(activations.hwgq(keys.activation_bits)),
    _BITS,
  ),
  # 10 is PACT's own start of the clip.
  'pact': ActivationQuantizer(
    lambda keys: mq_jax.Activation(
      activations.pact(keys.activation_bits), start=10.0
    ),
    _BITS,
  ),
  # LSQ's start, 2 E|x| / √(levels), for half a normal distribution, whose mean
  # is 0.4.
  'lsq': ActivationQuantizer(
    lambda keys: mq_jax.Activation(
      activations.lsq_activation(keys.activation_bits),
      start=0.8 / (2**keys.activation_bits - 1) ** 0.5,
    ),
    _BITS,
  ),
}


class Network(NamedTuple):
  """The declaration of a network.

  Attributes:
    make: `(keys, num_classes, activation) -> Linen module`.
    reads: Configuration keys that it depends on.
  """

  make: Callable[[ConfigDict, int, mq_jax.Activation | None], Any]
  reads: tuple[str, ...] = ('head_norm', 'dtype')


def _small_images(make: Callable[..., Any]) -> Network:
  """Declares a network of `mq_jax.models` for images of 32 by 32 pixels."""
  return Network(
    lambda keys, num_classes, activation: make(
      num_classes=num_classes,
      dtype=DTYPES[keys.dtype],
      activation=activation,
      head_norm=keys.head_norm,
    )
  )


NETWORKS = {
  'resnet8': _small_images(models.resnet8),
  'resnet20': _small_images(models.resnet20),
  'resnet32': _small_images(models.resnet32),
  'resnet44': _small_images(models.resnet44),
  'resnet56': _small_images(models.resnet56),
  'resnet110': _small_images(models.resnet110),
  'vgg_small': _small_images(models.vgg_small),
  'labnet': _small_images(models.labnet),
}


def make_activation(config: ConfigDict) -> mq_jax.Activation | None:
  """Makes what `config.activation_quantizer` names; None: not quantized.

  Raises:
    ValueError: If the number of bits is out of range.
  """
  declared = ACTIVATION_QUANTIZERS[config.activation_quantizer]
  return declared.make(subset(config, declared.reads))


def network_keys(config: ConfigDict) -> tuple[str, ...]:
  """Returns the names of the keys that the network of a run depends on."""
  return (
    'network',
    *NETWORKS[config.network].reads,
    'activation_quantizer',
    *ACTIVATION_QUANTIZERS[config.activation_quantizer].reads,
  )


def make_network(config: ConfigDict, num_classes: int) -> Any:
  """Makes the Linen module that `config.network` names.

  Raises:
    ValueError: If a value is out of the range of the network.
  """
  declared = NETWORKS[config.network]
  return declared.make(
    subset(config, declared.reads), num_classes, make_activation(config)
  )
