"""Runs networks with packed weights.

The metadata of the packed parameters names the network and its preprocessing,
so that a file of packed parameters is enough to run the network.
"""

import json
import pathlib
from collections.abc import Callable

import jax
import numpy as np
from ml_collections import ConfigDict

import mq_jax
from experiments.build.networks import DTYPES, make_network, network_keys
from experiments.build.schema import recorded_config
from experiments.common.errors import InvalidError
from experiments.data import batches
from experiments.data.raw_images import Inputs
from experiments.deploy.artefact import Artefact, Logits, checked_resize

Array = jax.Array


def make_metadata(
  config: ConfigDict, inputs: Inputs, count_bits: bool = False
) -> dict[str, str]:
  """Returns the metadata of packed parameters, from which the network is built.

  Args:
    config: Configuration of the run.
    inputs: Images and classes of the data set of the run.
    count_bits: Compute convolutions of ±1 with ±1 by counting bits.
  """
  metadata = {
    'network': json.dumps({key: config[key] for key in network_keys(config)}),
    'count_bits': json.dumps(count_bits),
    'pixels': json.dumps({'mean': inputs.mean, 'std': inputs.std}),
    'images': json.dumps(inputs.shape),
    'classes': json.dumps(inputs.classes),
    'quantizer': config.quantizer,
  }
  if inputs.resize is not None:
    metadata['resize'] = json.dumps(inputs.resize)
  return metadata


def make_logits(packed: mq_jax.PackedParams) -> Callable[[Array], Array]:
  """Returns the network as a pure function, which can be jitted or exported.

  Args:
    packed: Parameters with the metadata of `make_metadata`.

  Returns:
    `(images) -> logits`: uint8 of shape (N, height, width, 3) to float32 of
    shape (N, classes). The function unpacks the weights.
  """
  metadata = packed.metadata
  config = recorded_config(
    json.loads(metadata['network']), 'The file of the network'
  )
  net = make_network(config, len(json.loads(metadata['classes'])))
  if json.loads(metadata['count_bits']):
    net = net.clone(count_bits=True)
  pixels = json.loads(metadata['pixels'])

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


def compiled_logits(packed: mq_jax.PackedParams) -> Logits:
  """Returns the function of `make_logits`, compiled, for NumPy arrays."""
  logits = jax.jit(make_logits(packed))
  return lambda images: np.asarray(logits(images))


def load(path: pathlib.Path) -> Artefact:
  """Loads the network in a file of packed parameters.

  Raises:
    InvalidError: If the file is damaged or does not describe its network.
  """
  try:
    packed = mq_jax.load_packed(path)
  except ValueError as error:
    raise InvalidError(str(error)) from error
  required = {'network', 'count_bits', 'pixels', 'images', 'classes'}
  if not required <= packed.metadata.keys():
    raise InvalidError(
      f'{path} does not describe its network. Use a file that'
      ' python -m experiments.deploy wrote.'
    )
  height, width, _ = json.loads(packed.metadata['images'])
  classes = tuple(json.loads(packed.metadata['classes']))
  resize = checked_resize(
    json.loads(packed.metadata.get('resize', 'null')), (height, width)
  )
  return Artefact(compiled_logits(packed), (height, width), classes, resize)
