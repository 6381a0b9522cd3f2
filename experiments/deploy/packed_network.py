"""Networks with packed weights: what they say of themselves, and their logits.

The metadata of the packed parameters names the network and what comes before
it, so that the file is enough to run it.
"""

import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

import mq_jax
from experiments.build.networks import DTYPES, make_network, network_keys
from experiments.build.schema import default_config
from experiments.common.errors import InvalidError
from experiments.data import batches
from experiments.data.on_device import ImageSet

Array = jax.Array


def described(
  config: ConfigDict, dataset: ImageSet, count_bits: bool = False
) -> dict[str, str]:
  """What the file of a packed network says of it.

  Args:
    config: Of the run.
    dataset: Of the run.
    count_bits: Whether convolutions of ±1 with ±1 count bits.
  """
  return {
    'network': json.dumps({key: config[key] for key in network_keys(config)}),
    'count_bits': json.dumps(count_bits),
    'pixels': json.dumps({'mean': dataset.mean, 'std': dataset.std}),
    'images': json.dumps(dataset.test_images.shape[1:]),
    'classes': json.dumps(dataset.class_names),
    'quantizer': config.quantizer,
  }


def logits_of(
  packed: mq_jax.PackedParams,
) -> Callable[[Array], Array]:
  """The network as a pure function, to be jitted or exported.

  Args:
    packed: Folded parameters, with the metadata of `described`.

  Returns:
    `(images) -> logits`: uint8 of shape (N, height, width, 3) to float32 of
    shape (N, classes). The weights are unpacked within.
  """
  told = packed.metadata
  config = default_config()
  config.update(json.loads(told['network']))
  net = make_network(config, len(json.loads(told['classes'])))
  if json.loads(told['count_bits']):
    net = net.clone(count_bits=True)
  pixels = json.loads(told['pixels'])

  def logits(images: Array) -> Array:
    images = batches.normalised(
      images, pixels['mean'], pixels['std'], DTYPES[config.dtype]
    )
    variables = {
      'params': mq_jax.unpack(packed),
      'batch_stats': packed.model_state,
    }
    return net.apply(variables, images, train=False)

  return logits


def load(path: pathlib.Path) -> tuple[Any, tuple[int, int], tuple[str, ...]]:
  """Logits, height and width, and classes of a packed file's network.

  Raises:
    InvalidError: If it is damaged, or holds no network of ours.
  """
  try:
    packed = mq_jax.load_packed(path)
  except ValueError as error:
    raise InvalidError(str(error)) from error
  wanted = {'network', 'count_bits', 'pixels', 'images', 'classes'}
  missing = wanted - {*packed.metadata}
  if missing:
    raise InvalidError(
      f'{path} does not say what network it is: take one of'
      ' python -m experiments.deploy'
    )
  logits = jax.jit(logits_of(packed))
  height, width, _ = json.loads(packed.metadata['images'])
  classes = tuple(json.loads(packed.metadata['classes']))
  return lambda images: np.asarray(logits(images)), (height, width), classes
