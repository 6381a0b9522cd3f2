"""Networks and the quantizers of their activations."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from ml_collections import ConfigDict

import mq_jax
from experiments.build.key import subset
from mq_jax import activations, models

# NumPy knows these names, so that data sets need not import this table.
DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}


class ActivationQuantizer(NamedTuple):
  """The declaration of a quantizer of the inputs of layers.

  Attributes:
    make: `(keys) -> mq_jax.Activation`, or None for no quantization.
    reads: Configuration keys that it depends on.
  """

  make: Callable[[ConfigDict], mq_jax.Activation | None]
  reads: tuple[str, ...] = ()


def _with_bits(
  make: Callable[[int], mq_jax.Activation], *more: str
) -> ActivationQuantizer:
  """Declares a quantizer with `config.activation_bits` bits and more keys."""
  return ActivationQuantizer(
    lambda keys: make(keys.activation_bits), ('activation_bits', *more)
  )


NUMBER_STARTS = ('constant', 'measured')


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
  'absmax': _with_bits(
    lambda bits: mq_jax.Activation(activations.absmax(bits), signed=True)
  ),
  'dorefa': _with_bits(
    lambda bits: mq_jax.Activation(activations.dorefa_activation(bits))
  ),
  'hwgq': _with_bits(lambda bits: mq_jax.Activation(activations.hwgq(bits))),
  # PACT starts with a clip of 10.
  'pact': _with_bits(
    lambda bits: mq_jax.Activation(activations.pact(bits), start=10.0),
    'activation_start',
  ),
  # LSQ starts with 2 E|x| / √(levels). E|x| is 0.4 for a rectified normal
  # distribution.
  'lsq': _with_bits(
    lambda bits: mq_jax.Activation(
      activations.lsq_activation(bits), start=0.8 / (2**bits - 1) ** 0.5
    ),
    'activation_start',
  ),
}


class Network(NamedTuple):
  """The declaration of a network.

  Attributes:
    make: `(keys, num_classes, activation) -> Linen module`.
    reads: Configuration keys that it depends on.
    inputs: What it maps to logits: 'images' or 'tokens'.
    stacked: Regular expression of the kernels that are quantized, if their
      first axis is that of layers; '' if every kernel is one layer.
    ends: Regular expression of further leaves, which `config.quantize_ends`
      quantizes.
  """

  make: Callable[[ConfigDict, int, mq_jax.Activation | None], Any]
  reads: tuple[str, ...] = ('head_norm', 'dtype')
  inputs: str = 'images'
  stacked: str = ''
  ends: str = ''


def _network(name: str, *options: str, norm: bool = True) -> Network:
  """Declares a network of `mq_jax.models`.

  Args:
    name: Name of the function that makes the network.
    *options: Further arguments of the function, which keys of the same names
      give.
    norm: The network can have a norm after its last layer.
  """
  if norm:
    options = ('head_norm', *options)
  return Network(
    lambda keys, num_classes, activation: getattr(models, name)(
      num_classes=num_classes,
      dtype=DTYPES[keys.dtype],
      activation=activation,
      **{option: keys[option] for option in options},
    ),
    ('dtype', *options),
  )


# The networks for CIFAR, then those for ImageNet.
_DEPTHS = (8, 20, 32, 44, 56, 110, 18, 34, 50)
_NAMES = (*(f'resnet{depth}' for depth in _DEPTHS), 'vgg_small', 'labnet')
NETWORKS = {name: _network(name) for name in _NAMES} | {
  'mobilenet_v2': _network('mobilenet_v2', 'width', 'padding'),
  'gpt': _network(
    'gpt', 'depth', 'embed_dim', 'heads', 'tied', norm=False
  )._replace(
    inputs='tokens',
    stacked='blocks/.*/kernel',
    ends='embed/embedding|head/kernel',
  ),
}


def make_activation(config: ConfigDict) -> mq_jax.Activation | None:
  """Makes the quantizer that `config.activation_quantizer` names, if any.

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


def network_options(config: ConfigDict) -> dict[str, str]:
  """Returns the keys beside its name that a network's weights belong to.

  Model files record them as text. The keys are those that the network reads,
  without `dtype`: parameters are the same for every type of computation.
  """
  reads = NETWORKS[config.network].reads
  return {key: str(config[key]) for key in reads if key != 'dtype'}


def make_network(config: ConfigDict, num_classes: int) -> Any:
  """Makes the Linen module that `config.network` names.

  Raises:
    ValueError: If a value is out of the range of the network.
  """
  declared = NETWORKS[config.network]
  return declared.make(
    subset(config, declared.reads), num_classes, make_activation(config)
  )
